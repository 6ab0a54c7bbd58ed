"""The `light` engine on a small clip with known truth: a patterned disk over a patterned floor."""

import hashlib
import io
import re
from fractions import Fraction
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from annotate.backbone import feature_grid
from annotate.files import packaged_file
from annotate.items.records import Frame, Prompt
from annotate.propagators.job import PROPAGATORS, PromptedFrame
from annotate.propagators.light.crops import THOROUGH, CropWindow, augmented_crops, background_crops
from annotate.propagators.light.engine import LightPropagator
from annotate.propagators.light.initial_mask import soft_mask_from_prompt
from annotate.propagators.light.redetect import Redetector
from annotate.propagators.light.refine import guided_filter
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.video import reader

SIZE_WH = (256, 160)
MODELS = Path(__file__).parents[3] / "models"


def pattern(seed, coarse, colour):
    noise = np.random.default_rng(seed).uniform(-60, 60, (coarse, coarse, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, SIZE_WH) + colour, 0, 255).astype(np.uint8)


FLOOR = pattern(1, 12, (90, 120, 100))
SKINS = [
    pattern(2, 20, (200, 90, 60)),
    pattern(3, 20, (70, 90, 220)),
    pattern(4, 20, (220, 210, 60)),
]


def disk(x, y, radius=24):
    return cv2.circle(np.zeros(SIZE_WH[::-1], np.uint8), (x, y), radius, 1, -1).astype(bool)


