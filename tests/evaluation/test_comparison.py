import json
import os
import random
import subprocess
import sys
import zipfile
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from annotate.dataset import frame_sources
from annotate.errors import (
    AnnotateError,
    DatasetError,
    ItemsError,
    OutputError,
    SettingsDiffer,
    UnknownName,
)
from annotate.evaluation import comparison, ground_truth, metrics, report, run_spec, runs, scores
from annotate.items import journal
from annotate.items.records import Header, Item, Object, Vocabulary
from annotate.video import reader


def square(x, score=None, label="mech", side=20.0):
    return Object(label, (float(x), 10.0, x + side, 10.0 + side), score)


def frames(*objects_by_frame):
    return {("a.mp4", n): objects for n, objects in enumerate(objects_by_frame)}


def size(path):
    with Image.open(path) as picture:
        return picture.size


# --- metrics ---


def test_a_curve_has_precision_and_recall_down_to_each_score():
    truth = frames([square(0), square(100)], [square(50)], [])
    detections = frames([square(0, 0.9), square(300, 0.8)], [square(50, 0.7)], [square(9, 0.1)])
    curve = metrics.precision_recall_curve(truth, detections)
    assert curve.scores.tolist() == [0.9, 0.8, 0.7, 0.1]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4])
    assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert (curve.truth_count, curve.best_index) == (3, 2)


def test_equal_scores_are_one_point_of_the_curve():
    truth = frames([square(0), square(100)])
    curve = metrics.precision_recall_curve(
        truth, frames([square(0, 0.5), square(300, 0.5), square(100, 0.5)])
    )
    assert (curve.precision.tolist(), curve.recall.tolist()) == ([pytest.approx(2 / 3)], [1.0])


def test_of_two_boxes_on_an_object_one_is_correct():
    curve = metrics.precision_recall_curve(
        frames([square(0)]), frames([square(0, 0.9), square(1, 0.8)])
    )
    assert (curve.precision.tolist(), curve.recall.tolist()) == ([1.0, 0.5], [1.0, 1.0])


def test_without_detections_there_is_no_best_threshold():
    assert metrics.precision_recall_curve(frames([square(0)]), {}).best_index is None
    assert metrics.average_precision(frames([square(0)]), {}, ["mech"]) == (0.0, 0.0)


def test_without_truth_there_is_no_average_precision():
    assert np.isnan(metrics.average_precision(frames([]), frames([square(0, 1)]), ["mech"])).all()


def coco_average_precision(truth, detections, label):
    """Compute AP and AP50 of a class as the example of pycocotools does."""
    images = [{"id": n, "width": 900, "height": 100} for _, n in truth]
    rows = [(n, o) for (_, n), objects in truth.items() for o in objects if o.label == label]
    coco = COCO()
    coco.dataset = {
        "images": images,
        "categories": [{"id": 1, "name": label}],
        "annotations": [
            {"id": k, "image_id": n, "category_id": 1, "area": 6400, "iscrowd": 0}
            | {"bbox": [o.box[0], o.box[1], 80, 80]}
            for k, (n, o) in enumerate(rows, start=1)
        ],
    }
    coco.createIndex()
    results = [
        {"image_id": n, "category_id": 1, "bbox": [o.box[0], o.box[1], 80, 80], "score": o.score}
        for (_, n), objects in detections.items()
        for o in objects
        if o.label == label
    ]
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:2]


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_pycocotools(seed):
    """With several classes, shifted boxes, missed objects and false boxes."""
    rng = random.Random(seed)
    labels = ["mech", "tank"]
    truth, detections = {}, {}
    for n in range(30):
        objects = [square(200 * k, None, rng.choice(labels), 80.0) for k in range(3)]
        kept = [o for o in objects if rng.random() < 0.8]
        moved = [square(o.box[0] + rng.gauss(0, 9), rng.random(), o.label, 80.0) for o in kept]
        truth["a.mp4", n] = objects
        detections["a.mp4", n] = [*moved, square(700, rng.random(), rng.choice(labels), 80.0)]
    expected = np.mean(
        [coco_average_precision(truth, detections, label) for label in labels], axis=0
    )
    ap, ap50 = metrics.average_precision(truth, detections, labels)
    assert ap == pytest.approx(expected[0], abs=1e-9)
    assert ap50 == pytest.approx(expected[1], abs=1e-9)


