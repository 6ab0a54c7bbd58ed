"""Retries, and calls in parallel."""

import threading
from concurrent.futures import wait as futures_wait

import pytest

from annotate.errors import AnswerError
from annotate.vlm import retry
from annotate.vlm.retry import RetryPolicy, TransientError, map_threads


def test_results_are_in_order():
    assert map_threads(lambda n: n * n, range(50), 7) == [n * n for n in range(50)]
    assert map_threads(str, [], 3) == []


def test_calls_that_fail_together_start_no_second_wave(monkeypatch):
    """The threads themselves see the failure, even while the caller has not seen it yet."""
    monkeypatch.setattr(retry, "wait", lambda futures, return_when: futures_wait(futures))
    together = threading.Barrier(4)
    begun = []

    def call(n):
        begun.append(n)
        together.wait(timeout=30)
        raise ValueError(f"call {n}")

    with pytest.raises(ValueError, match="call 0"):
        map_threads(call, range(40), 4)
    assert sorted(begun) == [0, 1, 2, 3]


def test_the_error_of_the_call_that_failed_is_raised():
    def call(n):
        if n == 2:
            raise ValueError(f"call {n}")
        return n

    for workers in (1, 4):
        with pytest.raises(ValueError, match="call 2"):
            map_threads(call, range(40), workers)


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
