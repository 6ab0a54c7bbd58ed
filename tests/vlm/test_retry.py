"""Retries, and calls in parallel."""

import threading

import pytest

from annotate.errors import AnswerError
from annotate.vlm.retry import RetryPolicy, TransientError, map_threads


def test_results_are_in_order():
    assert map_threads(lambda n: n * n, range(50), 7) == [n * n for n in range(50)]
    assert map_threads(str, [], 3) == []


@pytest.mark.parametrize("failing", [{0, 1, 2, 3}, {2}])
def test_no_call_is_started_after_an_error_not_even_by_those_that_fail_together(failing):
    together = threading.Barrier(4)
    begun = []

    def call(n):
        begun.append(n)
        together.wait(timeout=30)
        if n in failing:
            raise ValueError(f"call {n}")
        stopped.wait(timeout=30)
        return n

    stopped = threading.Event()
    if len(failing) == 4:
        stopped.set()
    else:
        threading.Timer(0.3, stopped.set).start()
    with pytest.raises(ValueError, match=f"call {min(failing)}"):
        map_threads(call, range(40), 4)
    assert sorted(begun) == [0, 1, 2, 3]


def test_what_a_retry_does_not_cure_is_not_retried():
    tries = []

    def call():
        tries.append(1)
        raise TransientError("no", retryable=len(tries) < 2)

    with pytest.raises(TransientError):
        RetryPolicy(5, 0.0).run(call, "x")
    assert len(tries) == 2
    with pytest.raises(AnswerError, match="x: no; asked 2 times"):
        tries.clear()
        RetryPolicy(2, 0.0).run(lambda: (_ for _ in ()).throw(TransientError("no")), "x")
