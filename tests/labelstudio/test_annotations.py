"""Results of annotations as people and scripts have saved them: read, or named and left out."""

import copy
import json
import resource
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from annotate.dataset.folder import Dataset, create_dataset, load_dataset
from annotate.errors import StudioError
from annotate.items import brush, masks
from annotate.items.records import Header, Item, Object, item_from_json, item_to_json
from annotate.labelstudio.annotations import (
    AnnotationReader,
    Verdict,
    correct_item,
    group_notes,
    read_result,
)
from annotate.labelstudio.regions import to_regions

SIZE = 1000, 500
ITEM = Item("dock.mp4", 5, Fraction(1, 6), *SIZE)
BOX = {"x": 10.0, "y": 10.0, "width": 30.0, "height": 20.0, "rotation": 0}
CAT = (100.0, 50.0, 400.0, 150.0)
FRAME = {"original_width": 1000, "original_height": 500, "image_rotation": 0, "to_name": "image"}
# 1000x500 RGBA pixels of 255
WHOLE_RLE = [0, 30, 132, 128, 57, 27, *[255] * 102, 225, 31, 255, 192]


def region(kind="rectanglelabels", value=None, name="r1", **fields):
    value = dict(BOX if value is None else value)
    return {"id": name, "type": kind, "from_name": "box", **FRAME, "value": value, **fields}


def rectangle(**changes):
    """A box with the label cat; a value of None removes its key."""
    value = {**BOX, "rectanglelabels": ["cat"], **changes}
    return region(value={key: side for key, side in value.items() if side != "absent"})


def polygon(*points, **changes):
    value = {"points": list(points), "closed": True, "polygonlabels": ["cat"], **changes}
    return region("polygonlabels", value, "p1")


def correct(result, item=ITEM):
    """Correct an item by a result, and check that what is written can be read."""
    verdict = read_result(json.loads(json.dumps(result)), "ada@example.com", "2026-01-02")
    corrected = correct_item(item, verdict)
    line = item_to_json(corrected)
    line.encode()
    assert item_from_json(line, "line") == corrected
    assert json.loads(line, parse_constant=pytest.fail)["objects"] is not None
    return corrected, list(verdict.remarks)


GOOD = rectangle()
WHOLE_IMAGE = [
    ("choices", {"choices": ["blurry"]}, ["blurry"]),
    ("textarea", {"text": ["two of them", "far"]}, ["two of them", "far"]),
    ("rating", {"rating": 4}, 4),
    ("number", {"number": 2.5}, 2.5),
    ("taxonomy", {"taxonomy": [["vehicle", "tank"]]}, [["vehicle", "tank"]]),
]


@pytest.mark.parametrize("kind, value, content", WHOLE_IMAGE)
def test_what_is_noted_of_the_whole_image_is_kept_beside_the_frame(kind, value, content):
    result = [
        GOOD,
        {"id": "c1", "type": kind, "from_name": "q", "to_name": "image", "value": value},
    ]
    item, remarks = correct(result)
    assert [obj.box for obj in item.objects] == [CAT] and item.attributes == {"q": content}
    assert len(remarks) == 1 and remarks[0].startswith(f"kept as an attribute of the frame: {kind}")


def test_several_answers_of_one_control_are_joined():
    text = {"type": "textarea", "from_name": "note", "to_name": "image"}
    item, _ = correct([{**text, "value": {"text": ["a"]}}, {**text, "value": {"text": ["b"]}}])
    assert item.attributes == {"note": ["a", "b"]} and not item.objects


def test_what_is_noted_of_a_region_is_named_and_its_frame_kept():
    answer = {"id": "r1", "type": "choices", "from_name": "q", "value": {**BOX, "choices": ["hid"]}}
    text = {"id": "r1", "type": "textarea", "from_name": "t", "value": {"text": ["left half"]}}
    relation = {"type": "relation", "from_id": "r1", "to_id": "r2", "direction": "right"}
    inside = rectangle(choices=["occluded"])
    item, remarks = correct([inside, answer, text, relation])
    assert [obj.box for obj in item.objects] == [CAT] and item.attributes is None
    assert remarks == [
        "not kept: choices = ['occluded'], on a region",
        "not kept: choices q = ['hid'], on a region",
        "not kept: textarea t = ['left half'], on a region",
        "not kept: a relation of two regions",
    ]


