import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
from PIL import Image
from sample_data import SHARED
from synthetic_footage import blurred, film, flat, page, pan, still, view

from annotate.errors import PromptError, UnknownName
from annotate.items.records import Frame
from annotate.prompts import ignore_mask
from annotate.sampling import duplicates, quality
from annotate.sampling.filter import FilterOptions, SamplingOptions, filter_frames, sampled_frames
from annotate.sampling.shots import detect
from annotate.sampling.thumbnail import Thumbnail
from annotate.video import reader
from annotate.video.reader import FrameSelection

pytest.importorskip("scenedetect")

ALL = SamplingOptions(shots=False)


def thumbnail(picture, index=0):
    return Thumbnail(Frame("a.mp4", index, Fraction(index, 10), np.asarray(picture)))


def decide_all(clip, options=ALL, **filter_options):
    """Return the frame index and the drop reason of every examined frame."""
    return [
        (decision.frame.index, decision.drop_reason)
        for decision in filter_frames(
            sampled_frames(clip, options), FilterOptions(**filter_options)
        )
    ]


def kept_indices(clip, options=ALL, **filter_options):
    return [index for index, reason in decide_all(clip, options, **filter_options) if not reason]


def test_cuts_are_detected_and_pans_are_not_cuts(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 20), still(2, 12), pan(3, 15))
    shots = list(detect(reader.frames(clip)))
    assert [(shot.start, shot.stop) for shot in shots] == [(0, 20), (20, 32), (32, 47)]
    assert [shot.start_seconds for shot in shots] == [0, 2, Fraction(16, 5)]


@pytest.mark.parametrize("shot", [still(1, 30), pan(1, 30)], ids=["still", "pan"])
def test_flash_is_not_a_cut(shot, tmp_path):
    shot[15] = np.clip(shot[15] * 0.4 + (150, 20, 20), 0, 255).astype(np.uint8)
    clip = film(tmp_path / "a.mp4", shot)
    assert len(list(detect(reader.frames(clip)))) == 1


def test_one_frame_of_each_shot_from_its_middle(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 20), still(2, 12), pan(3, 15))
    one, two, three = kept_indices(clip, SamplingOptions())
    assert 8 <= one <= 14 and 24 <= two <= 28 and 38 <= three <= 42


def test_long_shot_gives_one_frame_for_every_ten_seconds(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 160, 1), still(2, 12))
    assert len(kept_indices(clip, SamplingOptions(), everything=True)) == 3


def test_frame_of_a_shot_is_not_blurred(tmp_path):
    shot = pan(1, 30)
    shot[8:22] = [cv2.GaussianBlur(each, (0, 0), 6) for each in shot[8:22]]
    [index] = kept_indices(film(tmp_path / "a.mp4", shot), SamplingOptions())
    assert not 8 <= index < 22


def test_frame_of_a_shot_that_is_sharp_only_at_its_end(tmp_path):
    shot = pan(1, 11)
    shot[:10] = [cv2.GaussianBlur(each, (0, 0), 6) for each in shot[:10]]
    assert kept_indices(film(tmp_path / "a.mp4", shot), SamplingOptions()) == [10]


@pytest.fixture
def other_shot(demo):
    """A shot of another kind: the embeddings of all synthetic views are similar."""
    picture = cv2.resize(reader.seek(demo, 0).image, (320, 180), interpolation=cv2.INTER_AREA)
    return [picture] * 20


@pytest.mark.parametrize("method", ["ssim", "hash", "embedding"])
def test_duplicates_are_dropped_and_others_kept(method, other_shot, tmp_path):
    clip = film(tmp_path / "a.mp4", still(1), other_shot)
    assert kept_indices(clip, duplicates=method) == [0, 20]
    assert dict(decide_all(clip, duplicates=method))[5] == "duplicate"


@pytest.mark.parametrize(
    "method, expected", [("ssim", [0, 20, 40]), ("hash", [0, 20]), ("embedding", [0, 20])]
)
def test_repeated_shot_is_a_duplicate_by_hash_and_embedding(method, expected, other_shot, tmp_path):
    clip = film(tmp_path / "a.mp4", still(1), other_shot, still(1))
    assert kept_indices(clip, duplicates=method) == expected


def test_decision_has_the_most_similar_kept_frame(tmp_path):
    clip = film(tmp_path / "a.mp4", still(1, 3), still(2, 3))
    decisions = list(filter_frames(sampled_frames(clip, ALL), FilterOptions("hash")))
    assert decisions[5].nearest.frame == 3 and decisions[5].nearest.video == "a.mp4"
    assert decisions[5].nearest.similarity > 0.9 > decisions[3].nearest.similarity


def test_kept_frames_can_be_shared_by_clips(tmp_path):
    kept_frames = duplicates.kept_frames("hash", duplicates.resolve_threshold("hash"))
    clips = [film(tmp_path / name, still(1)) for name in ("a.mp4", "b.mp4")]
    decisions = [
        list(filter_frames(sampled_frames(clip, ALL), FilterOptions("hash"), kept_frames))
        for clip in clips
    ]
    assert [sum(not d.drop_reason for d in clip_decisions) for clip_decisions in decisions] == [
        1,
        0,
    ]
    assert decisions[1][0].nearest.video == "a.mp4"


def test_threshold_of_one_drops_only_equal_frames(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 10))
    assert len(kept_indices(clip, threshold=1.0)) == 10
    assert len(kept_indices(clip, threshold=0.0)) == 1


