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


def glance(picture, index=0):
    return Thumbnail(Frame("a.mp4", index, Fraction(index, 10), np.asarray(picture)))


def judged(clip, taking=ALL, **sieve):
    """(frame, why it was dropped), of every frame looked at."""
    return [
        (v.frame.index, v.drop_reason)
        for v in filter_frames(sampled_frames(clip, taking), FilterOptions(**sieve))
    ]


def kept(clip, taking=ALL, **sieve):
    return [index for index, why in judged(clip, taking, **sieve) if not why]


def test_cuts_are_found_and_pans_are_none(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 20), still(2, 12), pan(3, 15))
    found = list(detect(reader.frames(clip)))
    assert [(shot.start, shot.stop) for shot in found] == [(0, 20), (20, 32), (32, 47)]
    assert [shot.start_seconds for shot in found] == [0, 2, Fraction(16, 5)]


@pytest.mark.parametrize("shot", [still(1, 30), pan(1, 30)], ids=["still", "pan"])
def test_a_flash_is_no_cut(shot, tmp_path):
    shot[15] = np.clip(shot[15] * 0.4 + (150, 20, 20), 0, 255).astype(np.uint8)
    clip = film(tmp_path / "a.mp4", shot)
    assert len(list(detect(reader.frames(clip)))) == 1


def test_one_frame_of_each_shot_from_its_middle(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 20), still(2, 12), pan(3, 15))
    one, two, three = kept(clip, SamplingOptions())
    assert 8 <= one <= 14 and 24 <= two <= 28 and 38 <= three <= 42


def test_a_long_shot_gives_one_for_every_ten_seconds(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 160, 1), still(2, 12))
    assert len(kept(clip, SamplingOptions(), everything=True)) == 3


def test_the_frame_of_a_shot_is_a_good_one(tmp_path):
    shot = pan(1, 30)
    shot[8:22] = [cv2.GaussianBlur(each, (0, 0), 6) for each in shot[8:22]]
    [index] = kept(film(tmp_path / "a.mp4", shot), SamplingOptions())
    assert not 8 <= index < 22


def test_the_frame_of_a_shot_that_becomes_sharp_at_its_end(tmp_path):
    shot = pan(1, 11)
    shot[:10] = [cv2.GaussianBlur(each, (0, 0), 6) for each in shot[:10]]
    assert kept(film(tmp_path / "a.mp4", shot), SamplingOptions()) == [10]


@pytest.fixture
def other(demo):
    """A shot of another kind of picture: to a network all synthetic places are one."""
    picture = cv2.resize(reader.seek(demo, 0).image, (320, 180), interpolation=cv2.INTER_AREA)
    return [picture] * 20


@pytest.mark.parametrize("method", ["ssim", "hash", "embedding"])
def test_duplicates_are_dropped_and_others_kept(method, other, tmp_path):
    clip = film(tmp_path / "a.mp4", still(1), other)
    assert kept(clip, duplicates=method) == [0, 20]
    assert dict(judged(clip, duplicates=method))[5] == "duplicate"


@pytest.mark.parametrize(
    "method, expected", [("ssim", [0, 20, 40]), ("hash", [0, 20]), ("embedding", [0, 20])]
)
def test_a_shot_that_comes_again(method, expected, other, tmp_path):
    clip = film(tmp_path / "a.mp4", still(1), other, still(1))
    assert kept(clip, duplicates=method) == expected


def test_what_it_is_like_is_told(tmp_path):
    clip = film(tmp_path / "a.mp4", still(1, 3), still(2, 3))
    verdicts = list(filter_frames(sampled_frames(clip, ALL), FilterOptions("hash")))
    assert verdicts[5].nearest.frame == 3 and verdicts[5].nearest.video == "a.mp4"
    assert verdicts[5].nearest.similarity > 0.9 > verdicts[3].nearest.similarity


def test_memory_carries_on_over_clips(tmp_path):
    memory = duplicates.kept_frames("hash", duplicates.resolve_threshold("hash"))
    clips = [film(tmp_path / name, still(1)) for name in ("a.mp4", "b.mp4")]
    found = [
        list(filter_frames(sampled_frames(c, ALL), FilterOptions("hash"), memory)) for c in clips
    ]
    assert [sum(not v.drop_reason for v in each) for each in found] == [1, 0]
    assert found[1][0].nearest.video == "a.mp4"


def test_a_threshold_of_one_drops_the_same_only(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 10))
    assert len(kept(clip, threshold=1.0)) == 10
    assert len(kept(clip, threshold=0.0)) == 1


