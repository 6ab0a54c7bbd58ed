"""Scores that mean the same for every detector, learnt from corrected frames."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate import vocabulary
from annotate.detectors.run import DETECTORS
from annotate.errors import AnnotateError, ItemsError, UnknownName
from annotate.evaluation import calibration
from annotate.evaluation.calibration import CalibratedDetector, CalibrationCurve, read_curves
from annotate.items import journal
from annotate.items.records import Header, Item, Object
from annotate.video import reader

BOX, ELSEWHERE = (10.0, 10.0, 50.0, 50.0), (200.0, 200.0, 240.0, 250.0)


def item(frame, *objects):
    return Item("dock.mp4", frame, Fraction(frame, 30), 640, 480, tuple(objects))


def files(folder, found, source="colour"):
    """Items of a detector that found (score, right) on each frame; and the truth."""
    true = [item(n, Object("mug", BOX)) for n in range(len(found))]
    seen = [
        item(n, Object("mug", BOX if right else ELSEWHERE, score, source=source))
        for n, (score, right) in enumerate(found)
    ]
    journal.write(folder / f"{source}.jsonl", Header("detect"), seen)
    journal.write(folder / "truth.jsonl", Header("corrected"), true)
    return folder / f"{source}.jsonl", folder / "truth.jsonl"


def drawn(count, seed=0):
    """A detector whose boxes of score s are right s * s of the time: surer than it should be."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, count)
    return list(
        zip(scores.round(6).tolist(), (rng.uniform(0, 1, count) < scores**2).tolist(), strict=True)
    )


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_a_score_becomes_the_share_that_is_right(method, tmp_path):
    seen, truth = files(tmp_path, drawn(3000))
    [learnt] = calibration.fit_curves([seen], truth, method=method)
    assert (learnt.source, learnt.label, learnt.box_count) == ("colour", "mug", 3000)
    assert learnt.brier_after < learnt.brier_before
    scores = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(learnt.curve(scores), scores**2, atol=0.09)
    assert (np.diff(learnt.curve(np.linspace(0, 1, 101))) >= 0).all()


def test_many_boxes_are_fitted_freely_and_few_are_not(tmp_path):
    for count, method in ((999, "platt"), (1000, "isotonic")):
        [learnt] = calibration.fit_curves(
            [*files(tmp_path, drawn(count))[:1]], tmp_path / "truth.jsonl"
        )
        assert learnt.curve.method == method


def test_boxes_without_a_score_get_the_share_of_them_that_is_right(tmp_path):
    seen, truth = files(tmp_path, [(None, n < 15) for n in range(20)], "moondream")
    [learnt] = calibration.fit_curves([seen], truth)
    assert learnt.curve(np.array([np.nan])).tolist() == [pytest.approx(16 / 22)]
    [bare] = calibration.fit_curves([files(tmp_path, drawn(50))[0]], truth)
    assert np.isnan(bare.curve(np.array([np.nan])))


def test_always_right_is_not_certain(tmp_path):
    seen, truth = files(tmp_path, [(n / 20, True) for n in range(20)])
    [learnt] = calibration.fit_curves([seen], truth)
    assert learnt.curve(np.array([0.1, 0.9])).tolist() == [pytest.approx(21 / 22)] * 2


def test_a_second_box_on_a_thing_is_wrong(tmp_path):
    twice = [
        item(n, *(Object("mug", BOX, score, source="colour") for score in (0.9, 0.4)))
        for n in range(30)
    ]
    journal.write(tmp_path / "twice.jsonl", Header("detect"), twice)
    _, truth = files(tmp_path, drawn(30))
    [learnt] = calibration.fit_curves([tmp_path / "twice.jsonl"], truth)
    assert (learnt.box_count, learnt.correct_count) == (60, 30)
    assert learnt.curve(np.array([0.9]))[0] > 0.9 and learnt.curve(np.array([0.4]))[0] < 0.1


def test_too_few_or_of_other_frames_is_an_error(tmp_path):
    seen, truth = files(tmp_path, drawn(9))
    with pytest.raises(AnnotateError, match="no class has 10 boxes to learn from"):
        calibration.fit_curves([seen], truth)
    journal.write(tmp_path / "other.jsonl", Header("detect"), [item(999)])
    with pytest.raises(ItemsError, match="none of its frames"):
        calibration.fit_curves([tmp_path / "other.jsonl"], truth)


def test_the_commands(demo, tmp_path, annotate):
    told = ("-d", "colour", "-v", "designator.v1", "--stop", 40)
    assert annotate("detect", demo, *told, "-o", "boxes.jsonl")[0] == 0
    found = list(journal.read("boxes.jsonl"))
    odd = [Item(**{**vars(i), "objects": i.objects if i.frame % 4 else ()}) for i in found]
    journal.write("truth.jsonl", Header("corrected"), odd)
    words = ("calibrate-scores", "boxes.jsonl", "--truth", "truth.jsonl", "-o", "scores.json")
    code, out, err = annotate(*words)
    assert code == 0, err
    assert "colour\tdesignator\t" in out and annotate(*words)[0] == 1
    calibrated = (*told, "--calibration", "scores.json")
    assert annotate("detect", demo, *calibrated, "-o", "new.jsonl")[0] == 0
    curve = read_curves(tmp_path / "scores.json")["colour"]["designator"]
    for one, other in zip(found, journal.read("new.jsonl"), strict=True):
        assert [o.box for o in one.objects] == [o.box for o in other.objects]
        expected = curve(np.array([o.score for o in one.objects]))
        np.testing.assert_allclose([o.score for o in other.objects], expected, atol=1e-5)
    assert "calibration_sha256" in journal.read("new.jsonl").header.settings
    code, _, err = annotate("detect", demo, *told, "-o", "new.jsonl")
    assert code == 1 and "made with" in err


def test_what_is_no_calibration_or_not_of_this_detector(tmp_path, demo):
    words = vocabulary.read_vocabulary("designator.v1")
    colour = DETECTORS.load("colour", words)
    (tmp_path / "bad.json").write_text('{"annotate": 1}')
    with pytest.raises(AnnotateError, match="bad.json: not a calibration of scores"):
        CalibratedDetector(colour, "colour", tmp_path / "bad.json")
    with pytest.raises(AnnotateError, match="No such file"):
        CalibratedDetector(colour, "colour", tmp_path / "none.json")
    seen, truth = files(tmp_path, drawn(50), "color")
    calibration.write_curves(calibration.fit_curves([seen], truth), tmp_path / "s.json")
    with pytest.raises(UnknownName, match="no detector in .*'colour'; did you mean 'color'"):
        CalibratedDetector(colour, "colour", tmp_path / "s.json")
    calibration.write_curves(
        calibration.fit_curves([files(tmp_path, drawn(50))[0]], truth), tmp_path / "c.json"
    )
    [frame] = reader.frames_at(demo, [0])
    [before], [after] = (
        each.propose([frame])
        for each in (colour, CalibratedDetector(colour, "colour", tmp_path / "c.json"))
    )
    np.testing.assert_array_equal(before.confidence, after.confidence)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_a_curve_gives_shares(scores):
    for curve in (
        CalibrationCurve("platt", 9, slope=3.0, offset=-1),
        CalibrationCurve("isotonic", 9, (0.2, 0.4), (0.1, 1.0)),
    ):
        given = curve(np.array(scores))
        assert ((given >= 0) & (given <= 1)).all()
