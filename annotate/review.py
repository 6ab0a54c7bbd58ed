"""Frames worth a look: what is flagged, unsure, lost or found again, the worst first, each once.

An item is held against what its objects did before; nothing looks at the pictures. Every sign has a
weight, so that one list can be made of all:

- `covers` 3, `overlap` 2; `jump` 1, and 1 more for each time that it doubles, up to 3;
- `lost` 1, half of that for what was cut off by the picture's edge: it left; `found again` 1;
- `unsure`: twice the share by which its score has dropped below what is usual for it.

A frame's worth is that of its worst sign and a third of each other one. A second look within half
a second of a first is worth as much less as it is nearer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from annotate import journal, video
from annotate.errors import ItemsError, OutputError
from annotate.flags import COVERS, JUMP, OVERLAP, Watch, overlapping
from annotate.paint import annotated
from annotate.records import Box, Item, Object, Picture
from annotate.sheet import Cell, cell_width, lay_out
from annotate.view import around

COUNT = 24  # looks, unless told otherwise
_COVERS, _OVERLAP, _JUMP, _JUMP_MOST, _LOST, _LEFT, _FOUND, _UNSURE = 3, 2, 1, 3, 1, 0.5, 1, 2
_WORDS = {COVERS: "covers most of the picture", OVERLAP: "overlaps another", JUMP: "jumps"}
_REST = 1 / 3  # what a frame's lesser signs count
_NEAR = 0.5  # seconds
_UNUSUAL = 0.15  # share of its usual score that an object's score must drop to be a sign
_RECENT = 0.1  # the weight of the last frame in what is usual
_EDGE = 1.5  # pixels from the picture's edge that count as on it
_HELD = 64  # times as many candidates as looks are held, whatever the clip's length


@dataclass(frozen=True)
class Sign:
    """Why a frame is worth a look: a word, an object, how much it weighs, and where it was."""

    word: str
    track: int | None
    label: str
    weight: float
    box: Box

    def __str__(self) -> str:
        name = self.label if self.track is None else f"{self.label} #{self.track}"
        return f"{name} {self.word}"


@dataclass(frozen=True)
class Look:
    """A frame worth a look; `signs` are in order of weight."""

    item: Item
    signs: tuple[Sign, ...]

    @property
    def worth(self) -> float:
        """How much a look is worth before others are had."""
        first, *rest = (sign.weight for sign in self.signs)
        return first + _REST * sum(rest)

    @property
    def why(self) -> str:
        """The signs in words."""
        return ", ".join(map(str, self.signs))


@dataclass(frozen=True)
class _Known:
    """What was known of a track when it was last seen."""

    thing: Object
    usual: float | None  # score
    lost: bool = False


class Reader:
    """Reads items in order and tells the signs of each.

    `flagged` says that flags stand in the items already; else jumps and covers are found here.
    """

    def __init__(self, *, flagged: bool) -> None:
        self._flagged, self._watch = flagged, Watch()
        self._known: dict[int, _Known] = {}

    def signs(self, item: Item) -> list[Sign]:
        """Why this item is worth a look, in order of weight; empty where nothing is."""
        surprises = self._watch.surprises(item)
        whole = item if self._flagged else overlapping(item)
        found = [*self._losses(item)]
        for thing, surprise in zip(whole.objects, surprises, strict=True):
            due = [flag for flag, much in surprise.items() if much > 1]
            flags = thing.flags if self._flagged else [*thing.flags, *due]
            found += _flag_signs(thing, flags, surprise)
            found += self._changes(thing)
        return sorted(found, key=lambda sign: (-sign.weight, sign.word, str(sign)))

    def _losses(self, item: Item) -> Iterator[Sign]:
        for track in item.lost:
            before = self._known.get(track)
            if before is not None and not before.lost:
                self._known[track] = replace(before, lost=True)
                thing = before.thing
                left = _on_edge(thing.box, item)
                yield _sign("left" if left else "lost", thing, _LEFT if left else _LOST)

    def _changes(self, thing: Object) -> Iterator[Sign]:
        if thing.track is None:
            return
        before = self._known.get(thing.track)
        usual = thing.score if before is None or before.usual is None else before.usual
        if before is not None and before.lost:
            yield _sign("found again", thing, _FOUND)
        if thing.score is not None and usual:
            drop = 1 - thing.score / usual
            if drop > _UNUSUAL:
                yield _sign(f"unsure ({thing.score:.2f})", thing, _UNSURE * drop)
            usual += _RECENT * (thing.score - usual)
        self._known[thing.track] = _Known(thing, usual)


def _flag_signs(
    thing: Object, flags: Collection[str], surprise: Mapping[str, float]
) -> Iterator[Sign]:
    doubled = math.log2(max(surprise.get(JUMP, 1.0), 1.0))
    weights = {COVERS: _COVERS, OVERLAP: _OVERLAP, JUMP: min(_JUMP + doubled, _JUMP_MOST)}
    for flag in dict.fromkeys(flags):
        if flag in weights:
            yield _sign(_WORDS[flag], thing, weights[flag])


def _sign(word: str, thing: Object, weight: float) -> Sign:
    return Sign(word, thing.track, thing.label, weight, thing.box)


def _on_edge(box: Box, item: Item) -> bool:
    x1, y1, x2, y2 = box
    return min(x1, y1, item.width - x2, item.height - y2) <= _EDGE


def find(items: Iterable[Item], count: int = COUNT, *, flagged: bool = False) -> list[Look]:
    """At most `count` frames worth a look, the worst first; items must be in order of frames.

    However long the clip, so many candidates are held for each look, and no masks but theirs.
    """
    reader, held, most = Reader(flagged=flagged), list[Look](), _HELD * count
    for item in items:
        if signs := reader.signs(item):
            held.append(Look(item, tuple(signs)))
            if len(held) > 2 * most:
                held = sorted(held, key=_order)[:most]
    return _spread(held, count)


def _order(look: Look) -> tuple[float, int]:
    return -look.worth, look.item.frame


def _spread(looks: Sequence[Look], count: int) -> list[Look]:
    """One after another the look that is worth most beside those chosen before."""
    left = sorted(looks, key=_order)
    fresh = [1.0] * len(left)  # how much of its worth each still has
    chosen: list[Look] = []
    while len(chosen) < min(count, len(left)):
        best = max(range(len(left)), key=lambda n: fresh[n] * left[n].worth)
        if fresh[best] == 0:
            break
        chosen.append(left[best])
        for n, look in enumerate(left):
            apart = abs(look.item.seconds - left[best].item.seconds)
            fresh[n] = min(fresh[n], float(apart) / _NEAR)
    return chosen


def sheet(looks: Sequence[Look], clip: Path, labels: Sequence[str], out: Path) -> None:
    """Draw the looks, in their order, as one PNG: each a window round what its signs are about.

    `labels` are all classes: they give the colours.

    Raises:
        OutputError: `out` cannot be written.
        ItemsError: there is nothing to draw.
    """
    if not looks:
        raise ItemsError(f"{clip}: no frame is worth a look: no sheet to draw")
    by_frame = {look.item.frame: look for look in looks}
    room = cell_width(len(looks))
    cells = {}
    for frame in video.frames_at(clip, sorted(by_frame)):
        look = by_frame[frame.index]
        view = around(_extent(look), frame.size_wh, room)
        picture = annotated(view.of_image(frame.image), view.of_item(look.item), labels)
        title = f"frame {frame.index} · {float(frame.seconds):.2f} s"
        cells[frame.index] = Cell(picture, title, look.why)
    _save(lay_out([cells[look.item.frame] for look in looks]), out)


def labels(looks: Sequence[Look], header: journal.Header) -> list[str]:
    """All classes that the looks need, those of the vocabulary first."""
    known = list(header.vocabulary.get("labels", ()))
    there = sorted({thing.label for look in looks for thing in look.item.objects})
    return [*known, *(label for label in there if label not in known)]


def _extent(look: Look) -> Box:
    """A box round all that the signs are about, where it is and where it was."""
    x1, y1, x2, y2 = zip(*(sign.box for sign in look.signs), strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _save(picture: Picture, out: Path) -> None:
    draft = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        Image.fromarray(picture).save(draft, "PNG")
        draft.replace(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot write: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
