"""The memory bank keeps the memories that a predictor which keeps all memories would read."""

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
NEVER_LOST = 10**6


def remember_frames(bank, frames):
    """Fill a bank with frames (prompted, present); the memory of a frame is its number."""
    for index, (prompted, present) in enumerate(frames):
        bank.remember(index, -index, prompted=prompted or index == 0, present=present)
    return bank


def expected_context(frames, limits):
    """Apply the predictor's rule to all frames: prompted frames, then the last few frames."""
    now = len(frames)
    prompted = [index for index, (given, _) in enumerate(frames) if given or index == 0]
    prompted_read = prompted[-limits.max_prompted :] if limits.max_prompted else prompted
    unprompted = [index for index in range(now) if index not in prompted_read]
    memories = [(0, index) for index in prompted_read]
    memories += [(now - index, index) for index in unprompted if now - index < limits.max_memories]
    newest = [index for index in reversed(unprompted) if now - index < limits.max_pointers]
    return memories, [(now - index, -index) for index in prompted_read + newest]


@given(FRAMES, LIMITS)
def test_all_memories_that_can_be_read_are_kept(frames, limits):
    context = remember_frames(MemoryBank(limits, NEVER_LOST), frames).build_context()
    assert (context.memories, context.pointers) == expected_context(frames, limits)


@given(FRAMES, LIMITS, st.integers(1, 20))
def test_only_memories_that_can_be_read_are_kept(frames, limits, max_absent_frames):
    bank = remember_frames(MemoryBank(limits, max_absent_frames), frames)
    prompted = sum(memory.prompted for memory in bank.memories)
    with_features = sum(memory.features is not None for memory in bank.memories)
    window = max(limits.max_pointers, limits.max_memories)
    assert len(bank.memories) <= prompted + 2 * (window - 1)
    assert with_features <= prompted + 2 * (limits.max_memories - 1)


@given(FRAMES, LIMITS, st.integers(1, 8), st.integers(0, 20))
def test_a_lost_object_keeps_the_memory_of_before_its_absence(
    frames, limits, max_absent_frames, extra_frames
):
    frames = [*frames, (False, True)]
    present_bank, absent_bank = (
        remember_frames(MemoryBank(limits, max_absent_frames), frames),
        remember_frames(MemoryBank(limits, max_absent_frames), frames),
    )
    for _ in range(max_absent_frames + extra_frames):
        absent_bank.remember(None, None, prompted=False, present=False)
    assert absent_bank.is_lost and not present_bank.is_lost
    assert absent_bank.build_context() == present_bank.build_context()


def test_a_short_absence_is_remembered():
    bank = remember_frames(
        MemoryBank(MemoryLimits(), 4), [(True, True), (False, False), (False, False)]
    )
    assert not bank.is_lost
    assert bank.build_context().memories == [(0, 0), (2, 1), (1, 2)]


def test_a_prompt_or_a_visible_frame_ends_a_loss():
    frames = [(True, True)] + 5 * [(False, False)]
    for prompted, present in [(True, False), (False, True)]:
        bank = remember_frames(MemoryBank(MemoryLimits(), 3), frames)
        bank.remember(6, -6, prompted=prompted, present=present)
        assert not bank.is_lost
        assert [memory.features for memory in bank.memories] == [0, 6]


@given(FRAMES, LIMITS, st.integers(1, 8))
def test_banks_restored_from_arrays_are_the_same(frames, limits, max_absent_frames):
    banks = {
        7: remember_frames(MemoryBank(limits, max_absent_frames), frames),
        3: remember_frames(MemoryBank(limits, max_absent_frames), frames[:1]),
    }
    restored = banks_from_arrays(banks_to_arrays(banks, np.array), limits, max_absent_frames, int)
    assert list(restored) == [7, 3]
    for object_id, bank in banks.items():
        assert restored[object_id].build_context() == bank.build_context()
        assert (restored[object_id].tick, restored[object_id].absent_frames) == (
            bank.tick,
            bank.absent_frames,
        )


def test_an_empty_set_of_banks_is_restored():
    assert banks_from_arrays(banks_to_arrays({}, np.array), MemoryLimits(), 3, int) == {}
