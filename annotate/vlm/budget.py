"""Count tokens and cost of model requests, and stop before a budget is exceeded.

A request is not begun if it, together with those in flight and at the highest cost so far, could
exceed the budget.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from annotate import plugins
from annotate.errors import BudgetExceeded
from annotate.items.records import Item

_MILLION = 1_000_000


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, as the server counted them."""

    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Prices:
    """Prices for a million tokens, in the currency of the budget."""

    per_million_in: float = 0.0
    per_million_out: float = 0.0

    def cost(self, usage: Usage) -> float:
        """Compute the cost of a request."""
        total = usage.tokens_in * self.per_million_in + usage.tokens_out * self.per_million_out
        return total / _MILLION


@dataclass(frozen=True)
class UsageTotal:
    """Requests that were sent, requests that the cache answered, and the tokens and cost."""

    questions: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0

    def __add__(self, other: UsageTotal) -> UsageTotal:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return UsageTotal(*(one + two for one, two in pairs))

    def summary(self, pictures: int, boxes: int) -> str:
        """Format the totals as one line; `boxes` counts the boxes that were kept."""
        tokens = f"{self.tokens_in:,} tokens in, {self.tokens_out:,} out"
        line = f"{self.questions} questions, {self.cached} more answered by the cache; {tokens}"
        if not self.cost:
            return line
        per_picture = f"{self.cost / max(pictures, 1):.4f} a picture"
        per_box = f", {self.cost / boxes:.4f} a box" if boxes else ""
        return f"{line}; {self.cost:.4f} in all, {per_picture}{per_box}"


class UsageMeter:
    """Counts the requests of one run; shared by the threads of the run.

    A request is not begun if it, together with those in flight and at the highest cost so far,
    could exceed the budget.
    """

    def __init__(self, prices: Prices, budget: float | None = None) -> None:
        self.prices, self.budget = prices, budget
        self._lock = threading.Lock()
        self._in_flight, self._max_cost = 0, 0.0
        self.total = UsageTotal()

    def expect_cost(self, cost: float) -> None:
        """Set what a request may cost, before the first one has been answered."""
        with self._lock:
            self._max_cost = max(self._max_cost, cost)

    def begin(self) -> None:
        """Count a request as in flight.

        Raises:
            BudgetExceeded: the request could exceed the budget.
        """
        with self._lock:
            possible_cost = self.total.cost + self._max_cost * (self._in_flight + 1)
            if self.budget is not None and possible_cost > self.budget:
                raise BudgetExceeded(
                    f"the budget of {self.budget:g} is spent ({self.total.cost:.4f}, and the next "
                    "question may exceed it); the answers are kept: run the same again to continue"
                )
            self._in_flight += 1

    def end(self, usage: Usage | None) -> None:
        """Count a request as done; `usage` is None when no answer came."""
        with self._lock:
            self._in_flight -= 1
            if usage is not None:
                cost = self.prices.cost(usage)
                self._max_cost = max(self._max_cost, cost)
                self.total += UsageTotal(1, 0, usage.tokens_in, usage.tokens_out, cost)

    def count_cached(self) -> None:
        """Count a request that the cache answered."""
        with self._lock:
            self.total += UsageTotal(cached=1)


class ItemCounter:
    """Counts the pictures and boxes of the items that are passed through it."""

    def __init__(self, callback: Callable[[Item], object]) -> None:
        self._callback = callback
        self.pictures = self.boxes = 0

    def __call__(self, item: Item) -> None:
        """Count an item, and pass it to the callback."""
        self.pictures, self.boxes = self.pictures + 1, self.boxes + len(item.objects)
        self._callback(item)


def total_usage(detector: Any) -> UsageTotal | None:
    """Add up the usage of a detector and its nested ones; None where no requests are counted."""
    usages = [total_usage(nested) for nested in plugins.nested_plugins(detector)]
    usages.append(plugins.optional_member(detector, "usage"))
    counted = [usage for usage in usages if usage is not None]
    return sum(counted, UsageTotal()) if counted else None
