"""Files of items that are changed at random.

Every complete line is an item that can be written and read again, or the file is refused; a mask is
decoded to the pixels of its picture, or refused.
"""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged, fuzz, json_bytes, outcome

from annotate.items import journal, masks
from annotate.items.records import Header, item_from_json, item_to_json

RLE = dict(masks.encode(np.eye(48, 64, dtype=bool)))
MUG = {"label": "mug", "box": [1, 2, 30, 40], "score": 0.5, "track": 3, "mask": RLE}
PLATE = {"label": "plate", "box": [1.5, 2, 30, 40.25], "score": None, "source": "yoloe"}
PERSON = {"who": "a@b.c", "when": "2026-01-01", "region": "x"}
OBJECTS = [MUG, PLATE | {"flags": ["jump"], "phrase": "dish", "by": PERSON}]
ITEM = {"video": "dock.mp4", "frame": 5, "seconds": "5/2", "width": 64, "height": 48}
ITEMS = [
    ITEM | {"objects": OBJECTS, "lost": [4]},
    ITEM | {"frame": 6, "seconds": "3", "objects": [], "dropped": {"why": "duplicate", "frame": 5}},
]
CLIP = {"path": "/x/dock.mp4", "fingerprint": "5e1f", "frame_count": 9, "width": 64, "height": 48}
HEADER = Header(
    "detect", {"smallest": 25}, vocabulary={"labels": ["mug"]}, videos={"dock.mp4": CLIP}
)


@st.composite
def files(draw):
    """Draw a file of items: a header, items, perhaps an end; one of them may be changed."""
    records = [json.loads(HEADER.to_json()), *ITEMS, {"end": 2}]
    lines = [json.dumps(record).encode() for record in records]
    for number in draw(st.lists(st.integers(0, len(lines) - 1), max_size=2)):
        lines[number] = draw(json_bytes(records[number], 2)).replace(b"\n", b"")
    data = b"\n".join(lines) + b"\n"
    return draw(damaged(data, 2)) if draw(st.integers(0, 4)) == 0 else data


def _read(path):
    opened = journal.read(path)
    assert Header.from_json(opened.header.to_json(), "") == opened.header
    opened.header.to_json().encode(), opened.header.differences(HEADER)
    return list(opened)


@fuzz
@given(files())
def test_every_complete_line_is_an_item(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "boxes.jsonl"
    path.write_bytes(data)
    items = outcome(lambda: _read(path))
    if items is None:
        return
    complete = data[: data.rfind(b"\n")].split(b"\n")[1:]
    assert len(items) == sum(not line.startswith(b'{"end"') for line in complete)
    for item in items:
        assert item_from_json(item_to_json(item).encode().decode(), "") == item
        for mask in (obj.mask for obj in item.objects if obj.mask is not None):
            decoded = outcome(lambda mask=mask: (masks.decode(mask), masks.to_polygons(mask)))
            assert decoded is None or decoded[0].shape == (item.height, item.width)
