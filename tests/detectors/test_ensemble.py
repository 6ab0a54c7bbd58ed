"""Several detectors joined: `ensemble`, and one that confirms another: `cascade`."""

from dataclasses import dataclass
from fractions import Fraction

import detector_contract
import numpy as np
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st
from vlm_server import serving, truth

from annotate import plugins, vocabulary
from annotate.detectors.ensemble import MemberBoxes, parse_pairs, weighted_boxes_fusion
from annotate.detectors.run import DETECTORS, check_ready, detector_settings
from annotate.errors import AnnotateError, PluginError, UnknownName
from annotate.items.records import Frame, Vocabulary
from annotate.video import reader
from annotate.vlm import budget

NAN = float("nan")
WORDS = Vocabulary("mugs.v1", {"plate": {}, "mug": {}}, "5e1f")


@dataclass(frozen=True)
class Says:
    """A detector that says what it is told: class x1 y1 x2 y2 score; semicolons between boxes."""

    vocabulary: Vocabulary
    boxes: str = ""
    phrase: str = ""

    def propose(self, frames):
        rows = [[float(word) for word in text.split()] for text in self.boxes.split(";") if text]
        table = np.array(rows, float).reshape(-1, 6)
        words = np.full(len(table), self.phrase, dtype="U20")
        return [
            sv.Detections(
                table[:, 1:5],
                class_id=table[:, 0].astype(int),
                confidence=table[:, 5],
                data={"phrase": words} if self.phrase else {},
            )
            for _ in frames
        ]


@pytest.mark.parametrize(
    "name, options, told",
    [
        (
            "ensemble",
            {"members": "a=says, b=says", "min_votes": 3},
            "min_votes must be 1 to 2, got 3",
        ),
        ("ensemble", {"members": "says", "min_iou": 0.0}, "min_iou must be over 0, to 1"),
        ("cascade", {"margin": -1.0}, "margin must be 0 or more"),
    ],
)
def test_numbers_that_cannot_be_are_refused_at_once(name, options, told):
    with pytest.raises(AnnotateError, match=told):
        DETECTORS.load(name, WORDS, **options)


@pytest.fixture(autouse=True)
def says(tmp_path, monkeypatch):
    """`says` is installed as a stranger's detector would be."""
    told = tmp_path / "says-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: says\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[annotate.detectors]\nsays = {__name__}:Says\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()


FRAME = Frame("dock.mp4", 0, Fraction(0), np.zeros((60, 80, 3), np.uint8))


BROKEN = {
    "few": [],
    "no score": [sv.Detections(np.array([[10.0, 10, 30, 30]]), class_id=np.array([1]))],
}


@pytest.mark.parametrize(
    "boxes, rule",
    [
        ("7 10 10 30 30 0.9", "class_id"),
        ("1 30 10 10 30 0.9", "its end is before its start"),
        ("1 10 10 30 30 2.5", "the score 2.5 is not in 0..1"),
        ("no score", "did not set class_id and confidence"),
        ("few", "gave 0 Detections for 1 frames"),
    ],
)
def test_a_nested_detector_that_breaks_its_contract_is_named(boxes, rule, monkeypatch):
    good, bad = "1 10 10 30 30 0.9", boxes
    if boxes in BROKEN:
        bad, propose = "0 0 0 0 0 0", Says.propose
        monkeypatch.setattr(
            Says,
            "propose",
            lambda it, frames: BROKEN[boxes] if it.boxes == bad else propose(it, frames),
        )
    cascade = {"first": "says", "second": "says"}
    for name, options, source in (
        ("ensemble", {"members": "a=says, b=says", "options": ("a", good, "b", bad)}, "member b"),
        ("cascade", cascade | {"options": ("first", bad, "second", good)}, r"first \(says\)"),
        ("cascade", cascade | {"options": ("first", good, "second", bad)}, r"second \(says\)"),
    ):
        one, one_boxes, other, other_boxes = options["options"]
        options["options"] = f"{one}.boxes='{one_boxes}' {other}.boxes='{other_boxes}'"
        with pytest.raises(PluginError, match=f"{name}: {source}: dock.mp4.*{rule}"):
            DETECTORS.load(name, WORDS, **options).propose([FRAME])


def ensemble(one, other, **options):
    told = f"a.boxes='{one}' b.boxes='{other}' b.phrase=cup"
    return DETECTORS.load("ensemble", WORDS, members="a=says, b=says", options=told, **options)


def test_what_both_see_is_one_box_between_theirs():
    [found] = ensemble("1 10 10 30 30 0.9", "1 12 10 32 30 0.3").propose([FRAME])
    np.testing.assert_allclose(found.xyxy, [[10.5, 10, 30.5, 30]])
    assert found.confidence.tolist() == [pytest.approx(0.6)] and found.class_id.tolist() == [1]
    assert found.data["phrase"].tolist() == ["cup"]


def test_what_one_alone_sees_counts_for_half():
    [found] = ensemble("1 10 10 30 30 0.9;0 10 10 30 30 0.9", "1 50 10 70 30 0.4").propose([FRAME])
    assert found.class_id.tolist() == [0, 1, 1]
    assert found.confidence.tolist() == pytest.approx([0.45, 0.45, 0.2])


