import numpy as np
import pytest

from annotate.search.judge import Judgement
from annotate.search.shot_query import QueriedShot, query_shot


def run_query(shot, target_frames, frames_per_shot=2, errors=0.0, rng=None):
    """Query a shot; gives the occurrence and how many frames were asked."""
    query, asked = query_shot(shot, shot.spread_frames(frames_per_shot)), 0
    requested = next(query)
    while True:
        asked += len(requested)
        wrong = rng.random(len(requested)) < errors if rng else [False] * len(requested)
        answers = {
            frame: Judgement((frame in target_frames) ^ bool(flip))
            for frame, flip in zip(requested, wrong, strict=True)
        }
        try:
            requested = query.send(answers)
        except StopIteration as end:
            return end.value, asked


def test_shot_without_target_takes_two_pictures_and_a_full_one_three():
    assert run_query(QueriedShot("a", 100, 190, 3), set()) == (None, 2)
    occurrence, asked = run_query(QueriedShot("a", 100, 190, 3), set(range(100, 190)))
    assert (occurrence.start, occurrence.stop, asked) == (100, 190, 3)


@pytest.mark.parametrize("start, stop", [(100, 140), (151, 190), (100, 131), (160, 190)])
def test_boundaries_are_found_by_bisection(start, stop):
    occurrence, asked = run_query(QueriedShot("a", 100, 190, 2), set(range(start, stop)))
    assert abs(occurrence.start - start) <= 8 and abs(occurrence.stop - stop) <= 8
    assert asked < 20


def test_one_answer_in_twenty_may_be_wrong():
    rng = np.random.default_rng(1)
    missed = false_positives = asked = 0
    for n in range(1000):
        target_frames = set(range(42)) if n % 5 == 0 else set()
        shot = QueriedShot("a", 0, 42, 3)
        occurrence, count = run_query(shot, target_frames, errors=0.05, rng=rng)
        asked += count
        missed += bool(target_frames) and occurrence is None
        false_positives += not target_frames and occurrence is not None
    assert missed <= 4  # of 200
    assert false_positives <= 5  # of 800
    assert asked < 2800


def test_best_frame_lies_inside_the_occurrence():
    shot = QueriedShot("a", 0, 42, 3)
    query = query_shot(shot, shot.spread_frames(2))
    requested, occurrence = next(query), None
    while occurrence is None:  # near the distant negative, one answer is positive and most certain
        answers = {f: Judgement(f < 20 or f == 34, 0.99 if f == 34 else 0.7) for f in requested}
        try:
            requested = query.send(answers)
        except StopIteration as end:
            occurrence = end.value
    assert shot.answers[34].shown
    assert occurrence.start <= occurrence.best_frame < occurrence.stop < 34


def test_query_without_readable_answers_ends():
    shot = QueriedShot("a", 0, 10, 1)
    query = query_shot(shot, shot.spread_frames(2))
    requested = next(query)
    with pytest.raises(StopIteration) as end:
        query.send(dict.fromkeys(requested))
    assert end.value.value is None