@pytest.mark.parametrize(
    "value", [None, [], {}, {"choices": None}, {"choices": [float("nan")]}, {"choices": "\ud800"}]
)
def test_an_answer_that_cannot_be_kept_is_named(value):
    item, [remark] = correct([GOOD, {"type": "choices", "from_name": "\ud800", "value": value}])
    assert item.attributes is None and remark.startswith("not kept: choices choices = ")
    remark.encode()


READ = {
    "no original size": {k: v for k, v in GOOD.items() if not k.startswith("original")},
    "sizes of null": {**GOOD, "original_width": None, "original_height": None},
    "sizes as text": {**GOOD, "original_width": "1000", "original_height": 500.0},
    "no from_name": {k: v for k, v in GOOD.items() if k != "from_name"},
    "no id": {k: v for k, v in GOOD.items() if k != "id"},
    "an id that is no text": {**GOOD, "id": {"a": [1]}},
    "numbers as text": rectangle(x="10", y="10.0", width="3e1", height="20"),
    "no rotation": rectangle(rotation="absent"),
    "rotation of null": rectangle(rotation=None),
    "label in another key": rectangle(rectanglelabels="absent", labels=["cat"]),
    "an id that cannot be written": {**GOOD, "id": "\ud800"},
}


@pytest.mark.parametrize("name", READ)
def test_a_region_that_others_write_differently_is_read(name):
    item, remarks = correct([READ[name]])
    assert [(obj.label, obj.box, obj.source) for obj in item.objects] == [("cat", CAT, "person")]
    assert item.objects[0].by["who"] == "ada@example.com" and not remarks


def test_a_mask_in_a_region_of_a_box_is_read_as_a_mask():
    value = {"rotation": 0, "rectanglelabels": ["cat"], "format": "rle", "rle": WHOLE_RLE}
    item, _ = correct([region(value=value)])
    assert masks.area(item.objects[0].mask) == 1000 * 500
    assert item.objects[0].box == (0, 0, 1000, 500)


def test_a_label_that_the_config_does_not_have_is_read():
    item, _ = correct([rectangle(rectanglelabels=["zebra"])])
    assert item.objects[0].label == "zebra"


