"""Errors that are planted in a dataset come first in its review."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
from labelstudio_fixtures import make_dataset

from annotate.active_learning.detections import read_detections
from annotate.active_learning.frame_list import read_frame_list
from annotate.active_learning.second_look import SecondLook, find_likely_errors
from annotate.errors import ItemsError
from annotate.items import journal
from annotate.items.records import Header, Item, Object

SIZE_WH = (640, 480)
COUNT = 60


def true_objects(number, noise):
    """Two or three objects, not near each other."""
    for place in range(2 + number % 2):
        x, y = 20 + 210 * place + noise.uniform(0, 60), noise.uniform(20, 300)
        side = noise.uniform(40, 110)
        yield Object(("mech", "target")[place % 2], (x, y, x + side, y + 0.8 * side))


def noisy(obj, noise):
    """What a fair detector sees: a box a few percent off; the score of one in ten is too low."""
    shift = noise.normal(0, 0.03, 4) * (obj.box[2] - obj.box[0])
    score = noise.uniform(0.1, 0.4) if noise.random() < 0.1 else noise.uniform(0.55, 0.98)
    return replace(obj, box=tuple(np.array(obj.box) + shift), score=round(score, 3))


@pytest.fixture
def planted(tmp_path):
    """A dataset with eight planted errors, the detections, and the frames of the errors by kind."""
    noise = np.random.default_rng(11)
    truth = [list(true_objects(n, noise)) for n in range(COUNT)]
    detections = [[noisy(obj, noise) for obj in objects] for objects in truth]
    for number in (5, 12, 19, 26, 33, 40, 47, 54):  # the detector sees the objects of these
        detections[number] = [replace(obj, score=0.9) for obj in truth[number]]
    labels = [list(objects) for objects in truth]
    shifted = labels[5][0]
    x1, y1, x2, y2 = shifted.box
    half = (x2 - x1) / 2
    labels[5][0] = replace(shifted, box=(x1 + half, y1, x2 + half, y2))
    x1, y1, x2, y2 = labels[12][1].box
    labels[12][1] = replace(labels[12][1], box=(x1, y1 + 0.5 * (y2 - y1), x2, y2 + 0.5 * (y2 - y1)))
    del labels[19][0], labels[26][1]
    for number in (33, 40):
        labels[number].append(Object("mech", (560.0, 400.0, 630.0, 470.0)))
    for number, place in ((47, 0), (54, 1)):
        other = {"mech": "target", "target": "mech"}[labels[number][place].label]
        labels[number][place] = replace(labels[number][place], label=other)
    kinds = {5: "badly placed", 12: "badly placed", 19: "missed", 26: "missed"}
    kinds |= {33: "not seen", 40: "not seen", 47: "is ", 54: "is "}
    dataset = make_dataset(tmp_path / "planted", labels, SIZE_WH)
    return dataset, detections, kinds


def by_key(dataset, detections):
    return {
        (sample.item.video, sample.item.frame): objects
        for sample, objects in zip(dataset, detections, strict=True)
    }


def test_all_planted_errors_come_first_each_with_its_kind(planted):
    dataset, detections, kinds = planted
    looked = find_likely_errors(dataset, by_key(dataset, detections))
    found = looked.frames
    assert looked.compared == COUNT and not looked.missing
    first = {each.item.frame // 5: each.summary for each in found[: len(kinds)]}
    assert first.keys() == kinds.keys()
    for number, kind in kinds.items():
        assert f" {kind}" in first[number]
    weights = [each.priority for each in found]
    assert weights == sorted(weights, reverse=True)
    assert len(found) == 24 or weights[-1] > 0


def test_a_detector_that_agrees_contradicts_nothing(planted):
    dataset, _, _ = planted
    perfect = [[replace(obj, score=0.9) for obj in sample.item.objects] for sample in dataset]
    assert find_likely_errors(dataset, by_key(dataset, perfect)).frames == []


def test_frames_that_the_detector_did_not_look_at_are_left_out_and_counted(planted):
    dataset, detections, _ = planted
    some = dict(list(by_key(dataset, detections).items())[:31])
    looked = find_likely_errors(dataset, some, max_frames=99)
    assert {each.item.frame // 5 for each in looked.frames} <= set(range(31))
    [name] = dataset.clips
    assert (looked.compared, looked.missing) == (31, {name: 29})
    assert looked.summary == f"31 frames compared; 29 have no record in the detections: {name} 29"
    with pytest.raises(ItemsError, match="the detections are of none of its 60 frames"):
        find_likely_errors(dataset, {})


def test_many_clips_without_a_record_are_summed_up():
    missing = {"a": 1, "b": 5, "c": 3, "d": 2, "e": 4}
    assert SecondLook([], 1, missing).summary.endswith(
        "detections: b 5, e 4, c 3, and 2 other clips"
    )


def write_items(path, dataset, detections):
    [(name, entry)] = dataset.clips.items()
    lines = [
        Item(name, 5 * n, Fraction(5 * n, 30), *SIZE_WH, tuple(objects))
        for n, objects in enumerate(detections)
    ]
    journal.write(path, Header("detect", videos={name: dict(entry)}), lines)
    return path


def test_the_command_draws_a_sheet_and_lists_the_order_for_push(planted, tmp_path, annotate):
    dataset, detections, kinds = planted
    items = write_items(tmp_path / "seen.jsonl", dataset, detections)
    words = [str(dataset.path), "--items", str(items), "--max-frames", "8"]
    code, _, err = annotate("review", *words, "-o", "sheet.png", "--order", "order.csv")
    assert code == 0 and "60 frames compared: all of the dataset" in err, err
    listed = read_frame_list("order.csv")
    assert [each.rank for each in listed] == [*range(1, 9)]
    assert {each.frame // 5 for each in listed} == kinds.keys()
    assert cv2.imread("sheet.png").shape[1] > 600
    again = annotate("review", *words, "--order", "order.csv")
    assert again[0] == 1 and "already there" in again[2]


def test_a_detector_that_agrees_is_one_line(planted, tmp_path, annotate):
    dataset, _, _ = planted
    perfect = [[replace(obj, score=0.9) for obj in sample.item.objects] for sample in dataset]
    items = write_items(tmp_path / "seen.jsonl", dataset, perfect)
    code, _, err = annotate("review", str(dataset.path), "--items", str(items))
    assert code == 0 and err.rstrip().endswith("all of the dataset; no label is contradicted")


def test_a_dataset_needs_a_model_or_items_and_items_need_none(planted, tmp_path, annotate):
    dataset, detections, _ = planted
    items = write_items(tmp_path / "seen.jsonl", dataset, detections)
    for words in (
        [str(dataset.path)],
        [str(items), "--items", str(items)],
        [str(dataset.path), "--items", str(items), "--model", "m"],
    ):
        code, _, err = annotate("review", *words)
        assert code == 2 and "needs --model or --items" in err
    code, _, err = annotate("review", str(dataset.path), "--model", str(tmp_path))
    assert code == 1 and "lineage.json: not there" in err


def test_items_of_another_clip_are_refused(planted, tmp_path):
    dataset = planted[0]
    other = {"fingerprint": "ab" * 32, "frame_count": 9, "width": 640, "height": 480}
    journal.write(tmp_path / "other.jsonl", Header("detect", videos={"dock.mp4": other}), [])
    with pytest.raises(ItemsError, match="its clips are not those of the items"):
        read_detections(dataset, [tmp_path / "other.jsonl"])
