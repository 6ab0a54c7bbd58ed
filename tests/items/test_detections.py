import numpy as np
import pytest
import supervision as sv
from sample_data import picture

from annotate.errors import DatasetError
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
