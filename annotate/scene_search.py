"""Which frame of the scenes a picture shows: found by its hashes, proved by its shape.

All hashes are compared with all: a million take a few thousandths of a second. Those nearest as a
whole and those nearest as a crop are then fitted; the best fit is the answer if it is good enough.
What is good enough was measured: see `UNKNOWN`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt

from annotate import colour_layout, hashes, imprint
from annotate.glance import Glance
from annotate.records import Picture
from annotate.scene_store import Chunk, Clip, Store

# From this distance on a picture is unknown. Of 950 foreign pictures of the same game, altered as
# those of the show were (compressed, shrunk, cropped, of other tones, written on), none lay nearer
# than 0.55; of the show's own, 99 in 100 lay nearer than 0.3: `benchmarks/scenes.py`.
UNKNOWN = 0.4
_AS_WHOLE, _AS_CROP = 60, 140  # frames that are fitted
_SAME_SECONDS = Fraction(2)  # nearer ones are the same place
_ABOUT = 45  # frames before and after the best that are fitted too
_LIKELY = 0.05  # of agreement: so near to the best, the better fit is right
_TIE = 0.005  # of fits: by less nobody can tell
_COLOURS = 2.0  # of layouts' distances: by less nobody can tell
_LEAST = 1e-6
_PROVED = 24  # of the frames that are fitted: those whose fit is looked at block by block
_FLAT_LEVELS = 8  # of a border's pixels, from its darkest to its brightest

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Match:
    """A frame of a clip that is known; `distance` 0 is the same picture, 1 has nothing of it."""

    clip: Clip
    frame: int
    seconds: Fraction
    distance: float


@dataclass(frozen=True)
class Answer:
    """The frame that a picture shows, or None; the nearest; the nearest that is elsewhere."""

    match: Match | None
    nearest: Match | None
    runner_up: Match | None


class Index:
    """All scenes of a file, ready to be asked."""

    def __init__(self, store: Store) -> None:
        clips = {clip.id: clip for clip in store.clips()}
        self._looks = lru_cache(maxsize=512)(store.looks)
        by_aspect = sorted(store.chunks(), key=lambda c: (_aspect(clips[c.clip]), c.id))
        self._groups = [
            _Group(aspect, list(chunks), clips)
            for aspect, chunks in groupby(by_aspect, key=lambda c: _aspect(clips[c.clip]))
        ]

    def find(self, picture: Picture) -> Answer:
        """What a picture shows, (H, W, 3) RGB; or, if unknown, what it does without borders."""
        answer = self._find(picture)
        if answer.match is None and (cut := without_borders(picture)).shape != picture.shape:
            within = self._find(cut)
            return within if within.match is not None else answer
        return answer

    def _find(self, picture: Picture) -> Answer:
        glance = Glance(imprint.lone(picture))
        matches = [each for group in self._groups for each in self._matches(group, glance)]
        matches.sort(key=lambda each: each.distance)
        if not matches:
            return Answer(None, None, None)
        best = matches[0]
        elsewhere = (each for each in matches if not _same_place(each, best))
        known = best if best.distance < UNKNOWN else None
        return Answer(known, best, next(elsewhere, None))

    def _matches(self, group: _Group, glance: Glance) -> list[Match]:
        """The frames that fit best, with their distances."""
        fitted = imprint.templates(glance.small_grey, group.aspect)
        rows = group.candidates(glance.small_grey)
        shapes = self._shapes(group, rows)
        fits = imprint.fits(shapes, fitted)
        about = np.setdiff1d(group.about(int(rows[fits.fit.argmax()])), rows)
        if len(about):
            more = self._shapes(group, about)
            fits = fits.joined(imprint.fits(more, fitted))
            rows, shapes = np.concatenate([rows, about]), np.concatenate([shapes, more])
        best = np.argsort(-fits.fit, kind="stable")[:_PROVED]
        agreed = np.array(
            [
                imprint.agreement(shapes[n], fitted[fits.template[n]], fits.y[n], fits.x[n])
                for n in best
            ]
        )
        near = agreed >= agreed.max() - _LIKELY
        ties = np.flatnonzero(near & (fits.fit[best] >= fits.fit[best][near].max() - _TIE))
        if len(fitted[fits.template[best[ties[0]]]]) == imprint.SHAPE_WH[1]:
            ties = ties[self._right_colours(rows[best[ties]], group, glance)]
        agreed[ties[_middle(rows[best[ties]], group)]] = agreed.max() + _LEAST
        return [
            group.match(int(row), 1 - min(float(found), 1.0))
            for row, found in zip(rows[best], agreed, strict=True)
        ]

    def _shapes(self, group: _Group, rows: Rows) -> imprint.Shapes:
        return np.array([self._looks(c)[0][at] for c, at in map(group.place, rows)])

    def _right_colours(self, rows: Rows, group: _Group, glance: Glance) -> npt.NDArray[np.bool_]:
        """Which of several rows have their colours where a whole picture has them."""
        layouts = np.array([self._looks(c)[1][at] for c, at in map(group.place, rows)])
        apart = colour_layout.distances(colour_layout.layout(glance.small), layouts)
        return np.asarray(apart <= apart.min() + _COLOURS)


def _middle(rows: Rows, group: _Group) -> int:
    """Of rows that fit as well as the first: that in the middle of those in its place.

    A picture that stands for a while is best answered by the middle of it.
    """
    first = group.match(int(rows[0]), 0)
    same = [n for n, row in enumerate(rows) if _same_place(group.match(int(row), 0), first)]
    return sorted(same, key=lambda n: int(rows[n]))[len(same) // 2]


class _Group:
    """The frames of all clips of one aspect, row by row."""

    def __init__(self, aspect: float, chunks: list[Chunk], clips: dict[int, Clip]) -> None:
        self.aspect, self._chunks, self._clips = aspect, chunks, clips
        sizes = [len(chunk.frames) for chunk in chunks]
        self._starts = np.cumsum([0, *sizes])
        self._of_clip = np.repeat([chunk.clip for chunk in chunks], sizes)
        self._hashes = np.ascontiguousarray(np.concatenate([c.hashes for c in chunks]).T)

    def candidates(self, grey: Picture) -> Rows:
        """The frames nearest to a picture as a whole, and those it is nearest to as a crop."""
        parts = imprint.parts(round(grey.shape[1] / grey.shape[0], 2), self.aspect)
        whole, *found = imprint.hash_parts(grey, [imprint.WHOLE, *parts])
        apart = hashes.distances(int(whole), self._hashes[0])
        as_crop = apart.copy()
        for part, each in zip(parts, found, strict=True):
            near = hashes.distances(int(each), self._hashes[part.which])
            np.minimum(as_crop, near, out=as_crop)
        return np.union1d(nearest(apart, _AS_WHOLE), nearest(as_crop, _AS_CROP))

    def about(self, row: int) -> Rows:
        """The rows of the same clip before and after."""
        rows = np.arange(max(row - _ABOUT, 0), min(row + _ABOUT + 1, len(self._of_clip)))
        return np.asarray(rows[self._of_clip[rows] == self._of_clip[row]])

    def place(self, row: int) -> tuple[int, int]:
        """The chunk's id, and the place in it."""
        number, at = self._at(row)
        return self._chunks[number].id, at

    def match(self, row: int, distance: float) -> Match:
        """The frame of a row."""
        number, at = self._at(row)
        chunk = self._chunks[number]
        seconds = Fraction(chunk.seconds[at])
        return Match(self._clips[chunk.clip], int(chunk.frames[at]), seconds, distance)

    def _at(self, row: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return number, int(row - self._starts[number])


def nearest(distances: npt.NDArray[np.uint8], count: int) -> Rows:
    """The rows of the `count` smallest distances, those of the last evenly spread; ascending."""
    if len(distances) <= count:
        return np.arange(len(distances))
    upto = np.bincount(distances, minlength=hashes.BITS + 1).cumsum()
    last = int(np.searchsorted(upto, count))
    rows, equal = np.flatnonzero(distances < last), np.flatnonzero(distances == last)
    spread = np.linspace(0, len(equal) - 1, count - len(rows)).round().astype(int)
    return np.union1d(rows, equal[spread])


def without_borders(picture: Picture) -> Picture:
    """The picture without the bars of one colour that a player puts round it."""
    lively = np.ptp(picture.astype(np.int16).max(axis=2), axis=1) > _FLAT_LEVELS
    across = np.ptp(picture.astype(np.int16).max(axis=2), axis=0) > _FLAT_LEVELS
    if not lively.any() or not across.any():
        return picture
    rows, columns = np.flatnonzero(lively), np.flatnonzero(across)
    return np.ascontiguousarray(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _aspect(clip: Clip) -> float:
    return round(clip.width / clip.height, 2)


def _same_place(one: Match, other: Match) -> bool:
    return one.clip.id == other.clip.id and abs(one.seconds - other.seconds) <= _SAME_SECONDS