nan, inf = float("nan"), float("inf")
EMPTY_RLE = brush.encode_brush(np.zeros(SIZE[::-1], bool))
SMALL_RLE = brush.encode_brush(np.ones((5, 5), bool))
ODD = {
    "null coordinates": [rectangle(x=None, y=None, width=None, height=None)],
    "a missing side": [rectangle(width="absent")],
    "a NaN": [rectangle(x=nan)],
    "an infinity": [rectangle(height=inf)],
    "a word for a number": [rectangle(x="left")],
    "a list for a number": [rectangle(x=[10])],
    "true for a number": [rectangle(x=True)],
    "1e8": [rectangle(x=1e8)],
    "1e308": [rectangle(width=1e308)],
    "a whole number of 400 digits": [rectangle(width=10**400)],
    "a side of 1e8": [rectangle(width=1e8)],
    "no area": [rectangle(width=0.0, height=0.0)],
    "no width": [rectangle(width=0)],
    "a width below a thousandth of a pixel": [rectangle(width=1e-6)],
    "outside": [rectangle(x=120.0)],
    "negative size": [rectangle(width=-30.0)],
    "a NaN for rotation": [rectangle(rotation=nan)],
    "text for rotation": [rectangle(rotation="left")],
    "null in a polygon": [polygon([10, 10], [None, 20], [10, 30])],
    "NaN in a polygon": [polygon([10, 10], [nan, 20], [10, 30])],
    "1e8 in a polygon": [polygon([10, 10], [1e8, 20], [10, 30])],
    "a polygon of two points": [polygon([10, 10], [20, 20])],
    "a polygon of no points": [polygon()],
    "a polygon of one point, three times": [polygon([10, 10], [10, 10], [10, 10])],
    "a polygon without points": [polygon(points=None)],
    "a flat polygon": [polygon(10, 10, 20, 20, 10, 30)],
    "points of three numbers": [polygon([1, 2, 3], [4, 5, 6], [7, 8, 9])],
    "points as text": [polygon("ab", "cd", "ef")],
    "an open polygon": [polygon([10, 10], [20, 20], [10, 30], closed=False)],
    "a mask of another size": [region("brushlabels", {"rle": SMALL_RLE, "brushlabels": ["cat"]})],
    "a mask cut short": [region("brushlabels", {"rle": WHOLE_RLE[:-3], "brushlabels": ["cat"]})],
    "a mask of text": [region("brushlabels", {"rle": "AAEC", "brushlabels": ["cat"]})],
    "a mask of one number": [region("brushlabels", {"rle": 10**10, "brushlabels": ["cat"]})],
    "a mask of null": [region("brushlabels", {"rle": None, "brushlabels": ["cat"]})],
    "a mask of large numbers": [region("brushlabels", {"rle": [256, 1], "brushlabels": ["cat"]})],
    "a mask of no bytes": [region("brushlabels", {"rle": [], "brushlabels": ["cat"]})],
    "a mask without pixels": [region("brushlabels", {"rle": EMPTY_RLE, "brushlabels": ["cat"]})],
    "no value": [{k: v for k, v in GOOD.items() if k != "value"}],
    "a value of null": [{**GOOD, "value": None}],
    "a value that is a list": [{**GOOD, "value": [BOX]}],
    "no label": [rectangle(rectanglelabels="absent")],
    "an empty list of labels": [rectangle(rectanglelabels=[])],
    "two labels": [rectangle(rectanglelabels=["cat", "dog"])],
    "a label as text": [rectangle(rectanglelabels="cat")],
    "a label that is a number": [rectangle(rectanglelabels=[7])],
    "a label of null": [rectangle(rectanglelabels=[None])],
    "a label of a space": [rectangle(rectanglelabels=[" "])],
    "a label that cannot be written": [rectangle(rectanglelabels=["\ud800"])],
    "a turned image": [{**GOOD, "image_rotation": 90}],
    "a turn of NaN": [{**GOOD, "image_rotation": nan}],
    "another size": [{**GOOD, "original_width": 500, "original_height": 1000}],
    "a size that is no number": [{**GOOD, "original_width": [1000]}],
    "another image": [{**GOOD, "to_name": "image2"}],
    "the second image of a task": [{**GOOD, "item_index": 1}],
    "no type": [{k: v for k, v in GOOD.items() if k != "type"}],
    "a type that is a list": [{**GOOD, "type": ["rectanglelabels"]}],
    "a bare rectangle": [{**GOOD, "type": "rectangle"}],
    "one id twice": [GOOD, GOOD],
    "a region that is a list": [[1, 2]],
    "a region that is null": [None],
    "a result of null": None,
    "a result that is a record": {"r1": GOOD},
    "a result that is text": "[]",
}
KINDS = ("keypointlabels", "ellipselabels", "vectorlabels", "timeserieslabels", "magicwand", "???")
ODD |= {kind: [region(kind, {**BOX, kind: ["cat"]})] for kind in KINDS}


