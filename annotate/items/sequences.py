"""Pick evenly spaced positions of a sequence, batch iterables, and sum optional counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

_T = TypeVar("_T")


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """Return at most `limit` positions of a sequence of `count`, evenly spaced, ascending.

    The first and the last position are among them if `limit` is 2 or more. None is no limit.

    Examples:
        >>> evenly_spaced(10, 4)
        [0, 3, 6, 9]
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [int(position) for position in np.linspace(0, count - 1, limit).round()]


def chunks(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yield the values in lists of `size`; the last list may be shorter.

    At most `size` values are held in memory. (`itertools.batched` needs Python 3.12.)

    Examples:
        >>> list(chunks("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk


def sum_or_none(counts: Iterable[int | None]) -> int | None:
    """Return the sum of counts; None if one of them is not known.

    >>> sum_or_none([2, 3]), sum_or_none([2, None])
    (5, None)
    """
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
