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
from annotate.errors import AnnotateError, ItemsError, OutputError, SettingsDiffer, UnknownName
from annotate.evaluation import comparison, ground_truth, metrics, run_spec, runs
from annotate.items import journal
from annotate.items.records import Header, Item, Object, Vocabulary
from annotate.video import reader


def thing(x, score=None, label="mech", side=20.0):
    return Object(label, (float(x), 10.0, x + side, 10.0 + side), score)


def frames(*each):
    return {("a.mp4", n): things for n, things in enumerate(each)}


def size(path):
    with Image.open(path) as picture:
        return picture.size


# --- boxes against boxes ---


def test_a_curve_says_what_is_right_down_to_each_score():
    real = frames([thing(0), thing(100)], [thing(50)], [])
    found = frames([thing(0, 0.9), thing(300, 0.8)], [thing(50, 0.7)], [thing(9, 0.1)])
    curve = metrics.precision_recall_curve(real, found)
    assert curve.scores.tolist() == [0.9, 0.8, 0.7, 0.1]
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 2 / 4])
    assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert (curve.truth_count, curve.best_index) == (3, 2)


def test_equal_scores_are_one_point_of_the_curve():
    real = frames([thing(0), thing(100)])
    curve = metrics.precision_recall_curve(
        real, frames([thing(0, 0.5), thing(300, 0.5), thing(100, 0.5)])
    )
    assert (curve.precision.tolist(), curve.recall.tolist()) == ([pytest.approx(2 / 3)], [1.0])


def test_what_was_found_twice_is_right_once():
    curve = metrics.precision_recall_curve(
        frames([thing(0)]), frames([thing(0, 0.9), thing(1, 0.8)])
    )
    assert (curve.precision.tolist(), curve.recall.tolist()) == ([1.0, 0.5], [1.0, 1.0])


def test_nothing_found_has_no_best_threshold():
    assert metrics.precision_recall_curve(frames([thing(0)]), {}).best_index is None
    assert metrics.average_precision(frames([thing(0)]), {}, ["mech"]) == (0.0, 0.0)


def test_without_truth_there_is_no_average_precision():
    assert np.isnan(metrics.average_precision(frames([]), frames([thing(0, 1)]), ["mech"])).all()


def coco_average_precision(real, found, label):
    """AP and AP50 of a class as pycocotools' own example computes them."""
    images = [{"id": n, "width": 900, "height": 100} for _, n in real]
    rows = [(n, o) for (_, n), objects in real.items() for o in objects if o.label == label]
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
        for (_, n), objects in found.items()
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
    deal = random.Random(seed)
    labels = ["mech", "tank"]
    real, found = {}, {}
    for n in range(30):
        there = [thing(200 * k, None, deal.choice(labels), 80.0) for k in range(3)]
        seen = [o for o in there if deal.random() < 0.8]
        moved = [thing(o.box[0] + deal.gauss(0, 9), deal.random(), o.label, 80.0) for o in seen]
        real["a.mp4", n] = there
        found["a.mp4", n] = [*moved, thing(700, deal.random(), deal.choice(labels), 80.0)]
    expected = np.mean([coco_average_precision(real, found, label) for label in labels], axis=0)
    ap, ap50 = metrics.average_precision(real, found, labels)
    assert ap == pytest.approx(expected[0], abs=1e-9)
    assert ap50 == pytest.approx(expected[1], abs=1e-9)


def test_boxes_without_scores_are_worth_the_same_in_any_order():
    real = frames([thing(0), thing(100)], [thing(50)])
    one = frames([thing(0), thing(300), thing(100)], [])
    other = frames([thing(300), thing(100), thing(0)], [])
    both = [metrics.average_precision(real, each, ["mech"])[1] for each in (one, other)]
    assert both == [pytest.approx(2 / 3 * 67 / 101)] * 2  # precision 2/3 up to recall 2/3


def test_agreement_is_of_what_both_say():
    one = frames([thing(0), thing(100)], [])
    same, other = frames([thing(1), thing(300)], []), frames([thing(0, label="tank")], [])
    assert metrics.agreement(one, one) == metrics.Agreement(1.0, 1.0)
    assert metrics.agreement(one, same).f1 == 0.5
    assert metrics.agreement(one, same).iou == pytest.approx(19 / 21)
    assert metrics.agreement(one, other).f1 == 0 and np.isnan(metrics.agreement(one, other).iou)
    assert np.isnan(metrics.agreement(frames([]), frames([])).f1)


# --- what is asked for ---


@pytest.fixture
def words():
    told = {"mech": {"colour": {"hue_degrees": [0, 20]}, "asks": ["red square", "corner marks"]}}
    return Vocabulary("mechs.v1", {"plate": {}, **told}, "5e1f" * 16)


