"""Even spacing, batches and sums of optional counts."""

import numpy as np
import pytest

from annotate.items.sequences import chunks, evenly_spaced, sum_or_none


@pytest.mark.parametrize("count, limit", [(0, 3), (1, 1), (5, 9), (5, 5), (10, 4), (1000, 7)])
def test_positions_are_evenly_spaced(count, limit):
    positions = evenly_spaced(count, limit)
    assert len(positions) == len(set(positions)) == min(count, limit)
    assert positions == sorted(positions) and all(type(each) is int for each in positions)
    if count and limit > 1:
        assert positions[0] == 0 and positions[-1] == count - 1
        assert np.ptp(np.diff(positions)) <= 1


def test_no_limit_takes_all_and_one_takes_the_first():
    assert evenly_spaced(3, None) == [0, 1, 2]
    assert evenly_spaced(3, 1) == [0] and evenly_spaced(3, 0) == []


def test_chunks_hold_no_more_than_their_size():
    taken = []
    pieces = chunks((taken.append(n) or n for n in range(5)), 2)
    assert next(pieces) == [0, 1] and taken == [0, 1]
    assert list(pieces) == [[2, 3], [4]]
    assert list(chunks([], 3)) == []


def test_a_sum_with_an_unknown_count_is_unknown():
    assert sum_or_none([2, 0, 3]) == 5 and sum_or_none([]) == 0
    assert sum_or_none([2, None, 3]) is None
