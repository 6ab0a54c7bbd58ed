"""Count tokens and cost of model requests, and stop before a budget is exceeded.

A request is not begun if it could, at the most that it and the requests under way may cost, exceed
the budget. The most is known before the first answer: the limit of tokens bounds the answer, and
the tokens of the question are estimated; the estimate is then corrected by the servers' counts.
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
from annotate.progress import counted

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
    """Requests that were answered, requests that the cache answered, and the tokens and cost.

    `uncounted` answers came without token counts: the most that they can have cost is in `cost`.
    """

    questions: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    uncounted: int = 0

    def __add__(self, other: UsageTotal) -> UsageTotal:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return UsageTotal(*(one + two for one, two in pairs))

    def summary(self, pictures: int, boxes: int) -> str:
        """Format the totals as one line; `boxes` counts the boxes that were kept."""
        questions = counted(self.questions, "question")
        tokens = f"{self.tokens_in:,} tokens in, {self.tokens_out:,} out"
        line = f"{questions}, {self.cached} more answered by the cache; {tokens}"
        if self.uncounted:
            line += f"; the server sent no token counts for {self.uncounted} of them"
        if not self.cost:
            return line
        line += ", which are counted at the most that they can cost" if self.uncounted else ""
        per_picture = f"{self.cost / max(pictures, 1):.4f} a picture"
        per_box = f", {self.cost / boxes:.4f} a box" if boxes else ""
        return f"{line}; {self.cost:.4f} in all, {per_picture}{per_box}"


class UsageMeter:
    """Counts the requests of one run, and keeps its budget; shared by the threads of the run.

    With a budget, the first request ends before the others begin: its token counts show how the
    server counts pictures.
    """

    def __init__(self, prices: Prices, budget: float | None = None) -> None:
        self.prices, self.budget = prices, budget
        self._changed = threading.Condition()
        self._in_flight, self._reserved = 0, 0.0
        self._tokens_per_estimated = 1.0  # the highest ratio of tokens in, as counted to estimated
        self._is_measured = self._is_begun = False
        self.total = UsageTotal()

    def begin(self, most: Usage) -> float:
        """Count a request as under way; `most` is an estimate of the most tokens that it takes.

        Returns the cost that is reserved for it, which `end` takes back.

        Raises:
            BudgetExceeded: the request could exceed the budget.
        """
        with self._changed:
            while self._must_wait(most):
                self._changed.wait()
            cost = self._most_cost(most)
            if self.budget is not None and self.total.cost + self._reserved + cost > self.budget:
                raise BudgetExceeded(self._refusal(cost, self.budget))
            self._in_flight, self._reserved = self._in_flight + 1, self._reserved + cost
            return cost

    def _must_wait(self, most: Usage) -> bool:
        """Return whether a request has to wait until one that is under way ends.

        That is so for all but the first, and where it is too dear only while others are under way:
        most of them cost less than is reserved.
        """
        if self.budget is None or not self._in_flight:
            return False
        after_it = self.total.cost + self._most_cost(most)
        return not self._is_begun or after_it <= self.budget < after_it + self._reserved

    def end(self, reserved: float, most: Usage, usage: Usage | None, *, answered: bool) -> None:
        """Count a request as done; `usage` is None where the answer came without token counts."""
        with self._changed:
            self._in_flight, self._reserved = self._in_flight - 1, self._reserved - reserved
            self._is_begun = True
            if answered and usage is None:
                self.total += UsageTotal(1, cost=self._most_cost(most), uncounted=1)
            elif answered and usage is not None:
                self._measure(most, usage)
                cost = self.prices.cost(usage)
                self.total += UsageTotal(1, 0, usage.tokens_in, usage.tokens_out, cost)
            self._changed.notify_all()

    def _most_cost(self, most: Usage) -> float:
        tokens_in = round(most.tokens_in * self._tokens_per_estimated)
        return self.prices.cost(Usage(tokens_in, most.tokens_out))

    def _measure(self, most: Usage, usage: Usage) -> None:
        if most.tokens_in:
            ratio = usage.tokens_in / most.tokens_in
            known = self._tokens_per_estimated if self._is_measured else 0.0
            self._tokens_per_estimated, self._is_measured = max(known, ratio), True

    def _refusal(self, cost: float, budget: float) -> str:
        spent, count = self.total.cost, self._in_flight
        if not spent and not count:
            return (
                f"the budget of {budget:g} allows no question: one may cost up to {cost:.4f}; give "
                "a larger `budget`, or a smaller `max_tokens`"
            )
        under_way = f", up to {self._reserved:.4f} for {count} under way" if count else ""
        return (
            f"the budget of {budget:g} is used up: {spent:.4f} for "
            f"{self.total.questions} answered{under_way}, and the next question may cost up to "
            f"{cost:.4f}"
        )

    def count_cached(self) -> None:
        """Count a request that the cache answered."""
        with self._changed:
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