def test_the_order_of_boxes_without_scores_does_not_matter():
    truth = frames([square(0), square(100)], [square(50)])
    one = frames([square(0), square(300), square(100)], [])
    other = frames([square(300), square(100), square(0)], [])
    both = [metrics.average_precision(truth, each, ["mech"])[1] for each in (one, other)]
    assert both == [pytest.approx(2 / 3 * 67 / 101)] * 2  # precision 2/3 up to recall 2/3


def test_agreement_is_the_f1_and_iou_of_two_detectors():
    one = frames([square(0), square(100)], [])
    same, other = frames([square(1), square(300)], []), frames([square(0, label="tank")], [])
    assert metrics.agreement(one, one) == metrics.Agreement(1.0, 1.0)
    assert metrics.agreement(one, same).f1 == 0.5
    assert metrics.agreement(one, same).iou == pytest.approx(19 / 21)
    assert metrics.agreement(one, other).f1 == 0 and np.isnan(metrics.agreement(one, other).iou)
    assert np.isnan(metrics.agreement(frames([]), frames([])).f1)


# --- specs of runs ---


@pytest.fixture
def words():
    phrases = {"mech": {"colour": {"hue_degrees": [0, 20]}, "asks": ["red square", "corner marks"]}}
    return Vocabulary("mechs.v1", {"plate": {}, **phrases}, "5e1f" * 16)


def test_a_spec_is_a_detector_and_its_options(words):
    spec = run_spec.parse_run_spec("colour:min_score=0.6,min_area=9", words)
    assert (spec.detector, spec.options) == ("colour", {"min_score": "0.6", "min_area": "9"})
    assert spec.labels == ("mech",) and spec.title == "colour:min_score=0.6,min_area=9"
    spec = run_spec.parse_run_spec("strict one=colour:min_score=0.6", words)
    assert (spec.title, spec.detector) == ("strict one", "colour")
    spec = run_spec.parse_run_spec('ensemble:members="colour, yolo",weights=colour=2', words)
    assert spec.options == {"members": "colour, yolo", "weights": "colour=2"}


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("color", UnknownName, "did you mean 'colour'"),
        ("colour:min_scroe=1", UnknownName, "did you mean 'min_score'"),
        ("colour:min_score", AnnotateError, "expected KEY=VALUE after colour:, got 'min_score'"),
        ("colour:min_area=few", AnnotateError, "min_area must be int, got 'few'"),
    ],
)
def test_a_wrong_spec_is_refused_before_anything_runs(words, text, error, message):
    with pytest.raises(error, match=message):
        run_spec.parse_run_spec(text, words)


def test_each_phrase_can_be_a_run(words):
    spec = run_spec.RunSpec("asks", "asks", {}, words)
    whole, first, second = run_spec.split_by_phrase(spec)
    assert (whole, first.phrase, second.phrase) == (spec, "red square", "corner marks")
    assert first.vocabulary.labels == words.labels
    assert first.vocabulary.phrases("asks") == {1: ["red square"]}
    assert len({each.folder_name for each in (whole, first, second)}) == 3
    assert len({each.vocabulary.sha256 for each in (whole, first, second)}) == 3


# --- ground truth ---


@pytest.fixture
def source(demo):
    return frame_sources.open_source(demo, reader.FrameSelection(stop=3))


def test_truth_of_coco_with_the_frame_as_id(source, demo):
    truth = ground_truth.read_for_source(demo.with_name("demo.gt.json"), source)
    assert "designator" in truth.labels and len(truth.objects) == 140
    [first] = metrics.filter_objects(truth.objects, ["designator"])["demo.mp4", 0]
    assert first.score is None and first.box[0] < first.box[2]


