"""Find the frames that a person should review, worst first, and draw them on a sheet.

An item is compared with what its objects did before; the images are not read. Every reason has a
weight, so that all frames stand in one order:

- `covers` 3, `overlap` 2; `jump` 1, and 1 more for each doubling of the jump, up to 3;
- `lost` 1, or half of that for an object at the edge of the picture: it left; `found again` 1;
- `unsure`: twice the share by which the score has dropped below the usual score of that object.

The priority of a frame is the weight of its strongest reason and a third of each other one. Within
half a second of a frame already chosen, the priority falls in proportion to the nearness in time.

For two versions of a dataset, the largest corrections are drawn too, before and after side by side.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from annotate.dataset.diff import ObjectChange
from annotate.dataset.folder import Dataset
from annotate.errors import DatasetError, ItemsError, OutputError
from annotate.items import masks, records
from annotate.items.records import Box, Item, Object, Picture
from annotate.propagators.flags import COVERS, JUMP, OVERLAP, AnomalyFlagger, flag_overlaps
from annotate.video.reader import frames_at
from annotate.viewing import contact_sheet
from annotate.viewing.contact_sheet import Cell, cell_width, lay_out, view_around
from annotate.viewing.overlay import draw_item

DEFAULT_COUNT = 24  # looks, unless told otherwise
(
    _COVERS_WEIGHT,
    _OVERLAP_WEIGHT,
    _JUMP_WEIGHT,
    _MAX_JUMP_WEIGHT,
    _LOST_WEIGHT,
    _LEFT_WEIGHT,
    _FOUND_AGAIN_WEIGHT,
    _UNSURE_WEIGHT,
) = 3, 2, 1, 3, 1, 0.5, 1, 2
_FLAG_TEXTS = {COVERS: "covers most of the picture", OVERLAP: "overlaps another", JUMP: "jumps"}
_SECONDARY_WEIGHT = 1 / 3  # what a frame's lesser signs count
_SPREAD_SECONDS = 0.5  # seconds
_MIN_SCORE_DROP = 0.15  # share of its usual score that an object's score must drop to be a sign
_SCORE_EMA_WEIGHT = 0.1  # the weight of the last frame in what is usual
_EDGE_PX = 1.5  # pixels from the picture's edge that count as on it
_CANDIDATES_PER_FRAME = 64  # times as many candidates as looks are held, whatever the clip's length


@dataclass(frozen=True)
class ReviewReason:
    """Why a frame is worth a look: a word, an object, how much it weighs, and where it was."""

    text: str
    track: int | None
    label: str
    weight: float
    box: Box

    def __str__(self) -> str:
        name = self.label if self.track is None else f"{self.label} #{self.track}"
        return f"{name} {self.text}"


@dataclass(frozen=True)
class ReviewFrame:
    """A frame worth a look; `signs` are in order of weight."""

    item: Item
    reasons: tuple[ReviewReason, ...]

    @property
    def priority(self) -> float:
        """How much a look is worth before others are had."""
        first, *rest = (sign.weight for sign in self.reasons)
        return first + _SECONDARY_WEIGHT * sum(rest)

    @property
    def summary(self) -> str:
        """The signs in words."""
        return ", ".join(map(str, self.reasons))


@dataclass(frozen=True)
class _TrackHistory:
    """What was known of a track when it was last seen."""

    obj: Object
    mean_score: float | None  # score
    lost: bool = False


class ReasonFinder:
    """Reads items in order and tells the signs of each.

    `flagged` says that flags stand in the items already; else jumps and covers are found here.
    """

    def __init__(self, *, flagged: bool) -> None:
        self._flagged, self._flagger = flagged, AnomalyFlagger()
        self._tracks: dict[int, _TrackHistory] = {}

    def reasons(self, item: Item) -> list[ReviewReason]:
        """Why this item is worth a look, in order of weight; empty where nothing is."""
        surprises = self._flagger.anomaly_scores(item)
        whole = item if self._flagged else flag_overlaps(item)
        found = [*self._loss_reasons(item)]
        for thing, surprise in zip(whole.objects, surprises, strict=True):
            due = [flag for flag, much in surprise.items() if much > 1]
            flags = thing.flags if self._flagged else [*thing.flags, *due]
            found += _flag_reasons(thing, flags, surprise)
            found += self._score_reasons(thing)
        return sorted(found, key=lambda sign: (-sign.weight, sign.text, str(sign)))

    def _loss_reasons(self, item: Item) -> Iterator[ReviewReason]:
        for track in item.lost:
            before = self._tracks.get(track)
            if before is not None and not before.lost:
                self._tracks[track] = replace(before, lost=True)
                thing = before.obj
                left = _touches_edge(thing.box, item)
                yield _reason(
                    "left" if left else "lost", thing, _LEFT_WEIGHT if left else _LOST_WEIGHT
                )

    def _score_reasons(self, obj: Object) -> Iterator[ReviewReason]:
        if obj.track is None:
            return
        before = self._tracks.get(obj.track)
        usual = obj.score if before is None or before.mean_score is None else before.mean_score
        if before is not None and before.lost:
            yield _reason("found again", obj, _FOUND_AGAIN_WEIGHT)
        if obj.score is not None and usual:
            drop = 1 - obj.score / usual
            if drop > _MIN_SCORE_DROP:
                yield _reason(f"unsure ({obj.score:.2f})", obj, _UNSURE_WEIGHT * drop)
            usual += _SCORE_EMA_WEIGHT * (obj.score - usual)
        self._tracks[obj.track] = _TrackHistory(obj, usual)


def _flag_reasons(
    obj: Object, flags: Collection[str], surprise: Mapping[str, float]
) -> Iterator[ReviewReason]:
    doubled = math.log2(max(surprise.get(JUMP, 1.0), 1.0))
    weights = {
        COVERS: _COVERS_WEIGHT,
        OVERLAP: _OVERLAP_WEIGHT,
        JUMP: min(_JUMP_WEIGHT + doubled, _MAX_JUMP_WEIGHT),
    }
    for flag in dict.fromkeys(flags):
        if flag in weights:
            yield _reason(_FLAG_TEXTS[flag], obj, weights[flag])


def _reason(text: str, obj: Object, weight: float) -> ReviewReason:
    return ReviewReason(text, obj.track, obj.label, weight, obj.box)


def _touches_edge(box: Box, item: Item) -> bool:
    x1, y1, x2, y2 = box
    return min(x1, y1, item.width - x2, item.height - y2) <= _EDGE_PX


def find_frames(
    items: Iterable[Item], count: int = DEFAULT_COUNT, *, flagged: bool = False
) -> list[ReviewFrame]:
    """At most `count` frames worth a look, the worst first; items must be in order of frames.

    However long the clip, so many candidates are held for each look, and no masks but theirs.
    """
    reader, held, most = (
        ReasonFinder(flagged=flagged),
        list[ReviewFrame](),
        _CANDIDATES_PER_FRAME * count,
    )
    for item in items:
        if signs := reader.reasons(item):
            held.append(ReviewFrame(item, tuple(signs)))
            if len(held) > 2 * most:
                held = sorted(held, key=_sort_key)[:most]
    return _spread_in_time(held, count)


def _sort_key(review_frame: ReviewFrame) -> tuple[float, int]:
    return -review_frame.priority, review_frame.item.frame


def _spread_in_time(review_frames: Sequence[ReviewFrame], count: int) -> list[ReviewFrame]:
    """One after another the look that is worth most beside those chosen before."""
    left = sorted(review_frames, key=_sort_key)
    fresh = [1.0] * len(left)  # how much of its worth each still has
    chosen: list[ReviewFrame] = []
    while len(chosen) < min(count, len(left)):
        best = max(range(len(left)), key=lambda n: fresh[n] * left[n].priority)
        if fresh[best] == 0:
            break
        chosen.append(left[best])
        for n, look in enumerate(left):
            apart = abs(look.item.seconds - left[best].item.seconds)
            fresh[n] = min(fresh[n], float(apart) / _SPREAD_SECONDS)
    return chosen


def draw_sheet(
    review_frames: Sequence[ReviewFrame], clip: Path, labels: Sequence[str], out: Path
) -> None:
    """Draw the looks, in their order, as one PNG: each a window round what its signs are about.

    `labels` are all classes: they give the colours.

    Raises:
        OutputError: `out` cannot be written.
        ItemsError: there is nothing to draw.
    """
    if not review_frames:
        raise ItemsError(f"{clip}: no frame is worth a look: no sheet to draw")
    by_frame = {look.item.frame: look for look in review_frames}
    room = cell_width(len(review_frames))
    cells = {}
    for frame in frames_at(clip, sorted(by_frame)):
        look = by_frame[frame.index]
        view = view_around(_reasons_box(look), frame.size_wh, room)
        picture = draw_item(view.crop_image(frame.image), view.crop_item(look.item), labels)
        title = f"frame {frame.index} · {float(frame.seconds):.2f} s"
        cells[frame.index] = Cell(picture, title, look.summary)
    _save_png(lay_out([cells[look.item.frame] for look in review_frames]), out)


def class_labels(review_frames: Sequence[ReviewFrame], header: records.Header) -> list[str]:
    """All classes that the looks need, those of the vocabulary first."""
    known = list(header.vocabulary.get("labels", ()))
    there = sorted({thing.label for look in review_frames for thing in look.item.objects})
    return [*known, *(label for label in there if label not in known)]


def _reasons_box(review_frame: ReviewFrame) -> Box:
    """A box round all that the signs are about, where it is and where it was."""
    x1, y1, x2, y2 = zip(*(sign.box for sign in review_frame.reasons), strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _save_png(picture: Picture, out: Path) -> None:
    draft = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        Image.fromarray(picture).save(draft, "PNG")
        draft.replace(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot write: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)


_HALF_WIDTH_PX = 240  # pixels that a half of a cell is wide
_SEPARATOR_COLOUR = (236, 239, 244)


def largest_changes(changes: Sequence[ObjectChange], count: int) -> list[ObjectChange]:
    """The `count` changes that cost a person most: those by which most pixels changed hands."""
    made = [change for change in changes if change.kind != "kept"]
    return sorted(made, key=_changed_pixels, reverse=True)[:count]


def _changed_pixels(change: ObjectChange) -> float:
    """The pixels that are of one of the two and not of the other."""
    areas = [_object_area(thing) for thing in (change.before, change.after) if thing is not None]
    if change.kind == "relabelled":
        return sum(areas)
    both = change.iou * sum(areas) / (1 + change.iou)
    return sum(areas) - 2 * both


def _object_area(obj: Object) -> float:
    if obj.mask is not None:
        return float(masks.area(obj.mask))
    return (obj.box[2] - obj.box[0]) * (obj.box[3] - obj.box[1])


def draw_changes(
    dataset: Dataset, corrected: Dataset, changes: Sequence[ObjectChange], count: int = 24
) -> Picture:
    """A sheet of the biggest changes, (H, W, 3): what was proposed left, what it became right.

    Raises:
        DatasetError: nothing was changed.
    """
    chosen = largest_changes(changes, count)
    if not chosen:
        raise DatasetError(f"{corrected.path}: nothing of {dataset.path} was changed")
    return contact_sheet.lay_out([_change_cell(dataset, corrected, change) for change in chosen])


def save_image(picture: Picture, path: Path) -> None:
    """Write a picture, under another name first.

    Raises:
        OutputError: nothing can be written there, or not of that kind.
    """
    from PIL import Image

    draft = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        Image.fromarray(picture).save(draft)
        draft.replace(path)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot write there: {error}; try changes.png") from None
    finally:
        draft.unlink(missing_ok=True)


def _change_cell(dataset: Dataset, corrected: Dataset, change: ObjectChange) -> contact_sheet.Cell:
    from PIL import Image

    with Image.open(dataset.images / change.image) as image:
        pixels = np.array(image.convert("RGB"), np.uint8)
    seen = contact_sheet.view_around(
        _change_box(change), (change.item.width, change.item.height), _HALF_WIDTH_PX
    )
    halves = []
    for thing in (change.before, change.after):
        shown = replace(change.item, objects=() if thing is None else (thing,), lost=())
        part = seen.crop_image(pixels)
        halves.append(draw_item(part, seen.crop_item(shown), corrected.classes))
    line = np.full((halves[0].shape[0], 2, 3), _SEPARATOR_COLOUR, np.uint8)
    name = change.object.label
    if change.kind == "relabelled" and change.after is not None:
        name += f" → {change.after.label}"
    iou = f", IoU {change.iou:.2f}" if change.kind == "moved" else ""
    title = f"{change.kind}: {name}{iou}"
    where = f"{change.image}  {change.object.source}"
    return contact_sheet.Cell(np.hstack([halves[0], line, halves[1]]), title, where)


def _change_box(change: ObjectChange) -> Box:
    boxes = np.array([thing.box for thing in (change.before, change.after) if thing is not None])
    x1, y1 = boxes[:, :2].min(axis=0).tolist()
    x2, y2 = boxes[:, 2:].max(axis=0).tolist()
    return x1, y1, x2, y2