def test_an_entry_is_a_detector_and_its_options(words):
    entry = run_spec.parse_run_spec("colour:min_score=0.6,min_area=9", words)
    assert (entry.detector, entry.options) == ("colour", {"min_score": "0.6", "min_area": "9"})
    assert entry.labels == ("mech",) and entry.title == "colour:min_score=0.6,min_area=9"
    entry = run_spec.parse_run_spec("strict one=colour:min_score=0.6", words)
    assert (entry.title, entry.detector) == ("strict one", "colour")
    entry = run_spec.parse_run_spec('ensemble:members="colour, yolo",weights=colour=2', words)
    assert entry.options == {"members": "colour, yolo", "weights": "colour=2"}


@pytest.mark.parametrize(
    "text, error, said",
    [
        ("color", UnknownName, "did you mean 'colour'"),
        ("colour:min_scroe=1", UnknownName, "did you mean 'min_score'"),
        ("colour:min_score", AnnotateError, "expected KEY=VALUE after colour:, got 'min_score'"),
        ("colour:min_area=few", AnnotateError, "min_area must be int, got 'few'"),
    ],
)
def test_an_entry_is_checked_before_anything_runs(words, text, error, said):
    with pytest.raises(error, match=said):
        run_spec.parse_run_spec(text, words)


def test_each_alternative_can_be_a_column(words):
    entry = run_spec.RunSpec("asks", "asks", {}, words)
    whole, first, second = run_spec.split_by_phrase(entry)
    assert (whole, first.phrase, second.phrase) == (entry, "red square", "corner marks")
    assert first.vocabulary.labels == words.labels
    assert first.vocabulary.phrases("asks") == {1: ["red square"]}
    assert len({each.folder_name for each in (whole, first, second)}) == 3
    assert len({each.vocabulary.sha256 for each in (whole, first, second)}) == 3


# --- what is true ---


@pytest.fixture
def seen(demo):
    return frame_sources.open_source(demo, reader.FrameSelection(stop=3))


def test_truth_of_coco_with_the_frame_as_id(seen, demo):
    told = ground_truth.read_for_source(demo.with_name("demo.gt.json"), seen)
    assert "designator" in told.labels and len(told.objects) == 140
    [first] = metrics.filter_objects(told.objects, ["designator"])["demo.mp4", 0]
    assert first.score is None and first.box[0] < first.box[2]


def test_truth_of_items_is_the_same_as_that_of_a_dataset_and_its_export(seen, annotate, demo):
    words = ("detect", demo, "-d", "colour", "-v", "designator.v1", "-o", "b.jsonl", "--stop", 3)
    assert annotate(*words)[0] == 0
    assert annotate("build", "b.jsonl", "-o", "set")[0] == 0
    assert annotate("export", "set", "--to", "coco", "-o", "coco")[0] == 0
    exported = "coco/annotations/instances_train.json"
    told = [
        ground_truth.read_for_source(type(demo)(path), seen)
        for path in ("b.jsonl", "set", exported)
    ]
    boxes = [{k: [o.box for o in things] for k, things in t.objects.items()} for t in told]
    assert boxes[0] == boxes[1] and len(boxes[0]) == 3 and any(boxes[0].values())
    for key, exact in boxes[0].items():
        np.testing.assert_allclose(boxes[2][key], exact, atol=1e-5)


def test_truth_of_other_clips_is_refused(seen, tmp_path):
    items = [Item(name, 0, Fraction(0), 800, 600) for name in ("x.mp4", "y.mp4")]
    videos = {name: {"fingerprint": name} for name in ("x.mp4", "y.mp4")}
    journal.write(tmp_path / "t.jsonl", Header("test", videos=videos), items)
    with pytest.raises(
        ItemsError, match=r"no ground truth of demo\.mp4; its clips: x\.mp4, y\.mp4"
    ):
        ground_truth.read_for_source(tmp_path / "t.jsonl", seen)


# --- the command ---

TWICE = ("-d", "colour", "-d", "colour:min_score=0.6", "-v", "designator.v1")


def test_a_comparison_is_a_table_curves_and_a_sheet(annotate, demo, tmp_path):
    """And the same again runs nothing anew."""
    gt = demo.with_name("demo.gt.json")
    asked = ("compare", demo, *TWICE, "--truth", gt, "-o", "out", "--max-frames", 12, "--rows", 3)
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
    code, _, err = annotate("compare", "set", *TWICE, "-o", "out")
    assert code == 0, err
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert table["AP50"].tolist() == [1.0, 1.0]  # what it found is the truth here
    assert len(list(journal.read("out/columns/colour/items.jsonl"))) == 3


def test_without_truth_detectors_are_held_against_each_other(annotate, demo):
    code, _, err = annotate("compare", demo, *TWICE, "-o", "out", "--max-frames", 4)
    assert code == 0, err
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert table["AP"].isna().all() and table["agreement F1"].between(0.1, 1).all()
    [pair] = pd.read_csv("out/agreement.csv").to_dict("records")
    assert (pair["detector"], pair["other"], pair["IoU"]) == ("colour", "colour:min_score=0.6", 1.0)
    assert not (type(demo)("out") / "curves.png").exists()