@pytest.mark.parametrize("damage", [{"bbox": [1]}, {"category_id": 99}, {"image_id": None}])
def test_a_damaged_annotation_of_the_truth_leaves_out_its_image(tmp_path, damage):
    rows = [{"image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]} | {"id": n} for n in (0, 1)]
    rows.append({"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4]} | damage)
    table = {"images": [{"id": n} for n in range(3)], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "t.json").write_text(json.dumps(table | {"annotations": rows}))
    truth = ground_truth.read(tmp_path / "t.json")
    assert [frame for _, frame in truth.objects] == [0, 1]
    assert any("1 image left out, because " in note for note in truth.notes)
    rows[1]["bbox"] = None
    (tmp_path / "t.json").write_text(json.dumps(table | {"annotations": rows}))
    with pytest.raises(DatasetError, match=r"t.json: annotation .*2 of 3 images are damaged"):
        ground_truth.read(tmp_path / "t.json")


def test_items_a_dataset_and_its_export_give_the_same_truth(source, annotate, demo):
    words = ("detect", demo, "-d", "colour", "-v", "designator.v1", "-o", "b.jsonl", "--stop", 3)
    assert annotate(*words)[0] == 0
    assert annotate("build", "b.jsonl", "-o", "set")[0] == 0
    assert annotate("export", "set", "--to", "coco", "-o", "coco")[0] == 0
    exported = "coco/annotations/instances_train.json"
    truths = [
        ground_truth.read_for_source(type(demo)(path), source)
        for path in ("b.jsonl", "set", exported)
    ]
    boxes = [{k: [o.box for o in objects] for k, objects in t.objects.items()} for t in truths]
    assert boxes[0] == boxes[1] and len(boxes[0]) == 3 and any(boxes[0].values())
    for key, exact in boxes[0].items():
        np.testing.assert_allclose(boxes[2][key], exact, atol=1e-5)


def test_truth_of_other_clips_is_refused(source, tmp_path):
    items = [Item(name, 0, Fraction(0), 800, 600) for name in ("x.mp4", "y.mp4")]
    videos = {name: {"fingerprint": name} for name in ("x.mp4", "y.mp4")}
    journal.write(tmp_path / "t.jsonl", Header("test", videos=videos), items)
    with pytest.raises(
        ItemsError, match=r"no ground truth of demo\.mp4; its clips: x\.mp4, y\.mp4"
    ):
        ground_truth.read_for_source(tmp_path / "t.jsonl", source)


# --- the command ---

TWO_RUNS = ("-d", "colour", "-d", "colour:min_score=0.6", "-v", "designator.v1")


def test_a_comparison_writes_a_table_curves_and_a_sheet_once(annotate, demo, tmp_path):
    """A second call with the same settings runs nothing again."""
    table = json.loads(demo.with_name("demo.gt.json").read_text())
    table["images"].append({"id": 9999, "file_name": "odd.png"})
    table["annotations"].append({"id": "odd", "image_id": 9999, "category_id": 1, "bbox": [1]})
    gt = tmp_path / "gt.json"
    gt.write_text(json.dumps(table))
    asked = (
        "compare",
        demo,
        *TWO_RUNS,
        "--truth",
        gt,
        "-o",
        "out",
        "--max-frames",
        12,
        "--rows",
        3,
    )
    code, out, err = annotate(*asked)
    assert code == 0, err
    assert out.splitlines()[0].startswith("detector\tAP\tAP50\tprecision\trecall\tat score")
    assert "not measured: GPU MiB, weights MiB, cost/1000 frames, cost/right box" in err
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert list(table.index) == ["colour", "colour:min_score=0.6"]
    assert (table["AP50"] > 0.9).all() and (table["memory MiB"] > 20).all()
    assert (table["ms/frame"] > 0).all()
    assert table["boxes/frame"].iloc[0] > table["boxes/frame"].iloc[1]
    assert "not measured" in (tmp_path / "out" / "table.md").read_text()
    note = "1 image left out, because an annotation of theirs is damaged: "
    assert note in err and f"\n* {note}" in (tmp_path / "out" / "table.md").read_text()
    width, height = size("out/sheet.png")
    assert width > 3 * 400 and height > 3 * 300
    assert size("out/curves.png")[0] > 500
    measured = [path.read_bytes() for path in sorted(tmp_path.rglob("measured.json"))]
    code, again, _ = annotate(*asked)
    assert (code, again) == (0, out)
    assert [path.read_bytes() for path in sorted(tmp_path.rglob("measured.json"))] == measured


def test_other_settings_are_refused(annotate, demo):
    words = ("compare", demo, "-d", "colour", "-v", "designator.v1", "-o", "out")
    assert annotate(*words, "--max-frames", 2)[0] == 0
    code, _, err = annotate(*words, "--max-frames", 3)
    assert code == 1 and "maximum: 2, not 3: give another" in err and "force" in err
    assert annotate(*words, "--max-frames", 3, "--force")[0] == 0


def test_a_dataset_is_compared_on_its_own_truth(annotate, demo):
    words = ("detect", demo, "-d", "colour", "-v", "designator.v1", "-o", "b.jsonl", "--stop", 9)
    annotate(*words)
    annotate("build", "b.jsonl", "-o", "set", "--every", 3, "--min-score", 0.6)
    code, _, err = annotate("compare", "set", *TWO_RUNS, "-o", "out")
    assert code == 0, err
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert table["AP50"].tolist() == [1.0, 1.0]  # the truth is made of these boxes
    assert len(list(journal.read("out/columns/colour/items.jsonl"))) == 3


def test_without_truth_detectors_are_compared_with_each_other(annotate, demo):
    code, _, err = annotate("compare", demo, *TWO_RUNS, "-o", "out", "--max-frames", 4)
    assert code == 0, err
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert table["AP"].isna().all() and table["agreement F1"].between(0.1, 1).all()
    [pair] = pd.read_csv("out/agreement.csv").to_dict("records")
    assert (pair["detector"], pair["other"], pair["IoU"]) == ("colour", "colour:min_score=0.6", 1.0)
    assert not (type(demo)("out") / "curves.png").exists()


def test_without_classes_the_command_is_refused(annotate, demo):
    code, _, err = annotate("compare", demo, "-d", "colour", "-o", "out")
    assert code == 1 and "no classes to look for" in err


def test_truth_of_other_classes_is_refused(words):
    with pytest.raises(UnknownName, match="no class in the truth 'plate'"):
        comparison.check_classes(ground_truth.GroundTruth(("Demon",), {}), words)


def test_two_equal_specs_are_refused(source, tmp_path, words):
    specs = [run_spec.RunSpec("colour", "colour", {}, words)] * 2
    with pytest.raises(OutputError, match="two detectors have the title .colour."):
        list(runs.run_all(specs, source, tmp_path, progress=None))


def test_weights_that_were_trained_again_are_no_complete_run(source, tmp_path, words):
    weights = tmp_path / "best.pt"
    weights.write_text("first")
    spec = run_spec.parse_run_spec(f"yolo:model={weights}", words)
    runs._prepare_folder(tmp_path / "run", runs._worker_spec(spec, source, 8), False)
    runs._prepare_folder(tmp_path / "run", runs._worker_spec(spec, source, 8), False)
    weights.write_text("again")
    with pytest.raises(SettingsDiffer, match=r"weights of model: \w{12}, not \w{12}"):
        runs._prepare_folder(tmp_path / "run", runs._worker_spec(spec, source, 8), False)
    (tmp_path / "run" / "items.jsonl").touch()
    runs._prepare_folder(tmp_path / "run", runs._worker_spec(spec, source, 8), True)
    assert not (tmp_path / "run" / "items.jsonl").exists()


def test_weights_that_are_used_twice_count_once(tmp_path):
    one, folder = tmp_path / "one.pt", tmp_path / "folder"
    one.write_bytes(b"12345")
    folder.mkdir()
    (folder / "two.bin").write_bytes(b"123")
    used = {"model": str(one), "first": {"model": str(one)}, "then": {"checkpoint": str(folder)}}
    assert runs.weights_size_bytes(used) == 8
    assert runs.weights_size_bytes({"model": "no-such-model", "min_score": 0.5}) is None


def test_differences_of_specs_are_described(source, words):
    facts = frame_sources.source_to_record(source)
    one = runs.WorkerSpec("colour", {}, vars(words), facts, 8)
    other = runs.WorkerSpec("colour", {"min_score": "0.6"}, vars(words), facts, 8)
    assert one.differences(one) == []
    assert one.differences(other) == ["options: {}, not {'min_score': '0.6'}"]
    assert issubclass(SettingsDiffer, ItemsError)


def designator_truth(path, demo, labels=("designator",), frames=range(12), size_wh=(800, 600)):
    """Items of the demo's designator, as truth, on some frames; and a class that never appears."""
    truth = ground_truth.read(demo.with_name("demo.gt.json")).objects
    by_frame = {n: objects for (_, n), objects in truth.items()}
    lines = [
        Item(
            "gt.mp4",
            n,
            Fraction(n, 35),
            *size_wh,
            tuple(o for o in by_frame[n] if o.label == "designator"),
        )
        for n in frames
    ]
    header = Header("test", vocabulary={"labels": list(labels)}, videos={"gt.mp4": {}})
    journal.write(path, header, lines)
    return path


TWO_CLASSES = """
[classes.designator]
colour = [350, 10]
[classes.Monster]
colour = [90, 120]
"""


def test_a_class_that_the_truth_does_not_have_is_named(annotate, demo, tmp_path):
    (tmp_path / "w.v1.toml").write_text(TWO_CLASSES)
    truth = designator_truth(tmp_path / "t.jsonl", demo)
    words = ("compare", demo, "-d", "colour", "-v", "w.v1.toml", "--truth", truth, "-o", "out")
    code, out, err = annotate(*words, "--max-frames", 3, "--stop", 12)
    assert code == 0
    said = "not scored, as the truth has no such class: 'Monster'; it has 'designator'"
    assert said in err and said in out  # a remark of the row, too


def test_truth_without_these_frames_gives_the_reason(annotate, demo, tmp_path):
    truth = designator_truth(tmp_path / "t.jsonl", demo, frames=range(5))
    words = ("compare", demo, "-d", "colour", "-v", "designator.v1", "--truth", truth, "-o", "out")
    code, _, err = annotate(*words, "--start", 60, "--stop", 62)
    assert code == 0
    assert "the truth has none of these frames: it has frames 0 to 4; is it of this clip?" in err


def test_truth_of_a_clip_of_another_size_is_refused(annotate, demo, tmp_path):
    truth = designator_truth(tmp_path / "t.jsonl", demo, size_wh=(640, 480))
    words = ("compare", demo, "-d", "colour", "-v", "designator.v1", "--truth", truth, "-o", "out")
    code, _, err = annotate(*words, "--stop", 2)
    assert code == 1 and "its pictures are 640x480, and demo.mp4 is 800x600" in err


def test_a_frame_that_the_truth_does_not_have_can_be_on_the_sheet():
    columns = {
        "truth": frames([square(0)], []),
        "colour": frames([square(0)], [], [square(1), square(50)]),
        "other": frames([], [square(3)], [square(1)]),
    }
    deciding = report._truth_or_most_boxes(columns)
    assert {key[1]: len(objects) for key, objects in deciding["truth"].items()} == {
        0: 1,
        1: 0,
        2: 2,
    }
    assert [key[1] for key in report._informative_frames(deciding, 2)] == [0, 2]


def test_a_detector_is_compared_with_itself_on_masked_frames(annotate, demo, tmp_path):
    words = ("compare", demo, "-d", "colour", "-v", "designator.v1", "-o", "out")
    more = ("--mask", "designator", "--near", "designator", "--margin", 10)
    code, _, err = annotate(*words, *more, "--max-frames", 2)
    assert code == 0, err
    table = pd.read_csv("out/table.csv", index_col="detector")
    titles = ["colour", "colour, masked by designator", "colour, near designator"]
    assert list(table.index) == titles and table["remark"].isna().all()
    with Image.open("out/sheet.png") as image:
        sheet = np.asarray(image).astype(int)
    width = (sheet.shape[1] - 8) // 3
    black = [(sheet[30:300, 8 + n * width : n * width + 400].max(2) < 8).mean() for n in range(3)]
    assert black[0] < 0.2 and black[1] > 0.8 and black[2] > 0.5  # what each of them sees
    code, _, err = annotate(*words, "--mask", "designator", "--near", "designator", "--stop", 9)
    assert code == 1 and "force" in err
    code, _, err = annotate(*words[:-2], "--mask", "cheese", "-o", "out2")
    assert code == 1 and "no class 'cheese'" in err


# --- scores of a file of items ---


def score_file(path, *objects_by_frame, labels=("mech", "tank"), video="a.mp4"):
    items = [Item(video, n, Fraction(n), 800, 600, o) for n, o in enumerate(objects_by_frame)]
    header = Header("test", vocabulary={"labels": list(labels)}, videos={video: {}})
    journal.write(path, header, items)
    return path


def test_a_truth_without_sizes_fits_items_of_two_sizes(tmp_path):
    items = [
        Item("a.mp4", n, Fraction(n), *size, (square(0, 0.9),))
        for n, size in enumerate(((800, 600), (640, 480)))
    ]
    header = Header("test", vocabulary={"labels": ["mech"]}, videos={"a.mp4": {}})
    journal.write(tmp_path / "f.jsonl", header, items)
    truth = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "video": "a.mp4", "frame": n} for n in (0, 1)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [*square(0).box[:2], 40, 40]}
            for n in (0, 1)
        ],
        "categories": [{"id": 1, "name": "mech"}],
    }
    (tmp_path / "t.json").write_text(json.dumps(truth))
    assert scores.score_items(tmp_path / "f.jsonl", tmp_path / "t.json").frame_count == 2