def test_what_shows_nothing_is_told_apart(tmp_path):
    clip = film(tmp_path / "a.mp4", flat(0), still(1, 10), blurred(2), page(), flat(200))
    told = dict(judged(clip, SamplingOptions(False, FrameSelection(every=5))))
    assert (told[0], told[10], told[20], told[30], told[45], told[50]) == (
        "blank",
        "",
        "blurred",
        "static",
        "static",
        "blank",
    )
    assert {why for _, why in judged(clip, everything=True)} == {""}


def test_a_page_is_told_from_its_first_frame_and_a_flash_of_it_is_not(tmp_path):
    clip = film(tmp_path / "a.mp4", still(1, 5), page(20), still(2, 5), page(5), still(3, 5))
    told = dict(judged(clip))
    assert {told[index] for index in range(5, 25)} == {"static"}
    assert told[30] == "" and told[31] == "duplicate"


def test_pages_that_wait_for_the_verdict_share_a_picture(tmp_path):
    found = list(sampled_frames(film(tmp_path / "a.mp4", page(30)), ALL))
    assert len({id(each.thumbnail.frame.image) for each in found[:10]}) == 1
    assert [each.thumbnail.frame.index for each in found] == list(range(30))


def test_a_page_that_is_a_shot(tmp_path):
    clip = film(tmp_path / "a.mp4", pan(1, 20), page(20), pan(2, 20))
    assert [why for _, why in judged(clip, SamplingOptions())] == ["", "static", ""]


def test_a_game_that_stands_still_is_no_page(tmp_path):
    assert judged(film(tmp_path / "a.mp4", still(1, 30)))[0] == (0, "")


def test_blur_is_told_from_little_contrast():
    pale = (view(1) * 0.15 + 100).astype(np.uint8)
    assert not quality.is_blurred(glance(pale)) and not quality.is_blank(glance(pale))
    assert quality.is_blurred(glance(blurred(1)[0]))


def score(picture, value):
    """A display whose counter fills a quarter of the picture."""
    shown = picture.copy()
    shown[:90, :160] = np.random.default_rng(value).integers(0, 2, (9, 16, 1)).repeat(10, 0).repeat(
        10, 1
    ) * np.uint8(255)
    return shown


@pytest.mark.parametrize("method", ["ssim", "hash"])
def test_a_changing_display_that_is_ignored_is_no_new_scene(method, tmp_path):
    shot = [score(view(1), n // 10) for n in range(40)]
    clip = film(tmp_path / "a.mp4", shot)
    sieve = {"duplicates": method, "threshold": 0.9}
    assert len(kept(clip, **sieve)) > 1
    assert kept(clip, SamplingOptions(False, ignore=("0,0,168,98",)), **sieve) == [0]
    mask = np.zeros((180, 320), np.uint8)
    mask[:98, :168] = 255
    Image.fromarray(mask).save(tmp_path / "display.png")
    assert kept(clip, SamplingOptions(False, ignore=(str(tmp_path / "display.png"),)), **sieve) == [
        0
    ]


@pytest.mark.parametrize(
    "told, message",
    [
        ("0,0,10", r"`ignore` 0,0,10: expected X1,Y1,X2,Y2 in pixels"),
        ("0,0,400,20", "not a box .* inside 320x180"),
        ("0,0,320,180", "no pixel of the picture is left"),
        ("absent.png", "absent.png: no such file"),
        ("small.png", "a mask of 32x18, but the clip is 320x180"),
    ],
)
def test_what_cannot_be_ignored(told, message, tmp_path):
    Image.new("L", (32, 18)).save(tmp_path / "small.png")
    with pytest.raises(PromptError, match=message):
        ignore_mask([told], (320, 180))


def test_no_such_way_of_telling():
    with pytest.raises(UnknownName, match="did you mean 'hash'"):
        duplicates.resolve_threshold("hashes")


SHOWS = ["multishot", "show_ep1", "show_ep2", "show_ep3"]


@pytest.mark.shared
@pytest.mark.parametrize("name", SHOWS)
@pytest.mark.parametrize("method", ["ssim", "hash", "embedding"])
def test_every_distinct_shot_keeps_a_frame_and_few_keep_more(name, method):
    """The targets: each scene has a frame, and there are at most 1.5 of them a shot."""
    folder = SHARED / "gameplay" / "dev"
    truth = json.loads((folder / f"{name}.gt.json").read_text())["shots"]
    frames = kept(folder / f"{name}.mp4", SamplingOptions(), duplicates=method)
    scenes = {s["scene"] for s in truth for f in frames if s["start"] <= f < s["end"]}
    assert scenes == {shot["scene"] for shot in truth}
    assert len(frames) <= 1.5 * len(truth)
