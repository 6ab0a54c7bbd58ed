"""Make and find Label Studio tasks and predictions, and write the labelling config.

A task has the external id of its frame, which is the same for every push of the frame. The config
offers boxes, polygons and brush masks in the colours of the overlays.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from annotate.dataset.folder import Dataset, external_id
from annotate.errors import StudioError
from annotate.items.records import Item
from annotate.items.sequences import chunks
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.regions import IMAGE_TAG, Region
from annotate.palette import class_colours

_CONTROL_TAGS = {"box": "RectangleLabels", "polygon": "PolygonLabels", "brush": "BrushLabels"}
# One per class; the letters that are left out are hotkeys of the editor's tools.
_HOTKEYS = {"box": "1234567890", "polygon": "asdfg", "brush": "qtyilnjcxz"}
_HEADERS = {"box": "Boxes", "polygon": "Outlines", "brush": "Masks"}
_CONTROL_OPTIONS = {"box": {"canRotate": "false"}, "polygon": {"opacity": "0.3"}, "brush": {}}
VIDEO_TAG, TRACKS_TAG, TRACK_LABELS_TAG = "video", "track", "label"
Task = dict[str, Any]
MODEL_VERSION = "annotate"  # of all predictions: a project shows those of one version
STATE_COLUMNS = "id,data,updated_at,total_annotations,cancelled_annotations,draft_exists"
_ACTION_BATCH = 500  # tasks per bulk action
_MAX_URL_BYTES = 6000  # of external ids in a URL; proxies accept URLs of 8 kB


def image_config(classes: Sequence[str]) -> str:
    """Make a labelling config for images: boxes, polygons and brush masks of the classes."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name=IMAGE_TAG, value=f"${IMAGE_TAG}", zoom="true")
    row = ET.SubElement(view, "View", style="display: flex; gap: 2em")
    for name, tag in _CONTROL_TAGS.items():
        column = ET.SubElement(row, "View")
        ET.SubElement(column, "Header", value=_HEADERS[name], size="6")
        control = ET.SubElement(
            column, tag, {"name": name, "toName": IMAGE_TAG, **_CONTROL_OPTIONS[name]}
        )
        _add_labels(control, classes, classes, _HOTKEYS[name])
    return _to_xml(view)


def video_config(classes: Sequence[str]) -> str:
    """Make a labelling config for videos: tracks of boxes of the classes."""
    view = ET.Element("View")
    labels = ET.SubElement(view, "Labels", name=TRACK_LABELS_TAG, toName=VIDEO_TAG)
    _add_labels(labels, classes, classes, _HOTKEYS["box"])
    ET.SubElement(view, "Video", name=VIDEO_TAG, value=f"${VIDEO_TAG}", framerate="$fps")
    ET.SubElement(view, "VideoRectangle", name=TRACKS_TAG, toName=VIDEO_TAG)
    return _to_xml(view)


def config_labels(config: str) -> list[str]:
    """List the labels of a config, in its order."""
    labels = (label.get("value") or "" for label in _parse_config(config).iter("Label"))
    return list(dict.fromkeys(labels))


def complete_config(config: str, classes: Sequence[str], template: str) -> str:
    """Add the missing classes to a config that a person may have edited, and change nothing else.

    `template` is the config of a new project; all its controls must be in `config`.

    Raises:
        StudioError: a control is missing, or has another name or tag.
    """
    view = _parse_config(config)
    for control in _parse_config(template).iter():
        if (name := control.get("name")) is None:
            continue
        edited = next((each for each in view.iter(control.tag) if each.get("name") == name), None)
        if edited is None:
            raise StudioError(
                f'the labelling config has no <{control.tag} name="{name}"> any more; put it back '
                "in Settings > Labeling Interface, or push to another `project`"
            )
        if control.find("Label") is not None:
            present = {label.get("value") for label in edited.iter("Label")}
            _add_labels(edited, [label for label in classes if label not in present], classes, "")
    return _to_xml(view)


def same_config(one: str, other: str) -> bool:
    """Return whether two configs are equal, apart from white space."""
    return ET.canonicalize(one, strip_text=True) == ET.canonicalize(other, strip_text=True)


def _add_labels(
    control: ET.Element, new_labels: Sequence[str], classes: Sequence[str], hotkeys: str
) -> None:
    colours = class_colours(classes)
    for label in new_labels:
        class_id = classes.index(label)
        attributes = {"value": label, "background": colours[class_id].hex}
        attributes |= {"hotkey": hotkeys[class_id]} if class_id < len(hotkeys) else {}
        ET.SubElement(control, "Label", attributes)


def _parse_config(config: str) -> ET.Element:
    try:
        return ET.fromstring(config)
    except ET.ParseError as error:
        raise StudioError(f"the labelling config is not XML: {error}") from None


def _to_xml(view: ET.Element) -> str:
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def task_data(dataset: Dataset, item: Item) -> dict[str, Any]:
    """Make the data of a task, without the URL of its image."""
    return {
        "ext_id": external_id(dataset, item.video, item.frame),
        "video": item.video,
        "frame": item.frame,
        "width": item.width,
        "height": item.height,
    }


def prediction(regions: Sequence[Region]) -> dict[str, Any]:
    """Make the prediction of a task; its score is the lowest score of its regions."""
    scores = [region["score"] for region in regions if "score" in region]
    record = {"model_version": MODEL_VERSION, "result": list(regions)}
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


def same_predictions(predictions: Iterable[Mapping[str, Any]], regions: Sequence[Region]) -> bool:
    """Return whether a task has one prediction, with regions of the same ids and types.

    The id of a region is made from the content of its object.
    """
    current = list(predictions)
    if len(current) != 1:
        return False
    expected = [(region["id"], region["type"]) for region in regions]
    return [(each["id"], each["type"]) for each in current[0]["result"]] == expected