def test_items_are_scored_by_class_and_in_all(tmp_path):
    truth = score_file(
        tmp_path / "t.jsonl",
        (square(0), square(100), square(200, label="tank")),
        (square(50),),
        (),
        video="gt.mp4",
    )
    found = score_file(
        tmp_path / "f.jsonl", (square(0, 0.9), square(100, 0.8)), (square(300, 0.7),), ()
    )
    result = scores.score_items(found, truth)
    mech, tank = result.classes
    assert (mech.truth_count, mech.box_count, tank.truth_count, tank.box_count) == (3, 3, 1, 0)
    assert (mech.precision, mech.recall, mech.threshold) == (1.0, pytest.approx(2 / 3), 0.8)
    assert mech.ap50 == pytest.approx(67 / 101) and tank.ap50 == 0
    assert result.overall.ap50 == pytest.approx((mech.ap50 + tank.ap50) / 2)
    assert result.frame_count == 3 and result.notes == ()
    assert scores.score_items(found, truth, min_score=0.85).classes[0].box_count == 1


def test_what_is_not_scored_is_named(tmp_path):
    truth = score_file(tmp_path / "t.jsonl", (square(0),), (), (), labels=("mech", "plane"))
    found = score_file(tmp_path / "f.jsonl", (square(0, 0.9),))
    notes = " ".join(scores.score_items(found, truth).notes)
    assert "no such class: 'tank'" in notes and "not about such a class: 'plane'" in notes
    assert "2 frames of the truth" in notes


