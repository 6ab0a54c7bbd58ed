"""Find the frames that a person should review, worst first, and draw them on a sheet.

The objects of an item are compared with their own past; the images are not read. Every reason has
a weight, which puts all frames in one order:

- `covers` 3, `overlap` 2; `jump` 1, and 1 more for each doubling of the jump, up to 3;
- `lost` 1, or half of that at the edge of the image, where an object leaves; `found again` 1;
- `unsure`: twice the share by which the score dropped below the mean score of that object.

The priority of a frame is the weight of its strongest reason and a third of each other one. Within
half a second of a frame already chosen, the priority falls in proportion to the time between.

The largest corrections between two versions of a dataset are drawn too, side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from annotate.dataset.diff import ObjectChange
from annotate.dataset.folder import Dataset
from annotate.dataset.frame_sources import DatasetFrameSource
from annotate.errors import DatasetError, ItemsError
from annotate.items import boxes, masks, records
from annotate.items.records import Box, Frame, Item, Object, Picture
from annotate.propagators.flags import COVERS, JUMP, OVERLAP, AnomalyFlagger, flag_overlaps
from annotate.video.images import read_image, save_image
from annotate.video.reader import frames_at
from annotate.viewing.contact_sheet import TEXT_COLOUR, Cell, cell_width, lay_out
from annotate.viewing.crop_view import view_around
from annotate.viewing.overlay import draw_item

DEFAULT_COUNT = 24  # frames
_COVERS_WEIGHT, _OVERLAP_WEIGHT = 3, 2
_JUMP_WEIGHT, _MAX_JUMP_WEIGHT = 1, 3
_LOST_WEIGHT, _LEFT_WEIGHT, _FOUND_AGAIN_WEIGHT = 1, 0.5, 1
_UNSURE_WEIGHT = 2
_FLAG_TEXTS = {COVERS: "covers most of the picture", OVERLAP: "overlaps another", JUMP: "jumps"}
_SECONDARY_WEIGHT = 1 / 3  # factor for all reasons of a frame but the strongest
_SPREAD_SECONDS = 0.5  # within so much time of a chosen frame the priority falls
_MIN_SCORE_DROP = 0.15  # smallest drop that is a reason, as a share of the mean score
_SCORE_EMA_WEIGHT = 0.1  # weight of the last frame in the running mean score
_EDGE_PX = 1.5  # distance from the border that counts as at the edge
_CANDIDATES_PER_FRAME = 64  # candidates held in memory for each frame to find

_HALF_WIDTH_PX = 240  # width of each of the two images in a cell


@dataclass(frozen=True)
class ReviewReason:
    """Why a frame needs a review: the text, the object with its box, and the weight."""

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
    """A frame to review, with its reasons in order of weight."""

    item: Item
    reasons: tuple[ReviewReason, ...]

    @property
    def priority(self) -> float:
        """The priority of the frame before other frames are chosen."""
        first, *rest = (reason.weight for reason in self.reasons)
        return first + _SECONDARY_WEIGHT * sum(rest)

    @property
    def summary(self) -> str:
        """All reasons as one text."""
        return ", ".join(map(str, self.reasons))


@dataclass(frozen=True)
class _TrackHistory:
    """The last object of a track, its running mean score, and whether the track is lost."""

    obj: Object
    mean_score: float | None
    lost: bool = False


class ReasonFinder:
    """Reads items in order of frames and finds the reasons to review each.

    With `flagged` the items have flags already; otherwise jumps and covers are found here.
    """

    def __init__(self, *, flagged: bool) -> None:
        self._flagged, self._flagger = flagged, AnomalyFlagger()
        self._tracks: dict[int, _TrackHistory] = {}

    def reasons(self, item: Item) -> list[ReviewReason]:
        """Find the reasons to review this item, in order of weight; empty if there are none."""
        anomaly_scores = self._flagger.anomaly_scores(item)
        with_overlaps = item if self._flagged else flag_overlaps(item)
        reasons = [*self._loss_reasons(item)]
        for obj, scores in zip(with_overlaps.objects, anomaly_scores, strict=True):
            new_flags = [flag for flag, score in scores.items() if score > 1]
            flags = obj.flags if self._flagged else [*obj.flags, *new_flags]
            reasons += _flag_reasons(obj, flags, scores)
            reasons += self._score_reasons(obj)
        return sorted(reasons, key=lambda reason: (-reason.weight, reason.text, str(reason)))

    def forget(self, tracks: Iterable[int]) -> None:
        """Forget tracks that do not come again, so that memory does not grow with the clip."""
        for track in tracks:
            self._tracks.pop(track, None)
            self._flagger.forget(track)

    def _loss_reasons(self, item: Item) -> Iterator[ReviewReason]:
        for track in item.lost:
            history = self._tracks.get(track)
            if history is not None and not history.lost:
                self._tracks[track] = replace(history, lost=True)
                if _touches_edge(history.obj.box, item):
                    yield _reason("left", history.obj, _LEFT_WEIGHT)
                else:
                    yield _reason("lost", history.obj, _LOST_WEIGHT)

    def _score_reasons(self, obj: Object) -> Iterator[ReviewReason]:
        if obj.track is None:
            return
        history = self._tracks.get(obj.track)
        mean = obj.score if history is None or history.mean_score is None else history.mean_score
        if history is not None and history.lost:
            yield _reason("found again", obj, _FOUND_AGAIN_WEIGHT)
        if obj.score is not None and mean:
            drop = 1 - obj.score / mean
            if drop > _MIN_SCORE_DROP:
                yield _reason(f"unsure ({obj.score:.2f})", obj, _UNSURE_WEIGHT * drop)
            mean += _SCORE_EMA_WEIGHT * (obj.score - mean)
        self._tracks[obj.track] = _TrackHistory(obj, mean)


def _flag_reasons(
    obj: Object, flags: Collection[str], anomaly_scores: Mapping[str, float]
) -> Iterator[ReviewReason]:
    doublings = math.log2(max(anomaly_scores.get(JUMP, 1.0), 1.0))
    weights = {
        COVERS: _COVERS_WEIGHT,
        OVERLAP: _OVERLAP_WEIGHT,
        JUMP: min(_JUMP_WEIGHT + doublings, _MAX_JUMP_WEIGHT),
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
    """Find at most `count` frames to review, worst first; items must be in order of frames.

    The number of candidates in memory does not grow with the clip. `flagged`: see `ReasonFinder`.
    """
    finder, max_candidates = ReasonFinder(flagged=flagged), _CANDIDATES_PER_FRAME * count
    candidates: list[ReviewFrame] = []
    for item in items:
        if reasons := finder.reasons(item):
            candidates.append(ReviewFrame(item, tuple(reasons)))
            if len(candidates) > 2 * max_candidates:
                candidates = sorted(candidates, key=_sort_key)[:max_candidates]
    return _spread_in_time(candidates, count)


def _sort_key(review_frame: ReviewFrame) -> tuple[float, int]:
    return -review_frame.priority, review_frame.item.frame


def _spread_in_time(review_frames: Sequence[ReviewFrame], count: int) -> list[ReviewFrame]:
    """Choose frames one by one, by their priority and their distance in time to those chosen."""
    candidates = sorted(review_frames, key=_sort_key)
    factors = [1.0] * len(candidates)  # of the priority, 0..1
    chosen: list[ReviewFrame] = []
    while len(chosen) < min(count, len(candidates)):
        best = max(range(len(candidates)), key=lambda n: factors[n] * candidates[n].priority)
        if factors[best] == 0:
            break
        chosen.append(candidates[best])
        for n, candidate in enumerate(candidates):
            distance = abs(candidate.item.seconds - candidates[best].item.seconds)
            factors[n] = min(factors[n], float(distance) / _SPREAD_SECONDS)
    return chosen


def draw_sheet(
    review_frames: Sequence[ReviewFrame], clip: Path, labels: Sequence[str], out: Path
) -> None:
    """Draw the frames to review, in their order, as one PNG: each a window round its reasons.

    `labels` are all classes, in the order that gives the colours.

    Raises:
        OutputError: `out` cannot be written.
        ItemsError: there is nothing to draw.
    """
    _refuse_none(review_frames, clip)
    by_frame = {each.item.frame: each for each in review_frames}
    pairs = ((by_frame[frame.index], frame) for frame in frames_at(clip, sorted(by_frame)))
    _draw_cells(review_frames, pairs, labels, out, lambda item: f"frame {item.frame}")


def draw_dataset_sheet(
    review_frames: Sequence[ReviewFrame], dataset: Dataset, labels: Sequence[str], out: Path
) -> None:
    """Draw frames of a dataset to review, as `draw_sheet` draws those of a clip.

    Raises:
        OutputError: `out` cannot be written.
        ItemsError: there is nothing to draw.
    """
    _refuse_none(review_frames, dataset.path)
    by_key = {(each.item.video, each.item.frame): each for each in review_frames}
    frames = DatasetFrameSource(dataset.path).frames_at(by_key)
    pairs = ((by_key[frame.video, frame.index], frame) for frame in frames)
    _draw_cells(review_frames, pairs, labels, out, lambda item: f"{item.video}#{item.frame}")


def _refuse_none(review_frames: Sequence[ReviewFrame], where: Path) -> None:
    if not review_frames:
        raise ItemsError(f"{where}: no frame needs a review, so there is no sheet to draw")


def _draw_cells(
    review_frames: Sequence[ReviewFrame],
    pairs: Iterable[tuple[ReviewFrame, Frame]],
    labels: Sequence[str],
    out: Path,
    title: Callable[[Item], str],
) -> None:
    """Draw a cell for each pair, in the order of `review_frames`."""
    width_px, cells = cell_width(len(review_frames)), {}
    for review_frame, frame in pairs:
        view = view_around(_reasons_box(review_frame), frame.size_wh, width_px)
        item = view.crop_item(review_frame.item)
        picture = draw_item(view.crop_image(frame.image), item, labels)
        text = f"{title(review_frame.item)} · {float(frame.seconds):.2f} s"
        cells[id(review_frame)] = Cell(picture, text, review_frame.summary)
    save_image(lay_out([cells[id(each)] for each in review_frames]), out)


def class_labels(review_frames: Sequence[ReviewFrame], header: records.Header) -> list[str]:
    """List all classes of the frames, those of the vocabulary first."""
    vocabulary = list(header.vocabulary.get("labels", ()))
    used = sorted({obj.label for each in review_frames for obj in each.item.objects})
    return [*vocabulary, *(label for label in used if label not in vocabulary)]


def _reasons_box(review_frame: ReviewFrame) -> Box:
    """Compute a box round the boxes of all reasons."""
    x1, y1, x2, y2 = zip(*(reason.box for reason in review_frame.reasons), strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def largest_changes(changes: Sequence[ObjectChange], count: int) -> list[ObjectChange]:
    """List the `count` changes that change the class or object of the most pixels."""
    changed = [change for change in changes if change.kind != "kept"]
    return sorted(changed, key=_changed_pixels, reverse=True)[:count]


def _changed_pixels(change: ObjectChange) -> float:
    """Count the pixels that are in one of the two objects and not in the other."""
    areas = [_object_area(obj) for obj in (change.before, change.after) if obj is not None]
    if change.kind == "relabelled":
        return sum(areas)
    intersection = change.iou * sum(areas) / (1 + change.iou)
    return sum(areas) - 2 * intersection


def _object_area(obj: Object) -> float:
    if obj.mask is not None:
        return float(masks.area(obj.mask))
    return boxes.area(obj.box)


def draw_changes(
    dataset: Dataset, corrected: Dataset, changes: Sequence[ObjectChange], count: int = 24
) -> Picture:
    """Draw a sheet of the largest changes, (H, W, 3): before on the left, after on the right.

    Raises:
        DatasetError: nothing changed.
    """
    chosen = largest_changes(changes, count)
    if not chosen:
        raise DatasetError(f"{corrected.path}: nothing of {dataset.path} was changed")
    return lay_out([_change_cell(dataset, corrected, change) for change in chosen])


def _change_cell(dataset: Dataset, corrected: Dataset, change: ObjectChange) -> Cell:
    pixels = read_image(dataset.images / change.image)
    view = view_around(_change_box(change), (change.item.width, change.item.height), _HALF_WIDTH_PX)
    halves = []
    for obj in (change.before, change.after):
        item = replace(change.item, objects=() if obj is None else (obj,), lost=())
        crop = view.crop_image(pixels)
        halves.append(draw_item(crop, view.crop_item(item), corrected.classes))
    line = np.full((halves[0].shape[0], 2, 3), TEXT_COLOUR, np.uint8)
    name = change.object.label
    if change.kind == "relabelled" and change.after is not None:
        name += f" → {change.after.label}"
    iou = f", IoU {change.iou:.2f}" if change.kind == "moved" else ""
    title = f"{change.kind}: {name}{iou}"
    subtitle = f"{change.image}  {change.object.source}"
    return Cell(np.hstack([halves[0], line, halves[1]]), title, subtitle)


def _change_box(change: ObjectChange) -> Box:
    xyxy = np.array([obj.box for obj in (change.before, change.after) if obj is not None])
    x1, y1 = xyxy[:, :2].min(axis=0).tolist()
    x2, y2 = xyxy[:, 2:].max(axis=0).tolist()
    return x1, y1, x2, y2
