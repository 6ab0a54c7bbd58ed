"""Boxes and masks on frames, as a person writes them on a command line: read and checked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from annotate.errors import PromptError
from annotate.prompts import Scope
from annotate.records import Box, Mask


def read_box(text: str, scope: Scope) -> tuple[int, int, Box]:
    """`FRAME,OBJECT,X1,Y1,X2,Y2` as frame, object and box (xyxy, pixels).

    Raises:
        PromptError: not six numbers, a frame beyond the clip, a box outside the picture.
    """
    frame, object_id, *box = _numbers(text, "--box", "FRAME,OBJECT,X1,Y1,X2,Y2")
    _check_frame(frame, f"--box {text}", scope)
    return int(frame), int(object_id), _checked(box, f"--box {text}", scope)


def read_region(text: str, scope: Scope) -> tuple[int, Box]:
    """`FRAME,X1,Y1,X2,Y2` as frame and box (xyxy, pixels).

    Raises:
        PromptError: not five numbers, a frame beyond the clip, a box outside the picture.
    """
    frame, *box = _numbers(text, "--box", "FRAME,X1,Y1,X2,Y2")
    _check_frame(frame, f"--box {text}", scope)
    return int(frame), _checked(box, f"--box {text}", scope)


def read_mask(text: str, scope: Scope) -> tuple[int, int, Mask]:
    """`FRAME:OBJECT:mask.png` as frame, object and mask; what is brighter than half is inside.

    Raises:
        PromptError: no such file, no picture, a picture of another size, an empty mask.
    """
    from PIL import Image, UnidentifiedImageError

    parts = text.split(":", 2)
    if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        raise PromptError(f"--mask {text}: expected FRAME:OBJECT:mask.png")
    _check_frame(int(parts[0]), f"--mask {text}", scope)
    try:
        with Image.open(Path(parts[2])) as image:
            mask = np.asarray(image.convert("L")) > 127
    except FileNotFoundError:
        raise PromptError(f"--mask {text}: no such file") from None
    except (OSError, UnidentifiedImageError):
        raise PromptError(f"--mask {text}: not a picture that can be read") from None
    width, height = scope.size_wh
    if mask.shape != (height, width):
        got = f"{mask.shape[1]}x{mask.shape[0]}"
        raise PromptError(f"--mask {text}: a mask of {got}, but the clip is {width}x{height}")
    if not mask.any():
        raise PromptError(f"--mask {text}: an empty mask: nothing in it is white")
    return int(parts[0]), int(parts[1]), mask


def _numbers(text: str, option: str, expected: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != expected.count(",") + 1 or not np.isfinite(numbers).all():
        raise PromptError(f"{option} {text}: expected {expected}")
    whole = numbers[: expected.split(",").index("X1")]
    if any(number < 0 or number != int(number) for number in whole):
        raise PromptError(f"{option} {text}: expected {expected}, whole numbers before the box")
    return numbers


def _check_frame(frame: float, where: str, scope: Scope) -> None:
    if scope.frame_count is not None and frame >= scope.frame_count:
        raise PromptError(f"{where}: the clip has frames 0 to {scope.frame_count - 1}")


def _checked(box: Sequence[float], where: str, scope: Scope) -> Box:
    x1, y1, x2, y2 = box
    width, height = scope.size_wh
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise PromptError(f"{where}: not a box (x1, y1, x2, y2) inside {width}x{height}")
    return x1, y1, x2, y2