def test_items_of_other_classes_or_frames_are_refused(tmp_path):
    truth = score_file(tmp_path / "t.jsonl", (square(0),))
    other = score_file(tmp_path / "o.jsonl", (square(0, label="cup"),), labels=("cup",))
    with pytest.raises(UnknownName, match="no class in the truth 'cup'"):
        scores.score_items(other, truth)
    journal.write(tmp_path / "e.jsonl", Header("test", vocabulary={"labels": ["mech"]}), [])
    with pytest.raises(ItemsError, match="none of its frames"):
        scores.score_items(tmp_path / "e.jsonl", truth)


def test_the_score_command_prints_a_table_or_json(annotate, demo, tmp_path):
    truth = designator_truth(tmp_path / "t.jsonl", demo)
    words = ("detect", demo, "-d", "colour", "-v", "designator.v1", "-o", "b.jsonl", "--stop", 12)
    annotate(*words)
    code, out, err = annotate("score", "b.jsonl", truth)
    assert code == 0 and "scored on 12 frames" in err
    header, row, overall = (line.split("\t") for line in out.splitlines())
    assert header[:5] == ["class", "true objects", "boxes", "AP", "AP50"]
    assert row[0] == "designator" and float(row[4]) > 0.9 and overall[1:] == row[1:]
    code, out, _ = annotate("score", "b.jsonl", demo.with_name("demo.gt.json"), "--json")
    result = json.loads(out)
    assert code == 0 and result["frames"] == 12
    assert result["classes"]["designator"]["ap50"] > 0.9


