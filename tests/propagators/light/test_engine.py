"""The engine `light` on small clips with true masks: textured disks on a textured background."""

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
from annotate.propagators.light.crops import (
    QUICK,
    THOROUGH,
    CropWindow,
    augmented_crops,
    background_crops,
    window_around_mask,
)
from annotate.propagators.light.engine import LightPropagator
from annotate.propagators.light.initial_mask import soft_mask_from_prompt
from annotate.propagators.light.redetect import Redetector
from annotate.propagators.light.refine import guided_filter
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.tracker import Tracker
from annotate.video import reader

SIZE_WH = (256, 160)
MODELS = Path(__file__).parents[3] / "models"


def random_texture(seed, coarse, colour):
    noise = np.random.default_rng(seed).uniform(-60, 60, (coarse, coarse, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, SIZE_WH) + colour, 0, 255).astype(np.uint8)


BACKGROUND = random_texture(1, 12, (90, 120, 100))
TEXTURES = [
    random_texture(2, 20, (200, 90, 60)),
    random_texture(3, 20, (70, 90, 220)),
    random_texture(4, 20, (220, 210, 60)),
]


def disk(x, y, radius=24):
    return cv2.circle(np.zeros(SIZE_WH[::-1], np.uint8), (x, y), radius, 1, -1).astype(bool)


