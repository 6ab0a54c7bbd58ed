import json
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


def write_files(folder, results, source="colour"):
    """Write the items of a detector, a (score, correct) for each frame, and the truth."""
    true = [item(n, Object("mug", BOX)) for n in range(len(results))]
    proposed = [
        item(n, Object("mug", BOX if correct else ELSEWHERE, score, source=source))
        for n, (score, correct) in enumerate(results)
    ]
    journal.write(folder / f"{source}.jsonl", Header("detect"), proposed)
    journal.write(folder / "truth.jsonl", Header("corrected"), true)
    return folder / f"{source}.jsonl", folder / "truth.jsonl"


def overconfident(count, seed=0):
    """Draw results of a detector: a box of score s is correct with probability s * s."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, count)
    return list(
        zip(scores.round(6).tolist(), (rng.uniform(0, 1, count) < scores**2).tolist(), strict=True)
    )


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_a_calibrated_score_is_the_share_of_correct_boxes(method, tmp_path):
    proposed, truth = write_files(tmp_path, overconfident(3000))
    [fitted] = calibration.fit_curves([proposed], truth, method=method)
    assert (fitted.source, fitted.label, fitted.box_count) == ("colour", "mug", 3000)
    assert fitted.brier_after < fitted.brier_before
    scores = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(fitted.curve(scores), scores**2, atol=0.09)
    assert (np.diff(fitted.curve(np.linspace(0, 1, 101))) >= 0).all()


def test_many_boxes_are_fitted_by_isotonic_regression_and_few_by_platt(tmp_path):
    for count, method in ((999, "platt"), (1000, "isotonic")):
        [fitted] = calibration.fit_curves(
            [*write_files(tmp_path, overconfident(count))[:1]], tmp_path / "truth.jsonl"
        )
        assert fitted.curve.method == method


def test_boxes_without_a_score_get_their_share_of_correct_boxes(tmp_path):
    proposed, truth = write_files(tmp_path, [(None, n < 15) for n in range(20)], "moondream")
    [fitted] = calibration.fit_curves([proposed], truth)
    assert fitted.curve(np.array([np.nan])).tolist() == [pytest.approx(16 / 22)]
    [bare] = calibration.fit_curves([write_files(tmp_path, overconfident(50))[0]], truth)
    assert np.isnan(bare.curve(np.array([np.nan])))


def test_a_detector_without_errors_gets_no_score_of_1(tmp_path):
    proposed, truth = write_files(tmp_path, [(n / 20, True) for n in range(20)])
    [fitted] = calibration.fit_curves([proposed], truth)
    assert fitted.curve(np.array([0.1, 0.9])).tolist() == [pytest.approx(21 / 22)] * 2


def test_a_second_box_on_an_object_is_wrong(tmp_path):
    twice = [
        item(n, *(Object("mug", BOX, score, source="colour") for score in (0.9, 0.4)))
        for n in range(30)
    ]
    journal.write(tmp_path / "twice.jsonl", Header("detect"), twice)
    _, truth = write_files(tmp_path, overconfident(30))
    [fitted] = calibration.fit_curves([tmp_path / "twice.jsonl"], truth)
    assert (fitted.box_count, fitted.correct_count) == (60, 30)
    assert fitted.curve(np.array([0.9]))[0] > 0.9 and fitted.curve(np.array([0.4]))[0] < 0.1


def test_too_few_boxes_or_other_frames_are_an_error(tmp_path):
    proposed, truth = write_files(tmp_path, overconfident(9))
    with pytest.raises(AnnotateError, match="no class has 10 boxes to learn from"):
        calibration.fit_curves([proposed], truth)
    journal.write(tmp_path / "other.jsonl", Header("detect"), [item(999)])
    with pytest.raises(ItemsError, match="none of its frames"):
        calibration.fit_curves([tmp_path / "other.jsonl"], truth)


def test_the_command_writes_curves_that_detect_applies(demo, tmp_path, annotate):
    options = ("-d", "colour", "-v", "designator.v1", "--stop", 40)
    assert annotate("detect", demo, *options, "-o", "boxes.jsonl")[0] == 0
    proposed = list(journal.read("boxes.jsonl"))
    corrected = [Item(**{**vars(i), "objects": i.objects if i.frame % 4 else ()}) for i in proposed]
    journal.write("truth.jsonl", Header("corrected"), corrected)
    command = ("calibrate-scores", "boxes.jsonl", "--truth", "truth.jsonl", "-o", "scores.json")
    code, out, err = annotate(*command)
    assert code == 0, err
    assert "colour\tdesignator\t" in out and annotate(*command)[0] == 1
    calibrated = (*options, "--calibration", "scores.json")
    assert annotate("detect", demo, *calibrated, "-o", "new.jsonl")[0] == 0
    curve = read_curves(tmp_path / "scores.json")["colour"]["designator"]
    for one, other in zip(proposed, journal.read("new.jsonl"), strict=True):
        assert [o.box for o in one.objects] == [o.box for o in other.objects]
        expected = curve(np.array([o.score for o in one.objects]))
        np.testing.assert_allclose([o.score for o in other.objects], expected, atol=1e-5)
    assert "calibration_sha256" in journal.read("new.jsonl").header.settings
    code, _, err = annotate("detect", demo, *options, "-o", "new.jsonl")
    assert code == 1 and "made with" in err


def test_a_calibration_that_cannot_be_used_is_refused(tmp_path, demo):
    colour = DETECTORS.load("colour", vocabulary.read_vocabulary("designator.v1"))
    (tmp_path / "bad.json").write_text('{"annotate": 1}')
    with pytest.raises(AnnotateError, match="bad.json: not a calibration of scores"):
        CalibratedDetector(colour, "colour", tmp_path / "bad.json")
    with pytest.raises(AnnotateError, match="No such file"):
        CalibratedDetector(colour, "colour", tmp_path / "none.json")
    proposed, truth = write_files(tmp_path, overconfident(50), "color")
    calibration.write_curves(calibration.fit_curves([proposed], truth), tmp_path / "s.json")
    with pytest.raises(UnknownName, match="no detector in .*'colour'; did you mean 'color'"):
        CalibratedDetector(colour, "colour", tmp_path / "s.json")
    calibration.write_curves(
        calibration.fit_curves([write_files(tmp_path, overconfident(50))[0]], truth),
        tmp_path / "c.json",
    )
    [frame] = reader.frames_at(demo, [0])
    [before], [after] = (
        each.propose([frame])
        for each in (colour, CalibratedDetector(colour, "colour", tmp_path / "c.json"))
    )
    np.testing.assert_array_equal(before.confidence, after.confidence)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_a_curve_gives_values_from_0_to_1(scores):
    for curve in (
        CalibrationCurve("platt", 9, slope=3.0, offset=-1),
        CalibrationCurve("isotonic", 9, (0.2, 0.4), (0.1, 1.0)),
    ):
        values = curve(np.array(scores))
        assert ((values >= 0) & (values <= 1)).all()


def test_what_was_left_out_of_the_truth_is_printed(tmp_path, annotate):
    proposed, _ = write_files(tmp_path, overconfident(20))
    x1, y1, x2, y2 = BOX
    box = [x1, y1, x2 - x1, y2 - y1]
    table = {
        "images": [{"id": n, "video": "dock.mp4"} for n in range(20)],
        "categories": [{"id": 1, "name": "mug"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": box if n else [1]} for n in range(20)
        ],
    }
    (tmp_path / "t.json").write_text(json.dumps(table))
    code, out, err = annotate("calibrate-scores", proposed, "--truth", "t.json", "-o", "s.json")
    assert code == 0 and "colour\tmug\t19\t" in out, err
    assert "1 image left out, because an annotation of theirs is damaged: t.json: annotat" in err