def test_what_to_look_for_must_be_said(annotate, demo):
    code, _, err = annotate("compare", demo, "-d", "colour", "-o", "out")
    assert code == 1 and "no classes to look for" in err


def test_truth_of_other_classes_is_refused(words):
    with pytest.raises(UnknownName, match="no class in the truth 'plate'"):
        comparison.check_classes(ground_truth.GroundTruth(("Demon",), {}), words)


def test_the_same_column_twice_is_refused(seen, tmp_path, words):
    entries = [run_spec.RunSpec("colour", "colour", {}, words)] * 2
    with pytest.raises(OutputError, match="give each once"):
        list(runs.run_all(entries, seen, tmp_path, progress=None))


def test_weights_that_are_used_twice_count_once(tmp_path):
    one, folder = tmp_path / "one.pt", tmp_path / "folder"
    one.write_bytes(b"12345")
    folder.mkdir()
    (folder / "two.bin").write_bytes(b"123")
    used = {"model": str(one), "first": {"model": str(one)}, "then": {"checkpoint": str(folder)}}
    assert runs.weights_size_bytes(used) == 8
    assert runs.weights_size_bytes({"model": "no-such-model", "min_score": 0.5}) is None


def test_specs_that_differ_say_how(seen, words):
    facts = frame_sources.source_to_record(seen)
    one = runs.WorkerSpec("colour", {}, vars(words), facts, 8)
    other = runs.WorkerSpec("colour", {"min_score": "0.6"}, vars(words), facts, 8)
    assert one.differences(one) == []
    assert one.differences(other) == ["options: {}, not {'min_score': '0.6'}"]
    assert issubclass(SettingsDiffer, ItemsError)


# --- a stranger's package ---

STRANGER = '''
"""Detectors that annotate-local has never heard of."""
import os
from dataclasses import dataclass

import numpy as np
import supervision as sv

from annotate.items.records import Frame, Vocabulary


@dataclass(frozen=True)
class Whole:
    """A box round the whole picture, for each class that is told anything."""

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
name = "a-strangers-detectors"
version = "3.1"

[tool.hatch.build.targets.wheel]
include = ["stranger.py"]

[project.entry-points."annotate.detectors"]
whole = "stranger:Whole"
"""
TOLD = """
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
def strangers(site, tmp_path):
    """Runs a command line where the stranger's package is installed."""
    (tmp_path / "words.v1.toml").write_text(TOLD)

    def run(*words):
        command = [sys.executable, "-m", "annotate", *map(str, words)]
        python_path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        env = os.environ | {"PYTHONPATH": python_path}
        return subprocess.run(command, capture_output=True, text=True, env=env)

    return run


def test_a_strangers_detector_is_a_detector(strangers, demo):
    listed = strangers("detectors")
    assert "whole\tA box round the whole picture" in listed.stdout and "border=0" in listed.stdout
    asked = ("-d", "whole", "-v", "words.v1.toml", "-o", "b.jsonl", "--stop", 2)
    found = strangers("detect", demo, *asked, "--set", "border=5")
    assert found.returncode == 0, found.stderr
    assert [item.objects[0].box for item in journal.read("b.jsonl")] == [(5, 5, 795, 595)] * 2


def test_a_crash_costs_one_column_and_memory_is_a_columns_own(strangers, demo, tmp_path):
    ends = [f"whole:how_it_ends={end}" for end in ("abort", "raise")]
    asked = ["whole:mebibytes=300", "colour", *ends]
    options = [word for each in asked for word in ("-d", each)]
    gt = demo.with_name("demo.gt.json")
    words = ("compare", demo, *options, "-v", "words.v1.toml", "--truth", gt, "--max-frames", 4)
    held = strangers(*words, "-o", "out")
    assert held.returncode == 1
    failed = "whole:how_it_ends=abort, whole:how_it_ends=raise: failed; run the same command"
    assert failed in held.stderr
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert table.loc["whole:mebibytes=300", ["precision", "recall"]].tolist() == [0, 0]
    assert table.loc["colour", "AP50"] > 0.9 and table.loc["whole:mebibytes=300", "AP50"] == 0
    memory = table["memory MiB"]
    assert memory["whole:mebibytes=300"] > memory["colour"] + 200
    assert table.loc["whole:mebibytes=300", "remark"] == "gives no scores"
    assert table.loc[ends[0], "remark"].startswith("failed: killed by signal 6")
    assert table.loc[ends[1], "remark"] == "failed: RuntimeError: out of cheese"
    assert size("out/sheet.png")[0] > 3 * 400  # truth, and the two that ran


def test_each_phrase_is_a_column(strangers, demo):
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
    held = strangers(*words, "-o", "out")
    assert held.returncode == 0, held.stderr
    table = pd.read_csv("out/table.csv", index_col="detector")
    assert list(table.index) == ["whole", "whole “everything”", "whole “all of it”"]
    assert table["boxes/frame"].tolist() == [1, 1, 1] and table["agreement F1"].tolist() == [1] * 3