def frame(index, *masks):
    """Draw a textured disk on each of `masks`; the texture moves with its disk."""
    image = BACKGROUND.copy()
    for texture, mask in zip(TEXTURES, masks, strict=False):
        if mask.any():
            y, x = (int(axis.mean()) for axis in np.nonzero(mask))
            moved = np.roll(texture, (y - SIZE_WH[1] // 2, x - SIZE_WH[0] // 2), (0, 1))
            image[mask] = moved[mask]
    return Frame("disk.mp4", index, Fraction(index, 30), image)


MASKS = [disk(60 + 6 * n, 70 + 2 * n) for n in range(16)]
CLIP = [frame(n, mask) for n, mask in enumerate(MASKS)]
MASK_PROMPT = Prompt(0, 1, mask=MASKS[0])


def track(clip, *prompts, session=None, **options):
    """Track objects over `clip`; returns the session and the detections of each frame."""
    by_frame = {f.index: tuple(p for p in prompts if p.frame == f.index) for f in clip}
    if session is None:
        prompted_frames = [PromptedFrame(f, by_frame[f.index]) for f in clip if by_frame[f.index]]
        prompted_frames.sort(key=lambda each: each.frame.index)
        session = PROPAGATORS.load("light", **options).begin(prompted_frames)
    return session, [session.step(f, by_frame[f.index]) for f in clip]


def iou(detections, mask, object_id=1):
    rows = np.flatnonzero(detections.tracker_id == object_id) if len(detections) else []
    if not len(rows):
        return 0.0
    predicted = detections.mask[rows[0]]
    return (predicted & mask).sum() / (predicted | mask).sum()


@cache
def shared_results(name):
    """Track a whole clip of SHARED_CLIPS with three threads, once for all tests."""
    clip, prompts = SHARED_CLIPS[name]
    return track(clip, *prompts, threads=3)[1]


@pytest.mark.parametrize("fast", [False, True])
def test_a_prompted_mask_is_tracked(fast):
    results = track(CLIP, MASK_PROMPT, fast=True)[1] if fast else shared_results("one object")
    assert min(iou(each, mask) for each, mask in zip(results, MASKS, strict=True)) > 0.85
    np.testing.assert_array_equal(results[0].mask[0], MASKS[0])
    for each in results:
        assert each.mask.shape == (1, *SIZE_WH[::-1]) and 0.5 < each.confidence[0] <= 1


def test_an_object_of_one_texture_is_tracked_from_one_click():
    _, results = track(CLIP, Prompt(0, 1, np.array([[60.0, 70.0]]), np.array([1])))
    assert np.mean([iou(each, mask) for each, mask in zip(results, MASKS, strict=True)]) > 0.8


def test_an_object_is_tracked_from_a_box():
    _, results = track(CLIP, Prompt(0, 1, box=(36.0, 46.0, 85.0, 95.0)))
    assert np.mean([iou(each, mask) for each, mask in zip(results, MASKS, strict=True)]) > 0.8


def test_an_object_is_tracked_backward():
    _, results = track(CLIP[::-1], Prompt(15, 1, mask=MASKS[15]))
    assert min(iou(each, mask) for each, mask in zip(results, MASKS[::-1], strict=True)) > 0.85


def test_an_object_starts_at_its_first_prompt_of_the_pass():
    later = Prompt(6, 1, mask=MASKS[6])
    _, results = track(CLIP, later)
    assert [len(each) for each in results] == [0] * 6 + [1] * 10


def test_a_later_prompt_corrects_the_mask():
    wrong = Prompt(0, 1, mask=disk(180, 120, 12))
    _, results = track(CLIP, wrong, Prompt(8, 1, mask=MASKS[8]))
    assert iou(results[4], MASKS[4]) < 0.3
    assert min(iou(each, mask) for each, mask in zip(results[8:], MASKS[8:], strict=True)) > 0.85


@pytest.mark.parametrize("inside", [False, True], ids=["beside the mask", "on the mask"])
def test_a_later_outside_point_alone_corrects_the_object_that_is_tracked(inside):
    """The object is prompted with a second disk as well; a point says that this is not it."""
    other = disk(180, 120, 12)
    point = (180.0, 120.0) if inside else (20.0, 20.0)
    start = Prompt(0, 1, mask=MASKS[0] | other if inside else MASKS[0])
    outside = Prompt(3, 1, np.array([point]), np.array([0]))
    _, results = track(CLIP[:6], start, outside)
    x, y = map(int, point)
    assert not results[3].mask[0][y, x]
    assert iou(results[3], MASKS[3]) > 0.8


def test_an_outside_point_in_the_middle_of_a_mask_says_that_the_object_is_not_there():
    outside = Prompt(3, 1, np.array([[78.0, 76.0]]), np.array([0]))
    _, results = track(CLIP[:7], MASK_PROMPT, outside, fast=True)
    assert iou(results[2], MASKS[2]) > 0.85
    assert [iou(each, mask) for each, mask in zip(results[3:], MASKS[3:7], strict=True)] == [0] * 4


def test_a_rejected_object_is_searched_for_elsewhere_on_the_same_picture():
    right, wrong = disk(60, 70), disk(190, 110)
    picture, tracker = frame(0, right, wrong).image, Tracker(QUICK)
    tracker.fit(picture, right.astype(np.float32))
    tracker.start(picture, wrong)
    window = window_around_mask(wrong)
    before = tracker.observe_window(picture, window).score[16:32, 16:32].mean()
    tracker.reject(picture, wrong)
    assert tracker.observe_window(picture, window).score[16:32, 16:32].mean() < before - 0.1
    found, _ = tracker.search_elsewhere(picture, np.array([[190.0, 110.0]]))
    assert (found & right).sum() > 0.7 * (found | right).sum()
    assert tracker.search_elsewhere(picture, np.array([[60.0, 70.0]]))[0] is None


def test_a_prompt_on_a_little_of_an_object_does_not_lose_it_where_all_of_it_is_seen():
    """The object leaves, is prompted where a sliver of it is seen, and jumps back."""
    nowhere = np.zeros(SIZE_WH[::-1], bool)
    sliver = disk(200, -21) & (np.indices(nowhere.shape)[0] < 3)
    path = [*MASKS[:4], nowhere, sliver, *[disk(60 + 6 * n, 110) for n in range(8)]]
    clip = [frame(n, mask) for n, mask in enumerate(path)]
    _, results = track(clip, MASK_PROMPT, Prompt(5, 1, mask=sliver), fast=True)
    assert min(iou(each, mask) for each, mask in zip(results[9:], path[9:], strict=True)) > 0.8


def test_an_outside_point_on_a_lost_object_finds_nothing():
    mask = np.zeros(SIZE_WH[::-1], bool)
    mask[2:4, 2:4] = True
    outside = Prompt(1, 1, np.array([[3.0, 3.0]]), np.array([0]))
    _, results = track(CLIP[:3], Prompt(0, 1, mask=mask), outside)
    assert len(results) == 3


def test_an_object_that_leaves_is_lost_and_is_detected_again():
    nowhere = np.zeros(SIZE_WH[::-1], bool)
    path = [*MASKS[:6], *[nowhere] * 6, *MASKS[10:]]
    _, results = track([frame(n, mask) for n, mask in enumerate(path)], MASK_PROMPT)
    assert [len(each) for each in results[6:12]] == [0] * 6
    assert min(iou(each, mask) for each, mask in zip(results[13:], path[13:], strict=True)) > 0.8


def test_an_object_that_returns_larger_and_elsewhere_is_detected_again():
    nowhere = np.zeros(SIZE_WH[::-1], bool)
    path = [*MASKS[:8], *[nowhere] * 4, *[disk(190 - n, 110, 36) for n in range(10)]]
    _, results = track([frame(n, mask) for n, mask in enumerate(path)], MASK_PROMPT)
    assert min(iou(each, mask) for each, mask in zip(results[16:], path[16:], strict=True)) > 0.8


def test_an_object_that_jumps_is_tracked():
    path = [*MASKS[:8], *[disk(180, 110)] * 5]
    _, results = track([frame(n, mask) for n, mask in enumerate(path)], MASK_PROMPT)
    assert (
        np.mean([iou(each, mask) for each, mask in zip(results[8:], path[8:], strict=True)]) > 0.7
    )


def fitted_redetector():
    redetector = Redetector()
    redetector.fit(CLIP[0].image, MASKS[0].astype(np.float32))
    return redetector


def test_re_detection_gives_position_and_size_and_a_low_score_without_the_object():
    redetector, picture = fitted_redetector(), frame(0, disk(180, 100)).image
    (candidate,) = redetector.search_picture(picture, (49, 49), 1)
    assert np.hypot(candidate.x - 180, candidate.y - 100) < 12 and 30 < candidate.width < 70
    nearby = redetector.search_nearby(picture, 165, 90, (49, 49))
    assert np.hypot(nearby.x - 180, nearby.y - 100) < 12
    (background,) = redetector.search_picture(BACKGROUND, (49, 49), 1)
    assert background.score < 0.5 < candidate.score


def test_a_restored_redetector_gives_the_same_candidates():
    redetector, restored = fitted_redetector(), Redetector()
    restored.restore({"mean": np.zeros(3), **redetector.state()})
    picture = frame(0, disk(180, 100)).image
    assert list(restored.search_picture(picture, (49, 49), 2)) == list(
        redetector.search_picture(picture, (49, 49), 2)
    )


def test_a_click_gives_the_mean_of_the_candidate_masks():
    click = Prompt(0, 1, np.array([[60.0, 70.0]]), np.array([1]))
    soft = soft_mask_from_prompt(CLIP[0].image, click)
    assert soft.shape == SIZE_WH[::-1] and soft.min() >= 0 and soft.max() <= 1 + 1e-6
    assert ((soft > 0.5) & MASKS[0]).sum() / ((soft > 0.5) | MASKS[0]).sum() > 0.8
    np.testing.assert_array_equal(soft_mask_from_prompt(CLIP[0].image, MASK_PROMPT) > 0.5, MASKS[0])


def test_background_crops_exclude_the_object_and_lower_the_score():
    effort, mask = THOROUGH, MASKS[0]
    mask_picture = np.repeat(np.uint8(255) * mask[..., None], 3, axis=2)  # white on the object
    background_values = [
        crop[2::4, 2::4][outside > 0]
        for crop, outside in background_crops(mask_picture, mask, effort)
    ]
    assert background_values and all(len(cells) and cells.max() < 64 for cells in background_values)
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


def three_disks(n):
    return disk(60 + 5 * n, 60), disk(190 - 5 * n, 76), disk(70 + 3 * n, 120)


TRIO_CLIP = [frame(n, *three_disks(n)) for n in range(12)]
TRIO_PROMPTS = [Prompt(0, object_id, mask=mask) for object_id, mask in enumerate(three_disks(0))]


SHARED_CLIPS = {"three objects": (TRIO_CLIP, TRIO_PROMPTS), "one object": (CLIP, [MASK_PROMPT])}


def test_objects_compete_for_pixels():
    results = shared_results("three objects")
    for each in results:
        assert each.mask.sum(axis=0).max() == 1
    assert (
        min(iou(results[5], mask, object_id) for object_id, mask in enumerate(three_disks(5))) > 0.8
    )


def test_a_far_object_does_not_change_the_masks():
    far = [Prompt(0, 1, mask=disk(40, 40, 14)), Prompt(0, 2, mask=disk(220, 130, 14))]
    clip = [frame(n, disk(40 + n, 40, 14), disk(220 - n, 130, 14)) for n in range(4)]
    _, together = track(clip, *far)
    for prompt in far:
        _, alone = track(clip, prompt)
        for one, both in zip(alone, together, strict=True):
            row = both.tracker_id.tolist().index(prompt.object_id)
            np.testing.assert_array_equal(one.mask[0], both.mask[row])
            assert one.confidence[0] == both.confidence[row]


@pytest.mark.parametrize("name", SHARED_CLIPS)
def test_threads_do_not_change_the_result(name):
    clip, prompts = SHARED_CLIPS[name]
    _, alone = track(clip, *prompts, threads=1)
    for a, b in zip(alone, shared_results(name), strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
        np.testing.assert_array_equal(a.confidence, b.confidence)
        np.testing.assert_array_equal(a.tracker_id, b.tracker_id)


@pytest.mark.parametrize("name", SHARED_CLIPS)
def test_a_restored_session_gives_the_same_masks(name):
    clip, prompts = SHARED_CLIPS[name]
    whole = shared_results(name)
    interrupted_session, _ = track(clip[:5], *prompts)
    file = io.BytesIO()
    np.savez(file, **interrupted_session.state())
    file.seek(0)
    restored_session = PROPAGATORS.load("light").begin([])
    with np.load(file, allow_pickle=False) as saved:
        restored_session.restore(dict(saved))
    _, continued = track(clip[5:], session=interrupted_session)
    _, restored = track(clip[5:], session=restored_session)
    for expected, *both in zip(whole[5:], continued, restored, strict=True):
        for got in both:
            np.testing.assert_array_equal(expected.mask, got.mask)
            np.testing.assert_array_equal(expected.confidence, got.confidence)


def test_the_state_does_not_grow():
    session, _ = track(CLIP[:3], MASK_PROMPT)
    early = sum(array.nbytes for array in session.state().values())
    track(CLIP[3:], session=session)
    assert sum(array.nbytes for array in session.state().values()) == early


def test_thread_counts_are_restored():
    cv2.setNumThreads(2)
    before = [each["num_threads"] for each in threadpool_info()]
    track(CLIP[:2], MASK_PROMPT)
    assert [each["num_threads"] for each in threadpool_info()] == before
    assert cv2.getNumThreads() == 2
    cv2.setNumThreads(-1)


def test_a_pasted_crop_equals_the_picture():
    smooth = cv2.GaussianBlur(BACKGROUND, (0, 0), 4)[..., 0].astype(np.float32)
    window = CropWindow(100.3, 70.8, 97.0)
    left, top, part = window.paste(window.crop(smooth, 256), SIZE_WH)
    inner = smooth[top : top + part.shape[0], left : left + part.shape[1]][3:-3, 3:-3]
    np.testing.assert_allclose(part[3:-3, 3:-3], inner, atol=1.0)


def test_a_window_over_the_edge_marks_the_cells_on_the_picture():
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


def test_scores_of_maps_equal_those_of_expanded_features():
    random = np.random.default_rng(0)
    colours, learned = (random.normal(size=(64, k)).astype(np.float32) for k in (5, 3))
    ridge = RidgeClassifier(0, (5, 3), (1.0, 0.5))
    expanded = ridge.expand(np.concatenate([colours, learned], axis=1))
    inside = (colours[:, 0] + learned[:, 1] > 0).astype(np.float32)
    ridge.add_samples(expanded, inside, np.ones(64, np.float32), prompted=True)
    ridge.solve()
    expected = ridge.scores(expanded)[:, 0]
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(ridge.scores_of_maps(colours, learned), expected, atol=1e-5)


def test_the_order_of_samples_does_not_matter():
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


def test_the_model_card_describes_this_file():
    card = (MODELS / "efficientnet-lite0.md").read_text(encoding="utf-8")
    model = packaged_file("models", "efficientnet-lite0-s16.onnx").read_bytes()
    assert re.search(r"`([0-9a-f]{64})`", card)[1] == hashlib.sha256(model).hexdigest()
    assert f"{len(model):,} bytes" in card


def test_a_box_that_covers_its_whole_window_is_accepted(demo):
    """All pixels of the first window lie in the box, so there is no background to learn from."""
    frames = list(reader.frames(demo, start=2, stop=4))
    prompts = (Prompt(2, 7, box=(300.0, 200.0, 360.0, 300.0)),)
    session = LightPropagator().begin([PromptedFrame(frames[0], prompts)])
    session.step(frames[0], prompts)
    session.step(frames[1], ())