def test_frames_without_content_have_different_reasons(tmp_path):
    clip = film(tmp_path / "a.mp4", flat(0), still(1, 10), blurred(2), page(), flat(200))
    reasons = dict(decide_all(clip, SamplingOptions(False, FrameSelection(every=5))))
    expected = ["blank", "", "blurred", "static", "static", "blank"]
    assert [reasons[index] for index in (0, 10, 20, 30, 45, 50)] == expected
    assert {reason for _, reason in decide_all(clip, everything=True)} == {""}


def test_page_is_static_from_its_first_frame_unless_it_is_short(tmp_path):
    clip = film(tmp_path / "a.mp4", still(1, 5), page(20), still(2, 5), page(5), still(3, 5))
    reasons = dict(decide_all(clip))
    assert {reasons[index] for index in range(5, 25)} == {"static"}
    assert reasons[30] == "" and reasons[31] == "duplicate"


def test_undecided_frames_of_a_page_share_an_image(tmp_path):
    samples = list(sampled_frames(film(tmp_path / "a.mp4", page(30)), ALL))
    assert len({id(each.thumbnail.frame.image) for each in samples[:10]}) == 1
    assert [each.thumbnail.frame.index for each in samples] == list(range(30))


def test_shot_of_a_page_is_static(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 20), page(20), pan(2, 20))
    assert [reason for _, reason in decide_all(clip, SamplingOptions())] == ["", "static", ""]


def test_textured_still_frame_is_not_static(tmp_path):
    assert decide_all(film(tmp_path / "a.mp4", still(1, 30)))[0] == (0, "")


def test_low_contrast_is_not_blur():
    pale = thumbnail((view(1) * 0.15 + 100).astype(np.uint8))
    assert not quality.is_blurred(pale) and not quality.is_blank(pale)
    assert quality.is_blurred(thumbnail(blurred(1)[0]))


def with_counter(picture, value):
    """Draw a counter over a quarter of the picture."""
    shown = picture.copy()
    shown[:90, :160] = np.random.default_rng(value).integers(0, 2, (9, 16, 1)).repeat(10, 0).repeat(
        10, 1
    ) * np.uint8(255)
    return shown


@pytest.mark.parametrize("method", ["ssim", "hash"])
def test_ignored_changing_display_makes_no_new_scene(method, tmp_path):
    shot = [with_counter(view(1), n // 10) for n in range(40)]
    clip = film(tmp_path / "a.mp4", shot)
    filter_options = {"duplicates": method, "threshold": 0.9}
    assert len(kept_indices(clip, **filter_options)) > 1
    assert kept_indices(clip, SamplingOptions(False, ignore=("0,0,168,98",)), **filter_options) == [
        0
    ]
    mask = np.zeros((180, 320), np.uint8)
    mask[:98, :168] = 255
    Image.fromarray(mask).save(tmp_path / "display.png")
    assert kept_indices(
        clip, SamplingOptions(False, ignore=(str(tmp_path / "display.png"),)), **filter_options
    ) == [0]


@pytest.mark.parametrize(
    "area, message",
    [
        ("0,0,10", r"`ignore` 0,0,10: expected X1,Y1,X2,Y2 in pixels"),
        ("0,0,400,20", "not a box .* inside 320x180"),
        ("0,0,320,180", "no pixel of the picture is left"),
        ("absent.png", "absent.png: no such file"),
        ("small.png", "the mask is 32x18, but the clip is 320x180"),
    ],
)
def test_invalid_ignored_areas_are_errors(area, message, tmp_path):
    Image.new("L", (32, 18)).save(tmp_path / "small.png")
    with pytest.raises(PromptError, match=message):
        ignore_mask([area], (320, 180))


def test_unknown_duplicate_method_is_an_error():
    with pytest.raises(UnknownName, match="did you mean 'hash'"):
        duplicates.resolve_threshold("hashes")


SHOWS = ["multishot", "show_ep1", "show_ep2", "show_ep3"]


@pytest.mark.shared
@pytest.mark.parametrize("name", SHOWS)
def test_every_scene_keeps_a_frame_and_few_shots_keep_more(name):
    """Targets: each scene has a kept frame, and there are at most 1.5 frames for each shot."""
    folder = SHARED / "gameplay" / "dev"
    truth = json.loads((folder / f"{name}.gt.json").read_text())["shots"]
    sampled = list(sampled_frames(folder / f"{name}.mp4", SamplingOptions()))
    for method in ("ssim", "hash", "embedding"):
        decisions = filter_frames(sampled, FilterOptions(method))
        frames = [each.frame.index for each in decisions if not each.drop_reason]
        scenes = {s["scene"] for s in truth for f in frames if s["start"] <= f < s["end"]}
        assert scenes == {shot["scene"] for shot in truth}, method
        assert len(frames) <= 1.5 * len(truth), method


def test_detecting_shots_remembers_the_times_of_a_few_frames_only():
    """Frames of any spacing: memory does not grow with the clip."""
    sizes, blank = [], np.zeros((18, 32, 3), np.uint8)

    def frames():
        for n in range(40):
            sizes.append(len(detected.gi_frame.f_locals.get("recent_seconds", ())))
            yield Frame("a", 3 * n, Fraction(n, 10), blank)

    detected = detect(frames())
    assert [(shot.start, shot.stop) for shot in detected] == [(0, 118)]
    assert max(sizes) <= 3
