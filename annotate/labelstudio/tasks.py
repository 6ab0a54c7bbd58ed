"""Make and find Label Studio tasks and predictions, and write the labelling config.

A task has its frame's external id: the same frame has the same id, whoever pushes it. The config
offers boxes, polygons and brush masks in the colours of the overlays.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from annotate.dataset.folder import Dataset, external_id
from annotate.errors import StudioError
from annotate.items.records import Item
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.regions import IMAGE_TAG, Region
from annotate.palette import class_colours

_CONTROL_TAGS = {"box": "RectangleLabels", "polygon": "PolygonLabels", "brush": "BrushLabels"}
# By class; the other letters are those of the editor's own tools.
_HOTKEYS = {"box": "1234567890", "polygon": "asdfg", "brush": "qtyilnjcxz"}
_HEADERS = {"box": "Boxes", "polygon": "Outlines", "brush": "Masks"}
_CONTROL_OPTIONS = {"box": {"canRotate": "false"}, "polygon": {"opacity": "0.3"}, "brush": {}}
VIDEO_TAG, TRACKS_TAG, TRACK_LABELS_TAG = "video", "track", "label"


def image_config(classes: Sequence[str]) -> str:
    """A config in which a person draws boxes, polygons and masks of the classes."""
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
    """A config in which a person follows the classes through a video, box by box."""
    view = ET.Element("View")
    labels = ET.SubElement(view, "Labels", name=TRACK_LABELS_TAG, toName=VIDEO_TAG)
    _add_labels(labels, classes, classes, _HOTKEYS["box"])
    ET.SubElement(view, "Video", name=VIDEO_TAG, value=f"${VIDEO_TAG}", framerate="$fps")
    ET.SubElement(view, "VideoRectangle", name=TRACKS_TAG, toName=VIDEO_TAG)
    return _to_xml(view)


def config_labels(config: str) -> list[str]:
    """The labels that a config offers, in its order."""
    found = (label.get("value") or "" for label in _parse_config(config).iter("Label"))
    return list(dict.fromkeys(found))


def complete_config(config: str, classes: Sequence[str], template: str) -> str:
    """A config that a person may have edited, with the classes that it lacks; all else as it was.

    `wanted` is the config that we would have written: its controls must be there.

    Raises:
        StudioError: a control is gone, has another name or another tag.
    """
    view = _parse_config(config)
    for control in _parse_config(template).iter():
        if (name := control.get("name")) is None:
            continue
        there = next((each for each in view.iter(control.tag) if each.get("name") == name), None)
        if there is None:
            raise StudioError(
                f'the labelling config has no <{control.tag} name="{name}"> any more; put it back '
                "in Settings > Labeling Interface, or push to another --project"
            )
        if control.find("Label") is not None:
            own = {label.get("value") for label in there.iter("Label")}
            _add_labels(there, [label for label in classes if label not in own], classes, "")
    return _to_xml(view)


def same_config(one: str, other: str) -> bool:
    """Whether two configs say the same, however they are indented."""
    return ET.canonicalize(one, strip_text=True) == ET.canonicalize(other, strip_text=True)


def _add_labels(
    control: ET.Element, new_labels: Sequence[str], classes: Sequence[str], hotkeys: str
) -> None:
    colours = class_colours(classes)
    for label in new_labels:
        place = classes.index(label)
        told = {"value": label, "background": colours[place].hex}
        told |= {"hotkey": hotkeys[place]} if place < len(hotkeys) else {}
        ET.SubElement(control, "Label", told)


def _parse_config(config: str) -> ET.Element:
    try:
        return ET.fromstring(config)
    except ET.ParseError as error:
        raise StudioError(f"the labelling config is no XML: {error}") from None


def _to_xml(view: ET.Element) -> str:
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


Task = dict[str, Any]
_T = TypeVar("_T")
MODEL_VERSION = "annotate"  # one name for all: the editor shows those which the project names
STATE_COLUMNS = "id,data,updated_at,total_annotations,cancelled_annotations,draft_exists"
_ACTION_BATCH = 500  # tasks of which an action takes hold
_MAX_URL_BYTES = 6000  # for names: proxies take addresses of 8 kB, and a list is part of one


def task_data(dataset: Dataset, item: Item) -> dict[str, Any]:
    """What a task tells of its frame, but for where its picture is."""
    return {
        "ext_id": external_id(dataset, item.video, item.frame),
        "video": item.video,
        "frame": item.frame,
        "width": item.width,
        "height": item.height,
    }


def prediction(regions: Sequence[Region]) -> dict[str, Any]:
    """Regions as the prediction of a task; its score is that of its least sure region."""
    scores = [region["score"] for region in regions if "score" in region]
    told = {"model_version": MODEL_VERSION, "result": list(regions)}
    return told | ({"score": min(scores)} if scores else {})


def find_tasks(server: StudioClient, project: int, ext_ids: Sequence[str]) -> dict[str, list[Task]]:
    """External id -> the tasks which have it: one, none, or several after a mishap."""
    found: dict[str, list[Task]] = {}
    for asked in _url_batches(ext_ids):
        filters = [
            {
                "filter": "filter:tasks:data.ext_id",
                "operator": "in_list",
                "type": "List",
                "value": asked,
            }
        ]
        for task in server.tasks(project, STATE_COLUMNS, filters):
            found.setdefault(task["data"]["ext_id"], []).append(task)
    return found


def _url_batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Some names at a time: as many as an address may hold, that of a proxy too."""
    some: list[str] = []
    room = _MAX_URL_BYTES
    for name in names:
        size = len(quote(json.dumps(name))) + 6  # a comma and a space
        if some and size > room:
            yield some
            some, room = [], _MAX_URL_BYTES
        some.append(name)
        room -= size
    if some:
        yield some


def chunks(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Some at a time, in order."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def task_status(task: Task) -> str:
    """What a person has done to a task: annotated, skipped, begun, or nothing."""
    if task["total_annotations"]:
        return "annotated"
    if task["cancelled_annotations"]:
        return "skipped"
    return "begun" if task["draft_exists"] else ""


def bulk_action(server: StudioClient, project: int, action: str, task_ids: Iterable[int]) -> None:
    """Do one of the Data Manager's actions to tasks, some hundreds at a time."""
    for some in chunks(task_ids, _ACTION_BATCH):
        chosen = {"all": False, "included": some}
        server.send(
            "POST",
            "/api/dm/actions",
            {"selectedItems": chosen},
            params={"id": action, "project": project},
        )


def same_predictions(predictions: Iterable[Mapping[str, Any]], regions: Sequence[Region]) -> bool:
    """Whether the predictions of a task are one, of these regions: their ids say what they are."""
    found = list(predictions)
    if len(found) != 1:
        return False
    kinds = [(region["id"], region["type"]) for region in regions]
    return [(each["id"], each["type"]) for each in found[0]["result"]] == kinds
