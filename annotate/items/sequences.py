"""Pick evenly spaced positions, batch iterables, sum optional counts, keep the latest values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

_T = TypeVar("_T")
_Key = TypeVar("_Key", bound=Hashable)


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


class BoundedCache(Generic[_Key, _T]):
    """Keeps the values that were used last, up to a number of bytes; threads may share it.

    The value that was put last always stays, whatever its size.

    Examples:
        >>> cache = BoundedCache[str, bytes](5)
        >>> for key, value in (("a", b"12"), ("b", b"34"), ("a", b"56"), ("c", b"7")):
        ...     cache.put(key, value, len(value))
        >>> list(cache), cache.get("a"), cache.nbytes
        (['b', 'a', 'c'], b'56', 5)
        >>> cache.put("d", b"8", 1), list(cache)
        (None, ['c', 'a', 'd'])
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes, self._lock = max_bytes, 0, Lock()
        self._values: OrderedDict[_Key, tuple[_T, int]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """The size of all values that are kept."""
        return self._bytes

    def put(self, key: _Key, value: _T, nbytes: int) -> None:
        """Keep a value of so many bytes, in place of an older one of the key."""
        with self._lock:
            self._bytes += nbytes - self._values.pop(key, (None, 0))[1]
            self._values[key] = value, nbytes
            while self._bytes > self._max_bytes and len(self._values) > 1:
                self._bytes -= self._values.popitem(last=False)[1][1]

    def get(self, key: _Key) -> _T | None:
        """Return a value, and count it as used; None if it is not kept."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def drop(self, key: _Key) -> None:
        """Remove a value, if it is kept."""
        with self._lock:
            self._bytes -= self._values.pop(key, (None, 0))[1]

    def __iter__(self) -> Iterator[_Key]:
        with self._lock:
            return iter(list(self._values))
