"""Make and find Label Studio tasks and predictions, and write the labelling config.

A task has the external id of its frame, which is the same for every push of the frame. The config
offers boxes, polygons and brush masks in the colours of the overlays.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from annotate.dataset.folder import Dataset, Sample, external_id
from annotate.dataset.frame_sources import FrameKey
from annotate.errors import StudioError
from annotate.items.records import Item
from annotate.items.sequences import chunks
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.regions import IMAGE_TAG, Region
from annotate.palette import class_colours

VIDEO_TAG, TRACKS_TAG, TRACK_LABELS_TAG = "video", "track", "label"
_CONTROL_TAGS = {"box": "RectangleLabels", "brush": "BrushLabels", "polygon": "PolygonLabels"}
# The first for the first class, and so on. None is a key of the editor: its tools have letters, and
# shift with 1, 2 and R.
_HOTKEYS = {
    "box": list("1234567890"),
    "polygon": [*"asdfg", *(f"shift+{key}" for key in "asdfg")],
    "brush": list("qtyilnjcxz"),
}
_HOTKEYS[TRACK_LABELS_TAG] = _HOTKEYS["box"]
# A label without a hotkey gets one from the editor, which may be that of a tool. No key is a space
# in the editor's table of keys.
_NO_HOTKEY = " "
_ROW_STYLE = "display: flex; gap: 1em; align-items: flex-start"
_LABELS_STYLE = "flex: 0 0 13em; max-height: calc(100vh - 14em); overflow: auto"
_PICTURE_STYLE = "flex: 1; min-width: 0"
_HEADERS = {"box": "Boxes", "polygon": "Outlines", "brush": "Masks"}
_CONTROL_OPTIONS = {"box": {"canRotate": "false"}, "polygon": {"opacity": "0.3"}, "brush": {}}
Task = dict[str, Any]
MODEL_VERSION = "annotate"  # of predictions, by default: a project shows those of one version
RANK_KEYS = ("rank", "why", "worth")  # in the data of a task that a list of frames names
_RANK_TAB = "By rank"
STATE_COLUMNS = "id,data,updated_at,total_annotations,cancelled_annotations,draft_exists"
_ACTION_BATCH = 500  # tasks per bulk action
_MAX_URL_BYTES = 6000  # of external ids in a URL; proxies accept URLs of 8 kB


@dataclass(frozen=True)
class PushPart:
    """Which frames of a dataset are pushed: those of `ranks` with an object of `labels`.

    None is all. `ranks` has the data of each listed frame: see `RANK_KEYS`.
    """

    ranks: Mapping[FrameKey, Mapping[str, Any]] | None = None
    labels: Collection[str] | None = None

    def samples(self, dataset: Dataset) -> Iterator[Sample]:
        """Iterate over the samples of the part."""
        for sample in dataset:
            item = sample.item
            if self.ranks is not None and (item.video, item.frame) not in self.ranks:
                continue
            if self.labels is None or any(obj.label in self.labels for obj in item.objects):
                yield sample


def image_config(classes: Sequence[str]) -> str:
    """Make a labelling config for images: boxes, polygons and brush masks of the classes.

    The labels are beside the picture, so that both fit on a screen.
    """
    view = ET.Element("View", style=_ROW_STYLE)
    column = ET.SubElement(view, "View", style=_LABELS_STYLE)
    for name, tag in _CONTROL_TAGS.items():
        ET.SubElement(column, "Header", value=_HEADERS[name], size="6")
        control = ET.SubElement(
            column, tag, {"name": name, "toName": IMAGE_TAG, **_CONTROL_OPTIONS[name]}
        )
        _add_labels(control, classes, classes)
    picture = ET.SubElement(view, "View", style=_PICTURE_STYLE)
    ET.SubElement(
        picture, "Image", name=IMAGE_TAG, value=f"${IMAGE_TAG}", zoom="true", defaultZoom="auto"
    )
    return _to_xml(view)


def video_config(classes: Sequence[str]) -> str:
    """Make a labelling config for videos: tracks of boxes of the classes."""
    view = ET.Element("View")
    labels = ET.SubElement(view, "Labels", name=TRACK_LABELS_TAG, toName=VIDEO_TAG)
    _add_labels(labels, classes, classes)
    ET.SubElement(view, "Video", name=VIDEO_TAG, value=f"${VIDEO_TAG}", framerate="$fps")
    ET.SubElement(view, "VideoRectangle", name=TRACKS_TAG, toName=VIDEO_TAG)
    return _to_xml(view)


def config_labels(config: str) -> list[str]:
    """List the labels of a config, in its order."""
    labels = (label.get("value") or "" for label in _parse_config(config).iter("Label"))
    return list(dict.fromkeys(labels))


def complete_config(config: str, classes: Sequence[str], template: str) -> str:
    """Add the missing classes, and missing hotkeys, to a config that a person may have edited.

    `template` is the config of a new project; all its controls must be in `config`. A config
    without controls, as that of an empty project made in the browser, becomes the template.

    Raises:
        StudioError: a control is missing, or has another name or tag.
    """
    view = _parse_config(config)
    if not any(each.get("toName") for each in view.iter()):
        return template
    controls = [each for each in _parse_config(template).iter() if each.get("name") is not None]
    edited = {control: _find_control(view, control) for control in controls}
    missing = [f'<{each.tag} name="{each.get("name")}">' for each in controls if not edited[each]]
    if len(missing) == len(controls):
        raise StudioError(
            f"its labelling config is for other work: it has no {', '.join(missing)}; push to "
            "another `project`, or put <View></View> in Settings > Labeling Interface > Code, and "
            "push again"
        )
    if missing:
        raise StudioError(
            f"the labelling config has no {missing[0]} any more; put it back in Settings > "
            "Labeling Interface, or push to another `project`"
        )
    for control, [found] in edited.items():
        if control.find("Label") is not None:
            present = {label.get("value") for label in found.iter("Label")}
            _add_labels(found, [label for label in classes if label not in present], classes)
    return _to_xml(view)


def _find_control(view: ET.Element, control: ET.Element) -> list[ET.Element]:
    """Find the element of a config that has the tag and name of `control`: one or none."""
    found = [each for each in view.iter(control.tag) if each.get("name") == control.get("name")]
    return found[:1]


def same_config(one: str, other: str) -> bool:
    """Return whether two configs are equal, apart from white space."""
    return ET.canonicalize(one, strip_text=True) == ET.canonicalize(other, strip_text=True)


def _add_labels(control: ET.Element, new_labels: Sequence[str], classes: Sequence[str]) -> None:
    colours = class_colours(classes)
    for label in new_labels:
        ET.SubElement(control, "Label", value=label, background=colours[classes.index(label)].hex)
    _set_hotkeys(control)


def _set_hotkeys(control: ET.Element) -> None:
    """Set a hotkey for each label that has none: a free one by the label's place, or no key."""
    hotkeys = _HOTKEYS.get(control.get("name", ""), ())
    labels = list(control.iter("Label"))
    used = {label.get("hotkey") for label in labels}
    for number, label in enumerate(labels):
        if label.get("hotkey") is None:
            key = hotkeys[number] if number < len(hotkeys) else _NO_HOTKEY
            label.set("hotkey", _NO_HOTKEY if key in used else key)
            used.add(key)


