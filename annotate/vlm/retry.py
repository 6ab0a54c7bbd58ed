"""Retry requests to a server: back-off, Retry-After, time-outs and a thread pool.

Only errors that a later attempt may cure are retried. The pause doubles with each attempt; what a
server asks for with Retry-After holds for all threads that share the policy.

This is not left to the `max_retries` of the OpenAI client: that client counts for each request
alone, so one thread's Retry-After would not hold back the others, and Moondream's client has none.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from annotate.errors import AnswerError

S = TypeVar("S")
T = TypeVar("T")

_RETRY_STATUSES = {408, 409, 425, 429}  # of the 4xx; all of the 5xx are retried too
_MAX_WAIT_SECONDS = 300.0  # the longest Retry-After that is obeyed


class TransientError(Exception):
    """A request failed; says whether a retry may help, and what the server answered."""

    def __init__(
        self,
        reason: str,
        *,
        retryable: bool = True,
        status: int = 0,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.retryable = retryable
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @classmethod
    def from_status(cls, status: int, reason: str, headers: Mapping[str, str]) -> "TransientError":
        """Make the error that stands for a response with an HTTP status of 400 or more."""
        return cls(
            f"HTTP {status}{f': {reason}' if reason else ''}",
            retryable=status in _RETRY_STATUSES or status >= 500,
            status=status,
            retry_after_seconds=parse_retry_after(headers),
        )


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read a Retry-After header, given as seconds or as a date; returns seconds from now."""
    text = headers.get("retry-after") or headers.get("Retry-After")
    if not text:
        return None
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


class RetryPolicy:
    """How often a request is tried, and how long to wait between tries; shared by threads.

    A server's Retry-After delays the requests of every thread. Without one, the first pause is
    `wait_seconds`, and each further pause is twice as long.
    """

    def __init__(self, max_tries: int, wait_seconds: float) -> None:
        self._max_tries, self._wait_seconds = max_tries, wait_seconds
        self._not_before = 0.0

    def run(self, call: Callable[[], T], context: str) -> T:
        """Return the result of `call`, tried again while that may help.

        Raises:
            AnswerError: every try failed; its message begins with `context`.
            TransientError: a retry would not help; the caller may know another way to ask.
        """
        for attempt in range(1, self._max_tries + 1):
            time.sleep(max(self._not_before - time.monotonic(), 0.0))
            try:
                return call()
            except TransientError as error:
                if not error.retryable:
                    raise
                if attempt == self._max_tries:
                    raise AnswerError(f"{context}: {error}; asked {attempt} times") from None
                self._pause(error, self._wait_seconds * 2 ** (attempt - 1), context)
        raise AnswerError(f"{context}: tries must be 1 or more, got {self._max_tries}")

    def _pause(self, error: TransientError, backoff_seconds: float, context: str) -> None:
        requested = error.retry_after_seconds
        if requested is None:
            time.sleep(backoff_seconds)
        elif requested > _MAX_WAIT_SECONDS:
            raise AnswerError(
                f"{context}: {error}; the server asks to come back in {requested:.0f} s"
            ) from None
        else:
            self._not_before = max(self._not_before, time.monotonic() + requested)


def with_timeout(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of `call`, for a client that has no time-out of its own.

    Raises:
        TransientError: it took longer. The call goes on in a daemon thread, and is ignored.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TransientError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


def map_threads(call: Callable[[S], T], values: Sequence[S], max_workers: int) -> list[T]:
    """Return `call(value)` for each value, in order, computed in up to `max_workers` threads.

    The first error ends it: running calls are waited for, and no other call is started, not even by
    the threads that fail at the same time.
    """
    is_over = threading.Event()

    def run(value: S) -> T:
        if is_over.is_set():
            raise CancelledError
        try:
            return call(value)
        except BaseException:
            is_over.set()
            raise

    with ThreadPoolExecutor(max(max_workers, 1)) as pool:
        futures = [pool.submit(run, value) for value in values]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            is_over.set()  # also after Ctrl-C: calls that are not begun end at once
    for future in futures:
        error = future.exception()
        if error is not None and not isinstance(error, CancelledError):
            raise error
    return [future.result() for future in futures]