def test_no_score_is_made_up():
    """A box without a score moves the corners, and leaves the score to those that have one."""
    [found] = ensemble(f"1 10 10 30 30 {NAN};0 40 10 60 30 {NAN}", "1 12 10 32 30 0.5").propose(
        [FRAME]
    )
    assert np.isnan(found.confidence[0]) and found.class_id[0] == 0
    np.testing.assert_allclose(found.xyxy[1], [11, 10, 31, 30])
    assert found.confidence[1] == pytest.approx(0.5)


def test_votes_weights_and_thresholds():
    one, other = "1 10 10 30 30 0.9;0 40 10 60 30 0.9", "1 12 10 32 30 0.3"
    [found] = ensemble(one, other, min_votes=2).propose([FRAME])
    assert found.class_id.tolist() == [1]
    [found] = ensemble(one, other, score="votes").propose([FRAME])
    assert sorted(found.confidence.tolist()) == [0.5, 1.0]
    [found] = ensemble(one, other, thresholds="plate=0.5 mug=0.5").propose([FRAME])
    assert found.class_id.tolist() == [1]
    [found] = ensemble(one, other, weights="b=9").propose([FRAME])
    assert found.xyxy[-1 if found.class_id[-1] == 1 else 0][0] > 11.4


def test_settings_tell_of_all_members_and_wrong_ones_are_named():
    told = detector_settings(ensemble("1 10 10 30 30 0.9", ""))
    assert told["inside"]["a"]["boxes"] == "1 10 10 30 30 0.9"
    with pytest.raises(UnknownName, match="no member 'c'"):
        DETECTORS.load("ensemble", WORDS, members="says", options="c.boxes=1")
    with pytest.raises(UnknownName, match="no option of says 'box'; did you mean 'boxes'"):
        DETECTORS.load("ensemble", WORDS, members="says", options="says.box=1")
    with pytest.raises(UnknownName, match="no class 'mgu'; did you mean 'mug'"):
        DETECTORS.load("ensemble", WORDS, members="says", thresholds="mgu=0.5")
    with pytest.raises(AnnotateError, match="two members are 'says'"):
        DETECTORS.load("ensemble", WORDS, members="says, says")
    with pytest.raises(AnnotateError, match="no detectors are named"):
        check_ready(DETECTORS.load("ensemble", WORDS))


def test_options_may_hold_spaces():
    found = parse_pairs("a.box_format='relative 1000 xyxy', b.model=x", "A=B")
    assert found == {"a.box_format": "relative 1000 xyxy", "b.model": "x"}


# A straightforward weighted boxes fusion of two boxes, by the paper's formulas.
@settings(deadline=None)
@given(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.2, 3), st.floats(0.2, 3))
def test_two_boxes_fuse_as_in_the_paper(s1, s2, w1, w2):
    boxes = np.array([[10, 10, 30, 30], [11, 12, 31, 30]], float)
    [joined] = weighted_boxes_fusion(
        MemberBoxes(boxes, np.array([s1, s2]), np.array([0, 1])), [w1, w2]
    )
    c1, c2 = s1 * w1, s2 * w2
    np.testing.assert_allclose(joined.box, (c1 * boxes[0] + c2 * boxes[1]) / (c1 + c2))
    assert joined.score == pytest.approx((c1 + c2) / 2 * 2 / (w1 + w2))


def cascade(first, second, **options):
    told = f"first.boxes='{first}' second.boxes='{second}' second.phrase=cup"
    return DETECTORS.load("cascade", WORDS, first="says", second="says", options=told, **options)


def test_only_what_is_seen_again_in_the_crop_is_kept():
    """The crop of a box 20 wide begins 16 pixels before it: what is there is at 16 in the crop."""
    first = "1 20 20 40 40 0.5;0 20 20 40 40 0.5"
    [found] = cascade(first, "1 16 16 37 36 0.8").propose([FRAME])
    assert found.xyxy.tolist() == [[20, 20, 40, 40]] and found.confidence.tolist() == [0.5]
    assert found.class_id.tolist() == [1] and found.data["phrase"].tolist() == ["cup"]
    [found] = cascade(first, "1 16 16 37 36 0.8", box_from="second").propose([FRAME])
    assert found.xyxy.tolist() == [[20, 20, 41, 40]] and found.confidence.tolist() == [0.8]
    [found] = cascade(first, "1 0 0 9 9 0.8").propose([FRAME])
    assert len(found) == 0
    [found] = cascade("", "1 0 0 9 9 0.8").propose([FRAME])
    assert len(found) == 0
    with pytest.raises(AnnotateError, match="give both detectors"):
        check_ready(DETECTORS.load("cascade", WORDS, first="says"))


def test_the_contract_with_colour_and_a_model_behind_a_server(demo):
    """Colour proposes designators and a model that sees joins in; both speak to one server."""
    words = vocabulary.read_vocabulary("designator.v1")
    told = {"designator": {**words.classes["designator"], "moondream": "designator"}}
    frames = list(reader.frames_at(demo, [0, 30, 60]))
    with serving() as model:
        joined = DETECTORS.load(
            "ensemble",
            Vocabulary(words.name, told, words.sha256),
            members="colour moondream",
            options=f"moondream.endpoint={model.url}",
        )
        found = detector_contract.check(joined, frames)
        assert budget.total_usage(joined).questions == 3
    for frame, one in zip(frames, found, strict=True):
        expected = truth(frame.index, "designator")
        assert len(one) >= len(expected) > 0
        best = min(np.abs(one.xyxy - expected[0]).max(1))
        assert best < 6
