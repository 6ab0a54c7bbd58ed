"""Callables run in parallel."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from annotate.propagators.light.tracker import run_parallel


def test_results_come_in_order_with_and_without_help():
    works = [lambda n=n: n for n in range(4)]
    with ThreadPoolExecutor(2) as pool:
        assert run_parallel(pool, *works) == run_parallel(None, *works) == [0, 1, 2, 3]


def test_the_last_is_done_here_while_the_others_are_done():
    begun, here = threading.Event(), threading.get_ident()

    def mine():
        assert begun.wait(30)
        return threading.get_ident()

    with ThreadPoolExecutor(1) as pool:
        _, ran = run_parallel(pool, begun.set, mine)
    assert ran == here


def test_what_fails_elsewhere_is_not_lost():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        run_parallel(pool, lambda: 1 / 0, lambda: None)
