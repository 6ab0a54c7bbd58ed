"""Read and check prompts on a clip: points tables, boxes, masks and areas to ignore.

`read_points` checks a CSV file or DataFrame of points; `parse_box`, `parse_frame_box`, `parse_xyxy`
and `parse_mask` check texts such as `FRAME,OBJECT,X1,Y1,X2,Y2`; `prompt_table` joins the prompts
into one PromptTable. `ignore_mask` makes the mask of the areas that a comparison leaves out.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from annotate.errors import PromptError, VideoError
from annotate.items.points import BOX_CORNERS, GONE, default_label
from annotate.items.points import PromptScope as PromptScope
from annotate.items.points import read_points as read_points
from annotate.items.records import Box, Mask, Prompt
from annotate.video.images import open_upright

if TYPE_CHECKING:
    import pandas as pd

    from annotate.video.reader import Video


def clip_scope(video: Video, labels: tuple[str, ...] | None = None) -> PromptScope:
    """Return what prompts on a clip must fit: its size and length, and the classes if known."""
    return PromptScope((video.width, video.height), video.frame_count, labels)


@dataclass(frozen=True)
class PromptTable:
    """All prompts of a clip, by frame and object, and the class of each object (`labels`)."""

    prompts: tuple[Prompt, ...]
    labels: Mapping[int, str]

    def of_objects(self, object_ids: Collection[int]) -> PromptTable:
        """Select the prompts of some objects."""
        prompts = tuple(each for each in self.prompts if each.object_id in object_ids)
        labels = {key: label for key, label in self.labels.items() if key in object_ids}
        return PromptTable(prompts, labels)

    def digest(self) -> str:
        """Return a short hash of all prompts and labels: equal prompts have equal digests."""
        digest = hashlib.sha256(repr(sorted(self.labels.items())).encode())
        for prompt in self.prompts:
            mask = b"" if prompt.mask is None else np.packbits(prompt.mask).tobytes()
            points = prompt.points_xy.tobytes() + prompt.point_labels.tobytes()
            digest.update(repr((prompt.frame, prompt.object_id, prompt.box)).encode())
            digest.update(points + mask + b"gone" * prompt.gone)
        return digest.hexdigest()[:16]


def prompt_table(
    points: pd.DataFrame | None = None,
    boxes: Iterable[tuple[int, int, Box]] = (),
    masks: Iterable[tuple[int, int, Mask]] = (),
    *,
    scope: PromptScope,
) -> PromptTable:
    """Join points, boxes and masks into one table of prompts, by frame and object.

    `points` is a table of `read_points`; `boxes` and `masks` are (frame, object, box or mask).

    Raises:
        PromptError: an object has two classes, has only negative points on its first frame, or is
            gone on a frame on which it has a positive prompt too.
    """
    prompts: dict[tuple[int, int], Prompt] = {}  # by frame and object
    labels: dict[int, str] = {}
    if points is not None:
        labels = _object_labels(points)
        for _, group in points.groupby(["frame_id", "object_id"], sort=True):
            frame, object_id = int(group["frame_id"].iloc[0]), int(group["object_id"].iloc[0])
            prompts[frame, object_id] = _prompt_from_rows(frame, object_id, group)
    for frame, object_id, box in boxes:
        prompt = prompts.get((frame, object_id), Prompt(frame, object_id))
        prompts[frame, object_id] = replace(prompt, box=box)
    for frame, object_id, mask in masks:
        prompt = prompts.get((frame, object_id), Prompt(frame, object_id))
        prompts[frame, object_id] = replace(prompt, mask=mask)
    ordered = tuple(prompts[key] for key in sorted(prompts))
    default = default_label(scope)
    _check_starts(ordered)
    return PromptTable(ordered, {p.object_id: labels.get(p.object_id, default) for p in ordered})


def _prompt_from_rows(frame: int, object_id: int, rows: pd.DataFrame) -> Prompt:
    """Make a prompt of all rows of one object on one frame."""
    xy, labels = rows[["x", "y"]].to_numpy(float), rows["label"].to_numpy(np.int64)
    corners = np.concatenate([xy[labels == label] for label in BOX_CORNERS])
    box: Box | None = None
    if len(corners):
        x1, y1, x2, y2 = corners.ravel().tolist()
        box = x1, y1, x2, y2
    is_point = (labels == 0) | (labels == 1)
    gone = bool((labels == GONE).any())
    return Prompt(frame, object_id, xy[is_point], labels[is_point], box, gone=gone)


def _object_labels(points: pd.DataFrame) -> dict[int, str]:
    labels: dict[int, str] = {}
    for object_id, label in zip(points["object_id"], points["class"], strict=True):
        if labels.setdefault(int(object_id), label) != label:
            both = f"{labels[int(object_id)]!r} and {label!r}"
            raise PromptError(f"object {object_id} has two classes, {both}: give it one")
    return labels


def _check_starts(prompts: Iterable[Prompt]) -> None:
    by_object = defaultdict(list)
    for prompt in prompts:
        by_object[prompt.object_id].append(prompt)
    for object_id, own in by_object.items():
        for prompt in own:
            if prompt.gone and prompt.is_positive:
                raise PromptError(
                    f"object {object_id} is gone on frame {prompt.frame} (label -1), but has a "
                    "positive prompt there too: remove one of them"
                )
        first = next((prompt for prompt in own if not prompt.gone), None)
        if first is not None and not first.is_positive:
            raise PromptError(
                f"object {object_id} starts on frame {first.frame} with negative points only: "
                "give it a positive point, a box or a mask there"
            )


def parse_box(text: str, scope: PromptScope) -> tuple[int, int, Box]:
    """Parse `FRAME,OBJECT,X1,Y1,X2,Y2` into frame, object and box (xyxy, pixels).

    Raises:
        PromptError: not six numbers, a frame beyond the clip, a box outside the picture.
    """
    context = f"`box` {text}"
    frame, object_id, *xyxy = _parse_numbers(text, "FRAME,OBJECT,X1,Y1,X2,Y2", context)
    _check_frame(frame, context, scope)
    return int(frame), int(object_id), _checked_box(xyxy, context, scope.size_wh)


def parse_frame_box(text: str, scope: PromptScope) -> tuple[int, Box]:
    """Parse `FRAME,X1,Y1,X2,Y2` into frame and box (xyxy, pixels).

    Raises:
        PromptError: not five numbers, a frame beyond the clip, a box outside the picture.
    """
    context = f"`box` {text}"
    frame, *xyxy = _parse_numbers(text, "FRAME,X1,Y1,X2,Y2", context)
    _check_frame(frame, context, scope)
    return int(frame), _checked_box(xyxy, context, scope.size_wh)


def parse_xyxy(text: str, size_wh: tuple[int, int], context: str) -> Box:
    """Parse `X1,Y1,X2,Y2` into a box (xyxy, pixels) inside a picture; `context` begins the errors.

    Examples:
        >>> parse_xyxy("10,20,50,60", (64, 64), "`box`")
        (10.0, 20.0, 50.0, 60.0)

    Raises:
        PromptError: not four numbers, or a box outside the picture.
    """
    return _checked_box(_parse_numbers(text, "X1,Y1,X2,Y2", context), context, size_wh)


def parse_mask(text: str, scope: PromptScope) -> tuple[int, int, Mask]:
    """Parse `FRAME:OBJECT:mask.png` into frame, object and mask: the pixels brighter than half.

    Raises:
        PromptError: no such file, no picture, a picture of another size, an empty mask.
    """
    context = f"`mask` {text}"
    parts = text.split(":", 2)
    if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        raise PromptError(f"{context}: expected FRAME:OBJECT:mask.png")
    _check_frame(int(parts[0]), context, scope)
    mask = _read_mask(Path(parts[2]), scope.size_wh, context)
    if not mask.any():
        raise PromptError(f"{context}: the mask is empty: no pixel is brighter than half")
    return int(parts[0]), int(parts[1]), mask


def _parse_numbers(text: str, names: str, context: str) -> list[float]:
    """Parse numbers with commas between them; the ones named before X1 must be whole."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != names.count(",") + 1 or not np.isfinite(numbers).all():
        raise PromptError(f"{context}: expected {names} in pixels")
    whole = numbers[: names.split(",").index("X1")]
    if any(number < 0 or number != int(number) for number in whole):
        raise PromptError(f"{context}: expected {names}, whole numbers before the box")
    return numbers


