"""Retry requests to a server: back-off, Retry-After, time-outs and a thread pool.

Only errors that a later attempt may mend are retried. The pause doubles with each attempt; what a
server asks for with Retry-After holds for all threads that share the policy.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from annotate.errors import AnswerError

S = TypeVar("S")
T = TypeVar("T")

_RETRY_STATUSES = {
    408,
    409,
    425,
    429,
}  # of the 4xx, those that another time may mend; of the 5xx, all
_MAX_WAIT_SECONDS = 300.0  # that a server may have us wait


class TransientError(Exception):
    """No answer came; whether asking again may help, and what the server said about it."""

    def __init__(
        self,
        reason: str,
        *,
        retryable: bool = True,
        status: int = 0,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.retryable, self.status, self.retry_after_seconds = (
            retryable,
            status,
            retry_after_seconds,
        )

    @classmethod
    def from_status(cls, status: int, reason: str, headers: Mapping[str, str]) -> "TransientError":
        """What a server's status code means for whoever asked."""
        again = status in _RETRY_STATUSES or status >= 500
        said = f"HTTP {status}{f': {reason}' if reason else ''}"
        return cls(
            said, retryable=again, status=status, retry_after_seconds=parse_retry_after(headers)
        )


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as a date."""
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
    """How often one server is asked, and how long apart; shared by all threads that ask it.

    What a server asks for with Retry-After holds for every thread. Otherwise the pause begins with
    `wait_seconds` and doubles.
    """

    def __init__(self, max_tries: int, wait_seconds: float) -> None:
        self._max_tries, self._wait_seconds = max_tries, wait_seconds
        self._not_before = 0.0

    def run(self, call: Callable[[], T], context: str) -> T:
        """What `call` gives; `what` begins the error.

        Raises:
            AnswerError: it never came, or asking again would not help.
            Trouble: the same, where the caller may know another way to ask.
        """
        for number in range(1, self._max_tries + 1):
            time.sleep(max(self._not_before - time.monotonic(), 0.0))
            try:
                return call()
            except TransientError as trouble:
                if not trouble.retryable:
                    raise
                if number == self._max_tries:
                    raise AnswerError(f"{context}: {trouble}; asked {number} times") from None
                self._pause(trouble, self._wait_seconds * 2 ** (number - 1), context)
        raise AnswerError(f"{context}: tries must be 1 or more, got {self._max_tries}")

    def _pause(self, error: TransientError, backoff_seconds: float, context: str) -> None:
        wanted = error.retry_after_seconds
        if wanted is None:
            time.sleep(backoff_seconds)
        elif wanted > _MAX_WAIT_SECONDS:
            raise AnswerError(f"{context}: {error}; asks to come back in {wanted:.0f} s") from None
        else:
            self._not_before = max(self._not_before, time.monotonic() + wanted)


def with_timeout(seconds: float, call: Callable[[], T]) -> T:
    """What `call` gives, for a client that would wait for ever.

    Raises:
        Trouble: it took longer. The call is left behind in a thread that ends with the program.
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
    """What `call` gives for each thing, in order, so many asked for at once.

    The first error ends it: what is under way is waited for, what has not begun is not begun.
    """
    with ThreadPoolExecutor(max(max_workers, 1)) as pool:
        waiting = [pool.submit(call, thing) for thing in values]
        try:
            return [each.result() for each in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
