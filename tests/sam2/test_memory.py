"""The memory bank keeps what a predictor that keeps everything would read."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from annotate.sam2.memory import MemoryBank, MemoryLimits, banks_from_arrays, banks_to_arrays

FRAMES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
LIMITS = st.builds(
    MemoryLimits,
    max_memories=st.integers(2, 7),
    max_pointers=st.integers(2, 16),
    max_prompted=st.none() | st.integers(1, 3),
)
FOREVER = 10**6


def follow(bank, frames):
    """Frames as (prompted, present); what is remembered of a frame is its own number."""
    for index, (prompted, present) in enumerate(frames):
        bank.remember(index, -index, prompted=prompted or index == 0, present=present)
    return bank


def read_from_all_frames(frames, limits):
    """The predictor's rule, over all frames: prompted ones, then the last few by number."""
    now = len(frames)
    prompted = [index for index, (given, _) in enumerate(frames) if given or index == 0]
    chosen = prompted[-limits.max_prompted :] if limits.max_prompted else prompted
    others = [index for index in range(now) if index not in chosen]
    memories = [(0, index) for index in chosen]
    memories += [(now - index, index) for index in others if now - index < limits.max_memories]
    newest = [index for index in reversed(others) if now - index < limits.max_pointers]
    return memories, [(now - index, -index) for index in chosen + newest]


@given(FRAMES, LIMITS)
def test_everything_that_can_be_read_is_kept(frames, limits):
    recall = follow(MemoryBank(limits, FOREVER), frames).build_context()
    assert (recall.memories, recall.pointers) == read_from_all_frames(frames, limits)


@given(FRAMES, LIMITS, st.integers(1, 20))
def test_only_memories_that_can_be_read_are_kept(frames, limits, patience):
    bank = follow(MemoryBank(limits, patience), frames)
    prompted = sum(memory.prompted for memory in bank.memories)
    whole = sum(memory.features is not None for memory in bank.memories)
    back = max(limits.max_pointers, limits.max_memories)
    assert len(bank.memories) <= prompted + 2 * (back - 1)
    assert whole <= prompted + 2 * (limits.max_memories - 1)


@given(FRAMES, LIMITS, st.integers(1, 8), st.integers(0, 20))
def test_absence_leaves_no_trace_once_it_is_lost(frames, limits, patience, more):
    frames = [*frames, (False, True)]
    seen, lost = (
        follow(MemoryBank(limits, patience), frames),
        follow(MemoryBank(limits, patience), frames),
    )
    for _ in range(patience + more):
        lost.remember(None, None, prompted=False, present=False)
    assert lost.is_lost and not seen.is_lost
    assert lost.build_context() == seen.build_context()


def test_an_absence_that_is_short_is_remembered():
    bank = follow(MemoryBank(MemoryLimits(), 4), [(True, True), (False, False), (False, False)])
    assert not bank.is_lost
    assert bank.build_context().memories == [(0, 0), (2, 1), (1, 2)]


def test_a_prompt_or_a_visible_frame_ends_being_lost():
    frames = [(True, True)] + 5 * [(False, False)]
    for prompted, present in [(True, False), (False, True)]:
        bank = follow(MemoryBank(MemoryLimits(), 3), frames)
        bank.remember(6, -6, prompted=prompted, present=present)
        assert not bank.is_lost
        assert [memory.features for memory in bank.memories] == [0, 6]


@given(FRAMES, LIMITS, st.integers(1, 8))
def test_banks_go_through_arrays_unchanged(frames, limits, patience):
    banks = {
        7: follow(MemoryBank(limits, patience), frames),
        3: follow(MemoryBank(limits, patience), frames[:1]),
    }
    back = banks_from_arrays(banks_to_arrays(banks, np.array), limits, patience, int)
    assert list(back) == [7, 3]
    for of, bank in banks.items():
        assert back[of].build_context() == bank.build_context()
        assert (back[of].tick, back[of].absent_frames) == (bank.tick, bank.absent_frames)


def test_no_banks_go_through_arrays_too():
    assert banks_from_arrays(banks_to_arrays({}, np.array), MemoryLimits(), 3, int) == {}