def _check_frame(frame: float, context: str, scope: PromptScope) -> None:
    if scope.frame_count is not None and frame >= scope.frame_count:
        raise PromptError(f"{context}: the clip has frames 0 to {scope.frame_count - 1}")


def _checked_box(xyxy: Sequence[float], context: str, size_wh: tuple[int, int]) -> Box:
    x1, y1, x2, y2 = xyxy
    width, height = size_wh
    if max(xyxy) <= 1 and any(side != int(side) for side in xyxy):
        raise PromptError(
            f"{context}: all sides are within 0 and 1: are they shares of the picture? "
            f"A box is in pixels, inside {width}x{height}"
        )
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise PromptError(f"{context}: not a box (x1, y1, x2, y2) inside {width}x{height}")
    return x1, y1, x2, y2


def _read_mask(path: Path, size_wh: tuple[int, int], context: str) -> Mask:
    """Read a mask, (H, W) bool: the pixels of an upright picture that are brighter than half."""
    if not path.exists():
        raise PromptError(f"{context}: no such file")
    try:
        with open_upright(path) as image:
            mask = np.asarray(image.convert("L")) > 127
    except VideoError:
        raise PromptError(f"{context}: not a picture that can be read") from None
    if mask.shape[::-1] != size_wh:
        (width, height), (clip_width, clip_height) = mask.shape[::-1], size_wh
        raise PromptError(
            f"{context}: the mask is {width}x{height}, but the clip is {clip_width}x{clip_height}"
        )
    return mask


_BOX_PATTERN = re.compile(r"[-\d.,\s]+")


def ignore_mask(areas: Sequence[str], size_wh: tuple[int, int]) -> Mask | None:
    """Make the mask of the areas to ignore, (H, W) bool; None where there are none.

    An area is a box `X1,Y1,X2,Y2` of whole pixels, or the path of a picture whose bright pixels
    are ignored.

    Raises:
        PromptError: an area is neither, does not fit the clip, or all areas cover the picture.
    """
    if not areas:
        return None
    mask = np.zeros(size_wh[::-1], bool)
    for text in areas:
        context = f"`ignore` {text}"
        if _BOX_PATTERN.fullmatch(text):
            xyxy = parse_xyxy(text, size_wh, context)
            x1, y1, x2, y2 = map(int, xyxy)
            if (x1, y1, x2, y2) != xyxy:
                raise PromptError(f"{context}: expected X1,Y1,X2,Y2 in whole pixels")
            mask[y1:y2, x1:x2] = True
        else:
            mask |= _read_mask(Path(text), size_wh, context)
    if mask.all():
        raise PromptError(
            f"`ignore` {' '.join(areas)}: no pixel of the picture is left; give smaller areas"
        )
    return mask
