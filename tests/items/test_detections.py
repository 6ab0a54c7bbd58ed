import re

import numpy as np
import pytest
import supervision as sv
from sample_data import picture

from annotate.errors import DatasetError, PluginError
from annotate.items import detections, masks

LABELS = {0: "plate", 1: "mug"}


def test_boxes_are_clipped_and_nan_is_no_score():
    result = sv.Detections(
        np.array([[-3.0, 2.00049, 70.0, 20.5], [1, 2, 3, 4]]),
        class_id=np.array([1, 0]),
        confidence=np.array([0.25, np.nan]),
    )
    item = detections.item_from_detections(picture(7), result, LABELS, "colour")
    mug, plate = item.objects
    assert (item.video, item.frame, item.width, item.height) == ("dock.mp4", 7, 64, 48)
    assert mug.label == "mug" and mug.box == (0, 2.0, 64, 20.5) and mug.score == 0.25
    assert plate.label == "plate" and plate.score is None and plate.track is None


def test_the_phrase_that_found_a_box_is_kept():
    result = sv.Detections(
        np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
        class_id=np.array([1, 1]),
        confidence=np.array([np.nan, np.nan]),
        data={"phrase": np.array(["a cup", "a mug"])},
    )
    item = detections.item_from_detections(picture(0), result, LABELS, "moondream")
    assert [obj.phrase for obj in item.objects] == ["a cup", "a mug"]


def test_the_label_of_a_track_is_that_of_its_id():
    mask = np.zeros((1, 48, 64), bool)
    mask[0, 5:9, 6:20] = True
    result = sv.Detections(
        np.array([[6.0, 5, 20, 9]]), mask=mask, confidence=np.array([1]), tracker_id=np.array([8])
    )
    item = detections.item_from_detections(picture(0), result, {8: "mech"}, "light")
    [obj] = item.objects
    assert obj.label == "mech" and obj.track == 8
    np.testing.assert_array_equal(masks.decode(obj.mask), mask[0])
    back = detections.item_to_detections(item, ["raine", "mech"])
    np.testing.assert_array_equal(back.mask, mask)
    assert back.class_id.tolist() == [1] and back.tracker_id.tolist() == [8]


def test_no_detections_are_no_objects():
    item = detections.item_from_detections(picture(0), sv.Detections.empty(), LABELS, "colour")
    assert item.objects == ()
    assert len(detections.item_to_detections(item, ["mug"])) == 0


def test_an_object_without_a_mask_gets_its_filled_box_as_mask():
    mask = np.zeros((2, 48, 64), bool)
    mask[0, 5:9, 6:20] = True
    result = sv.Detections(
        np.array([[6.0, 5, 20, 9], [1, 2, 4, 6]]), mask=mask, class_id=np.array([0, 1])
    )
    item = detections.item_from_detections(picture(0), result, LABELS, "x")
    first, second = item.objects
    bare = type(second)(second.label, second.box)
    back = detections.item_to_detections(
        type(item)(**{**vars(item), "objects": (first, bare)}), ["plate", "mug"]
    )
    assert back.mask[1].sum() == 12 and back.mask[1, 2:6, 1:4].all()
    assert back.tracker_id is None and np.isnan(back.confidence).all()


def test_an_unknown_class_is_named():
    result = sv.Detections(np.array([[1.0, 2, 4, 6]]), class_id=np.array([1]))
    item = detections.item_from_detections(picture(3), result, LABELS, "x")
    with pytest.raises(DatasetError, match="dock.mp4#3: unknown class 'mug'. There are: plate"):
        detections.item_to_detections(item, ["plate"])


def one_mask(height=48, width=64, kind=bool):
    return np.ones((1, height, width), kind)


BROKEN = {
    "not supervision.Detections": lambda: [1, 2],
    "not of four finite numbers": lambda: found(xyxy=[[0, 0, np.nan, 4]]),
    "its end is before its start": lambda: found(xyxy=[[9, 0, 4, 4]]),
    "the score 2.5 is not in 0..1": lambda: found(confidence=[2.5]),
    "the score -0.1 is not": lambda: found(confidence=[-0.1]),
    "the score inf is not": lambda: found(confidence=[np.inf]),
    "bool of (1, 24, 32), not bool of (1, 48, 64)": lambda: found(mask=one_mask(24, 32)),
    "the masks are uint8 of": lambda: found(mask=one_mask(kind=np.uint8)),
    "neither class_id nor tracker_id": lambda: found(class_id=None),
    "class_id is not a whole number": lambda: found(class_id=[1.5]),
    "class_id 7 is of no class: there are 0, 1": lambda: found(class_id=[7]),
    "class_id -1 is of no class": lambda: found(class_id=[-1]),
    "tracker_id 7 is of no prompted object": lambda: found(tracker_id=[7]),
    "an id is twice": lambda: found(xyxy=[[0, 0, 4, 4]] * 2, tracker_id=[1, 1]),
}


def found(**changed):
    """One box that keeps the contract, with some arrays changed afterwards, as a plugin may."""
    count = len(changed.get("xyxy", [0]))
    result = sv.Detections(
        np.array([[1.0, 2, 3, 4]] * count),
        class_id=np.ones(count, int),
        confidence=np.full(count, 0.5),
    )
    for name, values in changed.items():
        setattr(result, name, None if values is None else np.array(values))
    return result


@pytest.mark.parametrize("rule", BROKEN)
def test_what_breaks_the_contract_of_plugins_names_plugin_frame_and_rule(rule):
    with pytest.raises(PluginError, match=f"mine: dock.mp4#7: .*{re.escape(rule)}"):
        detections.item_from_detections(picture(7), BROKEN[rule](), LABELS, "mine")


def test_a_score_may_be_rounded_up_beyond_one():
    result = found(confidence=[1.000001])
    item = detections.item_from_detections(picture(7), result, LABELS, "mine")
    assert item.objects[0].score == 1


def test_compact_masks_keep_the_contract():
    result = found(xyxy=[[0.0, 0, 64, 48]])
    result.mask = sv.CompactMask.from_dense(one_mask(), result.xyxy, (48, 64))
    item = detections.item_from_detections(picture(7), result, LABELS, "mine")
    assert masks.decode(item.objects[0].mask).all()
