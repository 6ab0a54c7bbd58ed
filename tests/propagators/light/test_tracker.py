"""`run_parallel` runs callables in a pool."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from annotate.propagators.light.tracker import run_parallel


def test_results_are_in_order_with_and_without_a_pool():
    calls = [lambda n=n: n for n in range(4)]
    with ThreadPoolExecutor(2) as pool:
        assert run_parallel(pool, *calls) == run_parallel(None, *calls) == [0, 1, 2, 3]


def test_the_last_callable_runs_in_the_calling_thread_while_the_others_run():
    started, main_thread = threading.Event(), threading.get_ident()

    def last():
        assert started.wait(30)
        return threading.get_ident()

    with ThreadPoolExecutor(1) as pool:
        _, thread = run_parallel(pool, started.set, last)
    assert thread == main_thread


def test_an_error_in_the_pool_is_raised():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        run_parallel(pool, lambda: 1 / 0, lambda: None)