@pytest.fixture
def little_memory():
    """Limit the process to 2 GB more than it has: a damaged number must not take all memory."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # only Linux says how much a process has
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("name", ODD)
def test_an_odd_region_leaves_out_its_frame_in_one_line(name, little_memory):
    others = [region(name="r2", value={**BOX, "rectanglelabels": ["cat"]})]
    for beside in ([], others):
        result = copy.deepcopy(ODD[name])
        result = [*result, *beside] if isinstance(result, list) else result
        with pytest.raises(StudioError) as caught:
            correct(result)
        message = str(caught.value)
        message.encode()
        assert message.isprintable() and len(message) < 300


@pytest.mark.parametrize("name", ["null coordinates", "1e8", "no area", "two labels"])
def test_an_odd_value_in_a_region_that_was_pushed_is_no_less_odd(name):
    """The region has the id of an object of the dataset."""
    item = Item("dock.mp4", 5, Fraction(1, 6), *SIZE, (Object("cat", CAT, 0.5, source="colour"),))
    [sent] = to_regions(item)
    with pytest.raises(StudioError):
        correct([{**ODD[name][0], "id": sent["id"]}], item)


def pushed(*objects):
    """An item with the objects, and the regions that a push makes of them."""
    item = Item("dock.mp4", 5, Fraction(1, 6), *SIZE, objects)
    return item, to_regions(item)


def test_a_digit_more_or_less_is_no_change_by_a_person():
    """The browser may give back a number a unit in the last place away; so may a drag back."""
    mask = np.zeros(SIZE[::-1], bool)
    mask[50:150, 100:400] = True
    box = Object("cat", (33.333, 41.7, 333.333, 141.7), 0.5, 3, source="colour")
    area = Object("cat", CAT, 0.5, 4, masks.encode(mask), source="light")
    item, regions = pushed(box, area)
    regions = [regions[0], to_regions(item, polygons=True)[1]]
    for shift in (0, np.finfo(float).eps * 32, 1e-9, 4e-5):
        nudged = copy.deepcopy(regions)
        for side in ("x", "y", "width", "height"):
            nudged[0]["value"][side] += shift
        nudged[1]["value"]["points"] = [[x + shift, y] for x, y in nudged[1]["value"]["points"]]
        assert correct(nudged, item)[0] == item
    regions[0]["value"]["x"] += 0.001  # a hundredth of a pixel
    moved = correct(regions, item)[0].objects[0]
    assert moved.score is None and moved.by["region"] == regions[0]["id"]


EARLIER = (
    Object("cat", (10.5, 20.25, 300.125, 200.0), 0.875, 3, source="sam2/sam2.1-tiny"),
    Object("dog", (10.123456, 20.0, 300.0, 200.654321), 0.1 + 0.2, None, source="coco, by hand"),
    Object("cat", (1.0, 2.0, 30.0, 20.0), None, None, source=""),
    Object("cat", (1.0, 2.0, 30.0, 20.0), None, None, source=""),
)


def test_what_an_earlier_push_sent_and_nobody_touched_keeps_source_score_and_track():
    """The dataset was built again, with other objects; the annotation is of the earlier ones."""
    mask = np.zeros(SIZE[::-1], bool)
    mask[50:150, 100:400] = True
    item, regions = pushed(*EARLIER, Object("cat", CAT, 0.5, 4, masks.encode(mask), "light"))
    rebuilt = Item("dock.mp4", 5, Fraction(1, 6), *SIZE, (Object("cat", CAT, 0.25, 9),))
    corrected, _ = correct(regions, rebuilt)
    assert corrected.objects == item.objects


def test_what_a_person_changed_of_an_earlier_push_keeps_source_and_track():
    _, regions = pushed(*EARLIER[:2])
    regions[0]["value"]["x"] += 1
    regions[1]["value"]["rectanglelabels"] = ["cat"]
    for each in regions:
        each["origin"] = "prediction-changed"
    moved, relabelled = correct(regions, ITEM)[0].objects
    assert (moved.source, moved.track, moved.score) == ("sam2/sam2.1-tiny", 3, None)
    assert (relabelled.source, relabelled.label, relabelled.by["who"]) == (
        "coco, by hand",
        "cat",
        "ada@example.com",
    )


def test_a_region_that_the_editor_marks_as_a_prediction_was_not_touched():
    """Its box has too many digits to be made again from percent."""
    _, [sent] = pushed(Object("cat", (10 / 3, 20 / 3, 310 / 3, 200.0), 0.75, 3, source="coco"))
    [obj] = correct([{**sent, "origin": "prediction"}])[0].objects
    assert (obj.source, obj.track, obj.score, obj.by) == ("coco", 3, 0.75, None)
    [obj] = correct([{**sent, "origin": "manual"}])[0].objects
    assert (obj.source, obj.track, obj.score) == ("person", None, None)


@pytest.mark.parametrize("meta", [None, [], {"text": None}, {"text": [7]}, {"text": ["\ud800"]}])
def test_odd_metadata_of_a_region_is_not_believed(meta):
    _, [sent] = pushed(EARLIER[0])
    [obj] = correct([{**sent, "meta": meta, "score": nan, "origin": "prediction"}])[0].objects
    assert (obj.source, obj.track, obj.score) == ("person", None, None)


def test_a_mask_that_was_erased_is_deleted_in_a_rebuilt_dataset_too():
    mask = np.zeros(SIZE[::-1], bool)
    mask[50:150, 100:400] = True
    item, [sent] = pushed(Object("cat", CAT, 0.5, 4, masks.encode(mask), "light"))
    sent["value"]["rle"] = brush.encode_brush(np.zeros(SIZE[::-1], bool))
    assert correct([sent], item)[0].objects == correct([sent], ITEM)[0].objects == ()


class Answers:
    """A server that lists its users, and nothing else."""

    def get(self, path, params=None):
        return [{"id": 1, "email": "ada@example.com"}]


def read(annotations, **state):
    reader = AnnotationReader(Answers(), 1)
    task = {"id": 5, "draft_exists": False, **state}
    verdict = reader.read_verdict("dock.mp4#5", [task], {5: {"id": 5, "annotations": annotations}})
    return verdict, dict(reader.counts), [reason for _, reason in reader.notes]


ANNOTATION = {"id": 1, "result": [GOOD], "was_cancelled": False, "completed_by": 1,
              "updated_at": "2026-01-02"}  # fmt: skip
SKIPPED = {**ANNOTATION, "was_cancelled": True}


@pytest.mark.parametrize(
    "annotations, state, counts, notes",
    [
        (None, {}, {"not looked at": 1}, []),
        ([], {}, {"not looked at": 1}, []),
        ([None], {}, {"unclear": 1}, ["unclear: annotations that are no records: [None]"]),
        ("abc", {}, {"unclear": 1}, ["unclear: annotations that are no records: abc"]),
        (
            [{**ANNOTATION, "was_cancelled": True}],
            {},
            {"skipped": 1},
            ["skipped: by ada@example.com"],
        ),
        (
            [{**ANNOTATION, "was_cancelled": True}],
            {"draft_exists": True},
            {"begun": 1},
            ["begun: a draft is not submitted"],
        ),
        (
            [ANNOTATION, {**ANNOTATION, "result": [], "completed_by": {"id": 2}}],
            {"draft_exists": True},
            {"several": 1},
            [
                "a draft after the annotation is not submitted",
                "several: 2 annotations, by ada@example.com, user 2: delete all but one",
            ],
        ),
        (
            [{**ANNOTATION, "result": None}],
            {},
            {"unclear": 1},
            ["unclear: an annotation whose result is no list: None"],
        ),
    ],
)
def test_a_task_without_one_annotation_is_counted_once(annotations, state, counts, notes):
    verdict, counted, noted = read(annotations, **state)
    assert (verdict, counted, noted) == (None, counts, notes)


def test_a_task_that_the_server_leaves_out_is_noted():
    """Its state says that it has an annotation, so it is not one that nobody looked at."""
    for exported in ([], {}, None, [{"annotations": [ANNOTATION]}], ["task"]):
        reader = AnnotationReader(Answers(), 1)
        reader.client.get = lambda path, params, exported=exported: exported
        task = {"id": 5, "total_annotations": 1, "draft_exists": False}
        annotated = reader.fetch_annotated([task])
        assert reader.read_verdict("dock.mp4#5", [task], annotated) is None
        reason = "unclear: the server cannot export its annotations: it left them out"
        assert reader.notes == [("dock.mp4#5", reason)] and reader.counts == {"unclear": 1}


def test_the_author_may_be_missing_or_a_record():
    for author, name in [
        ({"id": 1}, "ada@example.com"),
        ([1], "unknown"),
        (None, "unknown"),
        (8, "user 8"),
    ]:
        verdict, counted, _ = read([{**ANNOTATION, "completed_by": author}], draft_exists=True)
        assert isinstance(verdict, Verdict) and verdict.author == name and not counted


def test_notes_of_one_reason_are_one_line():
    notes = [(f"dock.mp4#{n}", "unclear: no label") for n in range(52)]
    assert group_notes([*notes, ("a.mp4#1", "skipped")]) == [
        "dock.mp4#0, dock.mp4#1, dock.mp4#2 and 49 more: unclear: no label",
        "a.mp4#1: skipped",
    ]


def test_attributes_of_frames_are_in_a_dataset(tmp_path):
    item, _ = correct([GOOD, {"type": "rating", "from_name": "q", "value": {"rating": 4}}])
    with create_dataset(Dataset(tmp_path / "d", ("cat",)), Header("build")) as writer:
        writer.add("a.png", item)
    [sample] = load_dataset(tmp_path / "d")
    assert sample.item.attributes == {"q": 4}
