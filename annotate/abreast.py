"""Several things done at a time, where there is somebody to help."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any


def abreast(pool: Executor | None, *works: Callable[[], Any]) -> list[Any]:
    """What each of `works` returns: the last is done here, and meanwhile the others on `pool`.

    Without a pool they are done here one after the other. None may need what another one changes.
    """
    *others, mine = works
    if pool is None:
        return [work() for work in works]
    begun = [pool.submit(work) for work in others]
    last = mine()
    return [*(each.result() for each in begun), last]