def frame(index, *masks):
    """The floor, with a disk of its own skin on each of `masks`; the skin moves with its disk."""
    image = FLOOR.copy()
    for skin, mask in zip(SKINS, masks, strict=False):
        if mask.any():
            y, x = (int(axis.mean()) for axis in np.nonzero(mask))
            moved = np.roll(skin, (y - SIZE_WH[1] // 2, x - SIZE_WH[0] // 2), (0, 1))
            image[mask] = moved[mask]
    return Frame("disk.mp4", index, Fraction(index, 30), image)


PATH = [disk(60 + 6 * n, 70 + 2 * n) for n in range(16)]
CLIP = [frame(n, mask) for n, mask in enumerate(PATH)]
GIVEN = Prompt(0, 1, mask=PATH[0])


def follow(clip, *prompts, session=None, **options):
    """The session after a pass over `clip`, and what it found on each frame."""
    given = {f.index: tuple(p for p in prompts if p.frame == f.index) for f in clip}
    if session is None:
        by_index = {f.index: f for f in clip}
        lessons = [PromptedFrame(by_index[n], given[n]) for n in sorted(given) if given[n]]
        session = PROPAGATORS.load("light", **options).begin(lessons)
    return session, [session.step(f, given[f.index]) for f in clip]


def iou(found, mask, of=1):
    rows = np.flatnonzero(found.tracker_id == of) if len(found) else []
    return (
        (found.mask[rows[0]] & mask).sum() / (found.mask[rows[0]] | mask).sum()
        if len(rows)
        else 0.0
    )


@cache
def whole_pass(name):
    """What the engine finds on a whole clip of PASSES with three threads, made once."""
    clip, given = PASSES[name]
    return follow(clip, *given, threads=3)[1]


@pytest.mark.parametrize("fast", [False, True])
def test_a_mask_is_followed(fast):
    found = follow(CLIP, GIVEN, fast=True)[1] if fast else whole_pass("one object")
    assert min(iou(each, mask) for each, mask in zip(found, PATH, strict=True)) > 0.85
    np.testing.assert_array_equal(found[0].mask[0], PATH[0])
    for each in found:
        assert each.mask.shape == (1, *SIZE_WH[::-1]) and 0.5 < each.confidence[0] <= 1


def test_one_click_is_enough_for_a_thing_of_its_own_colour():
    _, found = follow(CLIP, Prompt(0, 1, np.array([[60.0, 70.0]]), np.array([1])))
    assert np.mean([iou(each, mask) for each, mask in zip(found, PATH, strict=True)]) > 0.8


def test_a_box_is_enough():
    _, found = follow(CLIP, Prompt(0, 1, box=(36.0, 46.0, 85.0, 95.0)))
    assert np.mean([iou(each, mask) for each, mask in zip(found, PATH, strict=True)]) > 0.8


def test_a_pass_may_run_backward():
    _, found = follow(CLIP[::-1], Prompt(15, 1, mask=PATH[15]))
    assert min(iou(each, mask) for each, mask in zip(found, PATH[::-1], strict=True)) > 0.85


def test_an_object_starts_at_its_first_prompt_of_the_pass():
    later = Prompt(6, 1, mask=PATH[6])
    _, found = follow(CLIP, later)
    assert [len(each) for each in found] == [0] * 6 + [1] * 10


def test_a_later_prompt_corrects():
    wrong = Prompt(0, 1, mask=disk(180, 120, 12))
    _, found = follow(CLIP, wrong, Prompt(8, 1, mask=PATH[8]))
    assert iou(found[4], PATH[4]) < 0.3
    assert min(iou(each, mask) for each, mask in zip(found[8:], PATH[8:], strict=True)) > 0.85


def test_what_left_is_lost_and_what_returns_is_found():
    nowhere = np.zeros(SIZE_WH[::-1], bool)
    path = [*PATH[:6], *[nowhere] * 6, *PATH[10:]]
    _, found = follow([frame(n, mask) for n, mask in enumerate(path)], GIVEN)
    assert [len(each) for each in found[6:12]] == [0] * 6
    assert min(iou(each, mask) for each, mask in zip(found[13:], path[13:], strict=True)) > 0.8


def test_what_returns_larger_and_elsewhere_is_found():
    nowhere = np.zeros(SIZE_WH[::-1], bool)
    path = [*PATH[:8], *[nowhere] * 4, *[disk(190 - n, 110, 36) for n in range(10)]]
    _, found = follow([frame(n, mask) for n, mask in enumerate(path)], GIVEN)
    assert min(iou(each, mask) for each, mask in zip(found[16:], path[16:], strict=True)) > 0.8


def test_what_jumps_is_found_without_being_lost():
    path = [*PATH[:8], *[disk(180, 110)] * 5]
    _, found = follow([frame(n, mask) for n, mask in enumerate(path)], GIVEN)
    assert np.mean([iou(each, mask) for each, mask in zip(found[8:], path[8:], strict=True)]) > 0.7


def taught():
    search = Redetector()
    search.fit(CLIP[0].image, PATH[0].astype(np.float32))
    return search


def test_a_search_says_where_and_how_large_and_is_cold_where_nothing_is():
    search, there = taught(), frame(0, disk(180, 100)).image
    (spot,) = search.search_picture(there, (49, 49), 1)
    assert np.hypot(spot.x - 180, spot.y - 100) < 12 and 30 < spot.width < 70
    nearby = search.search_nearby(there, 165, 90, (49, 49))
    assert np.hypot(nearby.x - 180, nearby.y - 100) < 12
    (nothing,) = search.search_picture(FLOOR, (49, 49), 1)
    assert nothing.score < 0.5 < spot.score


def test_a_restored_search_finds_the_same():
    search, other = taught(), Redetector()
    other.restore({"mean": np.zeros(3), **search.state()})
    there = frame(0, disk(180, 100)).image
    assert list(other.search_picture(there, (49, 49), 2)) == list(
        search.search_picture(there, (49, 49), 2)
    )


def test_a_click_gives_what_the_candidates_agree_on():
    click = Prompt(0, 1, np.array([[60.0, 70.0]]), np.array([1]))
    soft = soft_mask_from_prompt(CLIP[0].image, click)
    assert soft.shape == SIZE_WH[::-1] and soft.min() >= 0 and soft.max() <= 1 + 1e-6
    assert ((soft > 0.5) & PATH[0]).sum() / ((soft > 0.5) | PATH[0]).sum() > 0.8
    np.testing.assert_array_equal(soft_mask_from_prompt(CLIP[0].image, GIVEN) > 0.5, PATH[0])


def test_the_rest_of_a_prompted_picture_is_no_part_of_the_object():
    effort, mask = THOROUGH, PATH[0]
    lit = np.repeat(np.uint8(255) * mask[..., None], 3, axis=2)  # what is not black is the object
    shown = [crop[2::4, 2::4][outside > 0] for crop, outside in background_crops(lit, mask, effort)]
    assert shown and all(len(cells) and cells.max() < 64 for cells in shown)
    crops = list(background_crops(CLIP[0].image, mask, effort))
    ridge = RidgeClassifier(16)
    for crop, inside, weight in augmented_crops(CLIP[0].image, mask.astype(np.float32), effort):
        ridge.add_samples(
            ridge.expand(feature_grid(crop)), inside.ravel(), weight.ravel(), prompted=True
        )
    ridge.solve()
    crop, outside = crops[0]
    before = ridge.scores(ridge.expand(feature_grid(crop)))[outside.ravel() > 0, 0].mean()
    ridge.add_negatives(ridge.expand(feature_grid(crop)), outside.ravel(), 5.0)
    ridge.solve()
    assert ridge.scores(ridge.expand(feature_grid(crop)))[outside.ravel() > 0, 0].mean() < before


def three(n):
    return disk(60 + 5 * n, 60), disk(190 - 5 * n, 76), disk(70 + 3 * n, 120)


TRIO = [frame(n, *three(n)) for n in range(12)]
TRIO_GIVEN = [Prompt(0, of, mask=mask) for of, mask in enumerate(three(0))]


PASSES = {"three objects": (TRIO, TRIO_GIVEN), "one object": (CLIP, [GIVEN])}


def test_objects_compete_for_pixels():
    found = whole_pass("three objects")
    for each in found:
        assert each.mask.sum(axis=0).max() == 1
    assert min(iou(found[5], mask, of) for of, mask in enumerate(three(5))) > 0.8


@pytest.mark.parametrize("name", PASSES)
def test_threads_change_nothing(name):
    clip, given = PASSES[name]
    _, alone = follow(clip, *given, threads=1)
    for a, b in zip(alone, whole_pass(name), strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
        np.testing.assert_array_equal(a.confidence, b.confidence)
        np.testing.assert_array_equal(a.tracker_id, b.tracker_id)


@pytest.mark.parametrize("name", PASSES)
def test_a_restored_session_goes_on_exactly(name):
    clip, given = PASSES[name]
    whole = whole_pass(name)
    begun, _ = follow(clip[:5], *given)
    file = io.BytesIO()
    np.savez(file, **begun.state())
    file.seek(0)
    fresh = PROPAGATORS.load("light").begin([])
    with np.load(file, allow_pickle=False) as saved:
        fresh.restore(dict(saved))
    _, same = follow(clip[5:], session=begun)
    _, restored = follow(clip[5:], session=fresh)
    for expected, *both in zip(whole[5:], same, restored, strict=True):
        for got in both:
            np.testing.assert_array_equal(expected.mask, got.mask)
            np.testing.assert_array_equal(expected.confidence, got.confidence)


def test_what_is_remembered_does_not_grow():
    session, _ = follow(CLIP[:3], GIVEN)
    early = sum(array.nbytes for array in session.state().values())
    follow(CLIP[3:], session=session)
    assert sum(array.nbytes for array in session.state().values()) == early


def test_thread_counts_are_put_back():
    cv2.setNumThreads(2)
    before = [each["num_threads"] for each in threadpool_info()]
    follow(CLIP[:2], GIVEN)
    assert [each["num_threads"] for each in threadpool_info()] == before
    assert cv2.getNumThreads() == 2
    cv2.setNumThreads(-1)


def test_a_window_gives_back_what_it_cut():
    smooth = cv2.GaussianBlur(FLOOR, (0, 0), 4)[..., 0].astype(np.float32)
    window = CropWindow(100.3, 70.8, 97.0)
    left, top, part = window.paste(window.crop(smooth, 256), SIZE_WH)
    inner = smooth[top : top + part.shape[0], left : left + part.shape[1]][3:-3, 3:-3]
    np.testing.assert_allclose(part[3:-3, 3:-3], inner, atol=1.0)


def test_a_window_over_the_edge_knows_what_is_on_the_picture():
    inside = CropWindow(0.0, 0.0, 64.0).in_picture(SIZE_WH, 64)
    assert inside[32:, 32:].all() and not inside[:31].any() and not inside[:, :31].any()


def test_the_guided_filter_keeps_a_constant_and_follows_edges():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 200
    np.testing.assert_allclose(
        guided_filter(picture, np.full((64, 64), 0.3, np.float32), 4), 0.3, atol=1e-4
    )
    soft = cv2.blur((np.arange(64) >= 32).astype(np.float32)[None].repeat(64, 0), (9, 9))
    sharp = guided_filter(picture, soft, 4)
    assert sharp[32, 31] < 0.3 < 0.7 < sharp[32, 32] and abs(soft[32, 31] - soft[32, 32]) < 0.2


def test_the_order_of_lessons_does_not_matter():
    random = np.random.default_rng(0)
    maps = [random.normal(size=(8, 8, 182)).astype(np.float32) for _ in range(3)]
    inside = [(each[..., 0] > 0).astype(np.float32).ravel() for each in maps]
    scores = []
    for order in ((0, 1, 2), (0, 2, 1)):
        ridge = RidgeClassifier(32)
        for n in order:
            ridge.add_samples(
                ridge.expand(maps[n]), inside[n], np.ones(64, np.float32), prompted=True
            )
        ridge.solve()
        scores.append(ridge.scores(ridge.expand(maps[0]))[:, 0])
    np.testing.assert_allclose(*scores, atol=1e-3)
    assert ((scores[0] > 0) == (inside[0] > 0.5)).mean() > 0.95


def test_the_card_is_of_this_model():
    card = (MODELS / "efficientnet-lite0.md").read_text(encoding="utf-8")
    model = packaged_file("models", "efficientnet-lite0-s16.onnx").read_bytes()
    assert re.search(r"`([0-9a-f]{64})`", card)[1] == hashlib.sha256(model).hexdigest()
    assert f"{len(model):,} bytes" in card


def test_a_box_that_holds_nothing_to_tell_apart_breaks_nothing(demo):
    """Every pixel of the first window lies in the box: there is no outside to learn."""
    frames = list(reader.frames(demo, start=2, stop=4))
    told = (Prompt(2, 7, box=(300.0, 200.0, 360.0, 300.0)),)
    session = LightPropagator().begin([PromptedFrame(frames[0], told)])
    session.step(frames[0], told)
    session.step(frames[1], ())
