import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import curve_samples
import pytest

from annotate.errors import AnnotateError, DatasetError, ItemsError, SettingsDiffer, UnknownName
from annotate.learning_curve import run
from annotate.learning_curve.arms import ARMS
from annotate.learning_curve.results import PERFECT
from annotate.learning_curve.run import LearningCurve, measure_curve

SMALL = {
    "touches": [12],
    "seeds": 1,
    "every": 2,
    "epochs": 2,
    "image_size": 128,
    "trainer_options": {"copies": 2, "dropout": 0.0, "min_steps": 20},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return curve_samples.curve_inputs(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True, scope="module")
def fast_propagator():
    """Track red patches in place of the engine `light`, which takes seconds for each object."""
    with pytest.MonkeyPatch.context() as patch:
        engines = SimpleNamespace(load=lambda name, **options: curve_samples.RedTracker())
        patch.setattr(run, "PROPAGATORS", engines)
        yield


@pytest.fixture(scope="module")
def measured(inputs, tmp_path_factory):
    """A curve of all arms, its folder, and the lines that were said."""
    output, lines = tmp_path_factory.mktemp("curve") / "curve", []
    curve = LearningCurve(**inputs, output=output, **SMALL)
    return curve, measure_curve(curve, say=lines.append), lines


def test_every_arm_spends_no_more_than_it_has(measured):
    curve, result, lines = measured
    assert {row.arm for row in result.rows} == set(ARMS)
    assert all(0 < row.spent <= row.touches == 12 for row in result.rows)
    by_arm = {row.arm: row for row in result.rows}
    # one class: a frame takes a look and two for each box
    assert by_arm["drawn"].spent == by_arm["drawn"].frames + 2 * by_arm["drawn"].objects
    # clicks cost so little that more frames are labelled than a person could draw
    assert by_arm["clicked"].frames > by_arm["drawn"].frames
    assert len(lines) == 1 + len(ARMS)
    assert not curve.output.with_name("curve.work").exists()


def test_the_table_has_a_row_for_each_arm_and_one_of_perfect_labels(measured):
    curve, result, _ = measured
    with (curve.output / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == [PERFECT, *ARMS]
    perfect = rows[0]
    assert (perfect["frames"], perfect["objects"]) == ("8", "12")
    assert perfect["spent"] == str(8 + 2 * 12)
    assert (perfect["ratio"], perfect["low"], perfect["high"]) == ("1.0000",) * 3
    drawn = next(row for row in rows if row["arm"] == "drawn")
    ratio = result.ratio("drawn", 12)
    assert drawn["ratio"] == f"{ratio.value:.4f}" and drawn["low"] == f"{ratio.interval[0]:.4f}"
    assert (curve.output / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "| clicked / drawn | " in (curve.output / "table.md").read_text()
    assert json.loads((curve.output / "settings.json").read_text())["every"] == 2


def test_a_curve_that_was_stopped_goes_on_to_the_same_bytes(measured, tmp_path, monkeypatch):
    curve, _, _ = measured
    trained = []
    train = run.Laboratory._train

    def stop_at_the_second(self, labels, seed):
        trained.append(len(labels))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(self, labels, seed)

    monkeypatch.setattr(run.Laboratory, "_train", stop_at_the_second)
    short = replace(curve, arms=["drawn"], output=tmp_path / "curve")
    with pytest.raises(KeyboardInterrupt):
        measure_curve(short)
    assert not short.output.exists()
    with pytest.raises(SettingsDiffer, match="epochs: 2 in the folder, 3 now"):
        measure_curve(replace(short, epochs=3))
    measure_curve(short)
    assert trained.count(8) == 1  # perfect labels are not learned again
    whole = (curve.output / "curve.csv").read_text().splitlines()
    assert (short.output / "curve.csv").read_text().splitlines() == whole[:3]


def test_force_keeps_what_was_measured_with_the_same_settings(measured, monkeypatch):
    curve, result, _ = measured
    monkeypatch.setattr(run.Laboratory, "_train", None)
    fewer = replace(curve, arms=["drawn"])
    before = (curve.output / "curve.csv").read_bytes()
    again = measure_curve(fewer, force=True)
    assert again.ratio("drawn", 12) == result.ratio("drawn", 12)
    assert before.startswith((curve.output / "curve.csv").read_bytes())


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"arms": ["drwan"]}, UnknownName, "no arm 'drwan'; did you mean 'drawn'"),
        ({"touches": [0]}, AnnotateError, "`touches` must be 1 or more, got 0"),
        ({"touches": []}, AnnotateError, "`touches` must be 1 or more, got 0"),
        ({"seeds": 0}, AnnotateError, "`seeds` must be 1 or more, got 0"),
        ({"val": []}, AnnotateError, "needs clips to label, clips as `val`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(inputs, tmp_path, changes, error, text):
    with pytest.raises(error, match=text):
        LearningCurve(**{**inputs, "output": tmp_path / "curve", **SMALL, **changes})


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda i: {"val": i["truth"][:1]}, ItemsError, "dock1: is among the clips to label and"),
        (lambda i: {"classes": ["pod"]}, DatasetError, "no object is in train"),
        (lambda i: {"gold": i["truth"][0]}, DatasetError, "not a dataset"),
    ],
)
def test_clips_that_cannot_be_measured_on_are_refused(inputs, tmp_path, change, error, text):
    curve = LearningCurve(**{**inputs, "output": tmp_path / "curve", **SMALL, **change(inputs)})
    with pytest.raises(error, match=text):
        measure_curve(curve)
    assert not list(tmp_path.iterdir())


def test_gold_must_not_have_a_clip_to_label(inputs, tmp_path):
    from annotate.dataset.build import build_dataset

    build_dataset([*inputs["truth"][:1], *inputs["val"]], tmp_path / "gold", every=4)
    curve = LearningCurve(
        **{**inputs, "gold": tmp_path / "gold"}, output=tmp_path / "curve", **SMALL
    )
    with pytest.raises(DatasetError, match="is the same clip as dock1"):
        measure_curve(curve)
    assert not (tmp_path / "curve").exists() and not (tmp_path / "curve.work").exists()
