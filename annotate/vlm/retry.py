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
        self, why: str, *, again: bool = True, status: int = 0, after_seconds: float | None = None
    ) -> None:
        super().__init__(why)
        self.again, self.status, self.after_seconds = again, status, after_seconds

    @classmethod
    def of_status(cls, status: int, why: str, headers: Mapping[str, str]) -> "TransientError":
        """What a server's status code means for whoever asked."""
        again = status in _RETRY_STATUSES or status >= 500
        said = f"HTTP {status}{f': {why}' if why else ''}"
        return cls(said, again=again, status=status, after_seconds=parse_retry_after(headers))


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

    def __init__(self, tries: int, wait_seconds: float) -> None:
        self._tries, self._wait_seconds = tries, wait_seconds
        self._open_at = 0.0

    def ask(self, call: Callable[[], T], what: str) -> T:
        """What `call` gives; `what` begins the error.

        Raises:
            AnswerError: it never came, or asking again would not help.
            Trouble: the same, where the caller may know another way to ask.
        """
        for number in range(1, self._tries + 1):
            time.sleep(max(self._open_at - time.monotonic(), 0.0))
            try:
                return call()
            except TransientError as trouble:
                if not trouble.again:
                    raise
                if number == self._tries:
                    raise AnswerError(f"{what}: {trouble}; asked {number} times") from None
                self._pause(trouble, self._wait_seconds * 2 ** (number - 1), what)
        raise AnswerError(f"{what}: tries must be 1 or more, got {self._tries}")

    def _pause(self, trouble: TransientError, seconds: float, what: str) -> None:
        wanted = trouble.after_seconds
        if wanted is None:
            time.sleep(seconds)
        elif wanted > _MAX_WAIT_SECONDS:
            raise AnswerError(f"{what}: {trouble}; asks to come back in {wanted:.0f} s") from None
        else:
            self._open_at = max(self._open_at, time.monotonic() + wanted)


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


def map_threads(call: Callable[[S], T], things: Sequence[S], at_once: int) -> list[T]:
    """What `call` gives for each thing, in order, so many asked for at once.

    The first error ends it: what is under way is waited for, what has not begun is not begun.
    """
    with ThreadPoolExecutor(max(at_once, 1)) as pool:
        waiting = [pool.submit(call, thing) for thing in things]
        try:
            return [each.result() for each in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