# --- a package of another author ---

STRANGER = '''
"""Detectors of another package."""
import os
from dataclasses import dataclass

import numpy as np
import supervision as sv

from annotate.items.records import Frame, Vocabulary


@dataclass(frozen=True)
class Whole:
    """A box round the whole picture, for each class that has phrases."""

    vocabulary: Vocabulary
    border: int = 0
    mebibytes: int = 0
    how_it_ends: str = "well"

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        print("a chatty detector")
        np.ones(self.mebibytes << 17).sum()
        if self.how_it_ends == "abort":
            os.abort()
        if self.how_it_ends == "raise":
            raise RuntimeError("out of cheese")
        return [self._propose(*frame.size_wh) for frame in frames]

    def _propose(self, width: int, height: int) -> sv.Detections:
        ids = np.array(list(self.vocabulary.phrases("whole")), int)
        box = [self.border, self.border, width - self.border, height - self.border]
        xyxy = np.tile(np.array(box, float), (len(ids), 1)).reshape(-1, 4)
        return sv.Detections(xyxy, class_id=ids, confidence=np.full(len(ids), np.nan))
'''
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "a-run_command-detectors"
version = "3.1"

[tool.hatch.build.targets.wheel]
include = ["stranger.py"]

[project.entry-points."annotate.detectors"]
whole = "stranger:Whole"
"""
VOCABULARY = """
[classes.designator]
whole = ["everything", "all of it"]