def _parse_config(config: str) -> ET.Element:
    try:
        return ET.fromstring(config)
    except ET.ParseError as error:
        raise StudioError(f"the labelling config is not XML: {error}") from None


def _to_xml(view: ET.Element) -> str:
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def task_data(
    dataset: Dataset, item: Item, rank: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make the data of a task, without the URL of its image.

    `score` is the lowest of the objects. `rank` is what a list of frames has: see `RANK_KEYS`.
    """
    scores = [obj.score for obj in item.objects if obj.score is not None]
    data = {
        "ext_id": external_id(dataset, item.video, item.frame),
        "video": item.video,
        "clip": item.video,
        "frame": item.frame,
        "seconds": round(float(item.seconds), 3),
        "width": item.width,
        "height": item.height,
    }
    return data | ({"score": min(scores)} if scores else {}) | dict(rank or {})


def prediction(regions: Sequence[Region], model_version: str = MODEL_VERSION) -> dict[str, Any]:
    """Make the prediction of a task; its score is the lowest score of its regions."""
    scores = [region["score"] for region in regions if "score" in region]
    record = {"model_version": model_version, "result": list(regions)}
    return record | ({"score": min(scores)} if scores else {})


def find_tasks(client: StudioClient, project: int, ext_ids: Sequence[str]) -> dict[str, list[Task]]:
    """Find the tasks of external ids; after a lost response an id may have several tasks."""
    tasks: dict[str, list[Task]] = {}
    for batch in _url_batches(ext_ids):
        filters = [
            {
                "filter": "filter:tasks:data.ext_id",
                "operator": "in_list",
                "type": "List",
                "value": batch,
            }
        ]
        for task in client.tasks(project, STATE_COLUMNS, filters):
            tasks.setdefault(task["data"]["ext_id"], []).append(task)
    return tasks


def _url_batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Batch external ids, so that each batch fits into a URL."""
    batch: list[str] = []
    free_bytes = _MAX_URL_BYTES
    for name in names:
        size = len(quote(json.dumps(name))) + 6  # a comma and a space
        if batch and size > free_bytes:
            yield batch
            batch, free_bytes = [], _MAX_URL_BYTES
        batch.append(name)
        free_bytes -= size
    if batch:
        yield batch


def task_status(task: Task) -> str:
    """Return what a person did to a task: annotated, skipped, begun (a draft), or ""."""
    if task["total_annotations"]:
        return "annotated"
    if task["cancelled_annotations"]:
        return "skipped"
    return "begun" if task["draft_exists"] else ""


def bulk_action(client: StudioClient, project: int, action: str, task_ids: Iterable[int]) -> None:
    """Apply an action of the Data Manager to tasks, in batches."""
    for batch in chunks(task_ids, _ACTION_BATCH):
        body = {"selectedItems": {"all": False, "included": batch}}
        params = {"id": action, "project": project}
        client.send("POST", "/api/dm/actions", body, params=params)


def create_rank_tab(client: StudioClient, project: int) -> None:
    """Create the tab that shows the tasks with a rank, by their rank, unless it is there."""
    if any(
        each.get("data", {}).get("title") == _RANK_TAB
        for each in client.get("/api/dm/views/", {"project": project})
    ):
        return
    column = "tasks:data.rank"
    data = {
        "title": _RANK_TAB,
        "type": "list",
        "target": "tasks",
        "ordering": [column],
        "columnsDisplayType": {column: "Number"},  # else the server sorts 10 before 9
        "filters": {"conjunction": "and", "items": [_HAS_RANK]},
    }
    client.send("POST", "/api/dm/views/", {"project": project, "data": data})


_HAS_RANK = {
    "filter": "filter:tasks:data.rank",
    "operator": "empty",
    "type": "Number",
    "value": "false",
}


def update_ranks(
    client: StudioClient, project: int, ranks: Mapping[str, Mapping[str, Any]]
) -> None:
    """Set the ranks of the tasks of a project, by external id, and remove those of others.

    Tasks that a person has worked on keep what they have.
    """
    found = find_tasks(client, project, list(ranks))
    tasks = {task["id"]: task for same in found.values() for task in same}
    tasks |= {task["id"]: task for task in client.tasks(project, STATE_COLUMNS, [_HAS_RANK])}
    for task_id, task in tasks.items():
        data = {key: value for key, value in task["data"].items() if key not in RANK_KEYS}
        data |= ranks.get(task["data"].get("ext_id", ""), {})
        if data != task["data"] and not task_status(task):
            client.send("PATCH", f"/api/tasks/{task_id}/", {"data": data})


def same_predictions(
    predictions: Iterable[Mapping[str, Any]],
    regions: Sequence[Region],
    model_version: str = MODEL_VERSION,
) -> bool:
    """Return whether a task has one prediction, with regions of the same ids and types.

    The id of a region is made from the content of its object.
    """
    current = list(predictions)
    if len(current) != 1 or current[0]["model_version"] != model_version:
        return False
    expected = [(region["id"], region["type"]) for region in regions]
    return [(each["id"], each["type"]) for each in current[0]["result"]] == expected
