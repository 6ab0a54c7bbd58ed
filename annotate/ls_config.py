"""The labelling config of a project: boxes, polygons and brush in the colours of our overlays."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from annotate.errors import StudioError
from annotate.palette import palette
from annotate.regions import PICTURE

_TAGS = {"box": "RectangleLabels", "polygon": "PolygonLabels", "brush": "BrushLabels"}
# By class; the other letters are those of the editor's own tools.
_KEYS = {"box": "1234567890", "polygon": "asdfg", "brush": "qtyilnjcxz"}
_TITLES = {"box": "Boxes", "polygon": "Outlines", "brush": "Masks"}
_OPTIONS = {"box": {"canRotate": "false"}, "polygon": {"opacity": "0.3"}, "brush": {}}
VIDEO, TRACKS, TRACK_LABELS = "video", "track", "label"


def for_pictures(classes: Sequence[str]) -> str:
    """A config in which a person draws boxes, polygons and masks of the classes."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name=PICTURE, value=f"${PICTURE}", zoom="true")
    row = ET.SubElement(view, "View", style="display: flex; gap: 2em")
    for name, tag in _TAGS.items():
        column = ET.SubElement(row, "View")
        ET.SubElement(column, "Header", value=_TITLES[name], size="6")
        control = ET.SubElement(column, tag, {"name": name, "toName": PICTURE, **_OPTIONS[name]})
        _add_labels(control, classes, classes, _KEYS[name])
    return _text(view)


def for_video(classes: Sequence[str]) -> str:
    """A config in which a person follows the classes through a video, box by box."""
    view = ET.Element("View")
    labels = ET.SubElement(view, "Labels", name=TRACK_LABELS, toName=VIDEO)
    _add_labels(labels, classes, classes, _KEYS["box"])
    ET.SubElement(view, "Video", name=VIDEO, value=f"${VIDEO}", framerate="$fps")
    ET.SubElement(view, "VideoRectangle", name=TRACKS, toName=VIDEO)
    return _text(view)


def labels(config: str) -> list[str]:
    """The labels that a config offers, in its order."""
    found = (label.get("value") or "" for label in _parse(config).iter("Label"))
    return list(dict.fromkeys(found))


def completed(config: str, classes: Sequence[str], wanted: str) -> str:
    """A config that a person may have edited, with the classes that it lacks; all else as it was.

    `wanted` is the config that we would have written: its controls must be there.

    Raises:
        StudioError: a control is gone, has another name or another tag.
    """
    view = _parse(config)
    for control in _parse(wanted).iter():
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
    return _text(view)


def same(one: str, other: str) -> bool:
    """Whether two configs say the same, however they are indented."""
    return ET.canonicalize(one, strip_text=True) == ET.canonicalize(other, strip_text=True)


def _add_labels(control: ET.Element, new: Sequence[str], classes: Sequence[str], keys: str) -> None:
    colours = palette(classes)
    for label in new:
        place = classes.index(label)
        told = {"value": label, "background": colours[place].hex}
        told |= {"hotkey": keys[place]} if place < len(keys) else {}
        ET.SubElement(control, "Label", told)


def _parse(config: str) -> ET.Element:
    try:
        return ET.fromstring(config)
    except ET.ParseError as error:
        raise StudioError(f"the labelling config is no XML: {error}") from None


def _text(view: ET.Element) -> str:
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")