[classes.designator.colour]
size = [12, 4000]
aspect = [0.85, 1.18]

[[classes.designator.colour.ranges]]
space = "hsv"
hue_degrees = [330, 16]
saturation = [0.35, 1.0]
value = [0.23, 1.0]

[classes.designator.colour.outline]
arms = [0.2, 0.28]
corners = 2
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which a package of detectors is installed that is not ours."""
    folder = tmp_path_factory.mktemp("stranger")
    project, site = folder / "project", folder / "site"
    project.mkdir()
    (project / "stranger.py").write_text(STRANGER)
    (project / "pyproject.toml").write_text(PROJECT)
    build = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    words = [sys.executable, "-c", build, str(folder)]
    made = subprocess.run(words, cwd=project, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(folder / made.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    return site


@pytest.fixture
def run_command(site, tmp_path):
    """Runs a command line where the stranger's package is installed."""
    (tmp_path / "words.v1.toml").write_text(VOCABULARY)

    def run(*words):
        command = [sys.executable, "-m", "annotate", *map(str, words)]
        python_path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        env = os.environ | {"PYTHONPATH": python_path}
        return subprocess.run(command, capture_output=True, text=True, env=env)

    return run


def test_the_detector_of_another_package_is_listed_and_run(run_command, demo):
    listed = run_command("detectors")
    assert "whole\tA box round the whole picture" in listed.stdout and "border=0" in listed.stdout
    asked = ("-d", "whole", "-v", "words.v1.toml", "-o", "b.jsonl", "--stop", 2)
    process = run_command("detect", demo, *asked, "--set", "border=5")
    assert process.returncode == 0, process.stderr
    assert [item.objects[0].box for item in journal.read("b.jsonl")] == [(5, 5, 795, 595)] * 2


def test_a_crash_affects_one_run_and_memory_is_measured_for_each(run_command, demo, tmp_path):
    ends = [f"whole:how_it_ends={end}" for end in ("abort", "raise")]
    asked = ["whole:mebibytes=300", "colour", *ends]
    options = [word for each in asked for word in ("-d", each)]
    gt = demo.with_name("demo.gt.json")
    words = ("compare", demo, *options, "-v", "words.v1.toml", "--truth", gt, "--max-frames", 4)
    process = run_command(*words, "-o", "out")
    assert process.returncode == 1
    failed = "whole:how_it_ends=abort, whole:how_it_ends=raise: failed; run the same command"
    assert failed in process.stderr
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert table.loc["whole:mebibytes=300", ["precision", "recall"]].tolist() == [0, 0]
    assert table.loc["colour", "AP50"] > 0.9 and table.loc["whole:mebibytes=300", "AP50"] == 0
    memory = table["memory MiB"]
    assert memory["whole:mebibytes=300"] > memory["colour"] + 200
    assert table.loc["whole:mebibytes=300", "remark"] == "gives no scores"
    assert table.loc[ends[0], "remark"].startswith("failed: killed by signal 6")
    assert table.loc[ends[1], "remark"] == "failed: RuntimeError: out of cheese"
    assert size("out/sheet.png")[0] > 3 * 400  # truth, and the two that ran


def test_each_phrase_is_a_run_of_the_command(run_command, demo):
    words = (
        "compare",
        demo,
        "-d",
        "whole",
        "-v",
        "words.v1.toml",
        "--max-frames",
        2,
        "--each-phrase",
    )
    process = run_command(*words, "-o", "out")
    assert process.returncode == 0, process.stderr
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert list(table.index) == ["whole", "whole “everything”", "whole “all of it”"]
    assert table["boxes/frame"].tolist() == [1, 1, 1] and table["agreement F1"].tolist() == [1] * 3
