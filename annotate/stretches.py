"""One frame for each shot, from about its middle, found while the shot is still going on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from annotate import quality, shots
from annotate.glance import Glance

_LONGEST = Fraction(10)  # seconds for which one frame stands
_REST = _LONGEST / 2  # of a longer shot: a rest shorter than this needs no frame of its own
_LATER = 1.5  # times as far into the shot as the frame that it relieves


class Run:
    """A picture that stands still, from when to when."""

    def __init__(self, glance: Glance) -> None:
        self._first = glance.small_grey, glance.seen
        self._start = self._stop = glance.frame.seconds

    def goes_on(self, glance: Glance) -> bool:
        """Whether the next frame shows the same; if so the run is that much longer."""
        still = quality.is_still(glance, *self._first)
        if still:
            self._stop = glance.frame.seconds
        return still

    @property
    def seconds(self) -> Fraction:
        """How long it stood."""
        return self._stop - self._start


class Stretches:
    """Told frame after frame, it gives one for each shot, and one for each ten seconds of it.

    Two frames are held: one for the case that the shot ends now, and one half as far again into
    it for the case that it goes on. So the first is always between 2/5 and 2/3 of the way.
    """

    def __init__(self, good: Callable[[Glance], bool]) -> None:
        self._good = good

    def of(self, glances: Iterable[Glance]) -> Iterator[tuple[Glance, Run]]:
        """A frame of each shot, and how long its picture stood; a good one, where there is one."""
        cutter, waiting = shots.Cutter(), deque[Glance]()
        stretch, is_first = _Stretch(self._good), True
        for glance in glances:
            waiting.append(glance)
            cut = cutter.see(glance)
            if len(waiting) <= shots.LAG:
                continue
            settled = waiting.popleft()
            if settled.frame.index == cut:
                yield from stretch.ended(is_first)
                stretch, is_first = _Stretch(self._good), True
            elif stretch.lasts(settled.frame.seconds) >= _LONGEST:
                yield from stretch.ended(is_first)
                stretch, is_first = _Stretch(self._good), False
            stretch.add(settled)
        for settled in waiting:
            stretch.add(settled)
        yield from stretch.ended(is_first)


@dataclass
class _Stretch:
    good: Callable[[Glance], bool]
    count: int = 0
    start: Fraction | None = None
    stop: Fraction = Fraction(0)
    run: Run | None = None
    now: tuple[Glance, Run] | None = None  # to be given if it ends now
    later: tuple[Glance, Run] | None = None
    later_at: int = 0
    now_is_good: bool = False
    later_is_good: bool = False

    def lasts(self, until: Fraction) -> Fraction:
        return until - self.start if self.start is not None else Fraction(0)

    def add(self, glance: Glance) -> None:
        self.count += 1
        self.start = glance.frame.seconds if self.start is None else self.start
        self.stop = glance.frame.seconds
        if self.run is None or not self.run.goes_on(glance):
            self.run = Run(glance)
        if self.now is None:
            self._take_as_later(glance, self.run)
            self.now, self.now_is_good = self.later, self.later_is_good
        elif self.count >= _LATER * self.later_at:
            if self.later_is_good or not self.now_is_good:
                self.now, self.now_is_good = self.later, self.later_is_good
            self._take_as_later(glance, self.run)
        elif not self.later_is_good:
            self._take_as_later(glance, self.run, self.later_at)

    def _take_as_later(self, glance: Glance, run: Run, at: int | None = None) -> None:
        self.later, self.later_at = (glance, run), at or self.count
        self.later_is_good = self.good(glance)

    def ended(self, is_first: bool) -> Iterator[tuple[Glance, Run]]:
        if self.now is None or self.later is None:
            return
        if is_first or self.stop - (self.start or 0) >= _REST:
            yield self.now if self.now_is_good else self.later
