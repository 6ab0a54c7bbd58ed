from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from annotate.active_learning.selection import (
    Candidates,
    SelectionOptions,
    Spacing,
    choose_frames,
    class_weights,
)
from annotate.active_learning.signals import Signal
from annotate.errors import AnnotateError


def make_candidates(clips=1, frames=300, rate=10):
    made = Candidates([f"{n}.mp4" for n in range(clips)])
    for clip in range(clips):
        for frame in range(frames):
            made.add_frame(clip, frame, frame / rate)
    return made


def embed(candidates):
    """Features that are all different: the row as a point on a line."""
    return lambda rows: np.array([[float(row)] for row in rows], np.float32).reshape(-1, 1)


def choose(candidates, worths, count=10, spacing=None, known=None, **options):
    options = SelectionOptions(count, **{"random_share": 0.0, **options})
    worths, spacing = np.asarray(worths, float), spacing or Spacing()
    return choose_frames(candidates, worths, spacing, options, embed(candidates), known)


def test_only_the_pool_of_highest_worth_is_chosen_from():
    candidates = make_candidates()
    worths = np.zeros(300)
    worths[::30] = 5  # ten frames, three seconds apart
    worths[1::30] = 4  # too near to them
    chosen = [each.row for each in choose(candidates, worths, 10)]
    assert len(chosen) == 10
    pool = set(range(0, 300, 30)) | set(np.linspace(0, 299, 300).astype(int).tolist())
    assert set(chosen) <= pool and not {row for row in chosen if row % 30 == 1}


def test_chosen_frames_are_half_a_second_apart_in_a_clip():
    candidates = make_candidates(2)
    noise = np.random.default_rng(3).random(600)
    rows = sorted(each.row for each in choose(candidates, noise, 40, random_share=0.1))
    for one, other in pairwise(rows):
        assert candidates.clip_index[one] != candidates.clip_index[other] or other - one >= 5


def test_at_most_a_third_is_of_one_clip_where_others_have_frames():
    candidates = make_candidates(3)
    worths = np.repeat([9.0, 1.0, 1.0], 300)
    rows = [each.row for each in choose(candidates, worths, 12)]
    assert Counter(candidates.clip_index[row] for row in rows) == {0: 4, 1: 4, 2: 4}
    short = make_candidates(1)
    for clip, count in ((1, 2), (2, 3)):
        short.clips.append(f"{clip}.mp4")
        for frame in range(count):
            short.add_frame(clip, frame, float(frame))
    rows = [each.row for each in choose(short, np.ones(305), 12)]
    assert len(rows) == 12 and Counter(short.clip_index[row] for row in rows)[0] == 7


def test_what_is_like_the_labelled_frames_comes_last():
    candidates = make_candidates(frames=100)
    worths = np.zeros(100)
    worths[[0, 50, 99]] = 1.0
    known = np.array([[98.0], [52.0]], np.float32)
    first = choose(candidates, worths, 1, known=known)
    assert [each.row for each in first] == [0]


def test_labelled_times_are_not_chosen_again():
    candidates, spacing = make_candidates(frames=100), Spacing()
    for n in range(10):
        spacing.take(0, n + 0.25)
    chosen = choose(candidates, np.ones(100), 40, spacing, random_share=0.5)
    assert not chosen or all(each.row % 10 in (8, 7) for each in chosen)


def test_one_in_ten_is_drawn_at_random_through_the_whole_list():
    candidates = make_candidates(4)
    chosen = choose(candidates, np.ones(1200), 40, random_share=0.1)
    assert [rank for rank, each in enumerate(chosen, 1) if each.is_random] == [10, 20, 30, 40]
    again = choose(candidates, np.ones(1200), 40, random_share=0.1)
    assert chosen == again
    other = choose(candidates, np.ones(1200), 40, random_share=0.1, seed=1)
    assert [e.row for e in chosen if e.is_random] != [e.row for e in other if e.is_random]
    everything = choose(candidates, np.ones(1200), 8, random_share=1.0)
    assert len(everything) == 8 and all(each.is_random for each in everything)


def test_few_frames_give_few_and_none_gives_none():
    assert len(choose(make_candidates(frames=12), np.ones(12), 10)) in (2, 3)
    assert choose(make_candidates(frames=0), np.zeros(0), 10) == []


def test_rare_classes_weigh_more_and_reasons_are_described():
    assert class_weights({"a": 1000, "b": 1}) == {"a": pytest.approx(0.7075, abs=1e-3), "b": 4.0}
    candidates = make_candidates(frames=3)
    candidates.class_counts.update({"mech": 9, "marker": 1})
    candidates.add_signal(Signal(1, "mech", "unsure", 0.5))
    candidates.add_signal(Signal(0, "mech", "unsure", 0.5), first_row=1)
    candidates.add_signal(Signal(1, "marker", "missing", 0.6))
    worths = candidates.worths()
    assert worths[0] == worths[2] == 0
    assert worths[1] == pytest.approx((5 / 9) ** 0.5 + 0.6 * 5**0.5)
    assert candidates.reasons([0, 1]) == {0: "", 1: "marker missing, 2 x mech unsure"}


def test_wrong_options_are_refused():
    with pytest.raises(AnnotateError, match="`count` must be above 0, got 0"):
        SelectionOptions(0)
    with pytest.raises(AnnotateError, match="`random_share` must be within 0 and 1"):
        SelectionOptions(1, 1.5)
