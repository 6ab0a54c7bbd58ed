"""What of a picture is not looked at: a display's corner, a score that changes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from annotate.errors import PromptError
from annotate.records import Mask

_BOX = re.compile(r"[-\d.,\s]+")
_EXPECTED = "expected X1,Y1,X2,Y2 in pixels, or a picture whose white is meant"


def ignored(told: Sequence[str], size_wh: tuple[int, int]) -> Mask | None:
    """What boxes `X1,Y1,X2,Y2` and pictures, whose white is meant, cover together, (H, W) bool.

    Raises:
        PromptError: it is neither of these, does not fit the clip, or leaves nothing to look at.
    """
    if not told:
        return None
    mask = np.zeros(size_wh[::-1], bool)
    for text in told:
        mask |= _box(text, size_wh) if _BOX.fullmatch(text) else _picture(text, size_wh)
    if mask.all():
        raise PromptError(f"--ignore {' '.join(told)}: nothing is left to look at")
    return mask


def _box(text: str, size_wh: tuple[int, int]) -> Mask:
    width, height = size_wh
    try:
        x1, y1, x2, y2 = (int(part) for part in text.split(","))
    except ValueError:
        raise PromptError(f"--ignore {text}: {_EXPECTED}") from None
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise PromptError(f"--ignore {text}: not a box (x1, y1, x2, y2) inside {width}x{height}")
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def _picture(text: str, size_wh: tuple[int, int]) -> Mask:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(text) as image:
            white = np.asarray(image.convert("L")) > 127
    except FileNotFoundError:
        raise PromptError(f"--ignore {text}: no such file; {_EXPECTED}") from None
    except (OSError, UnidentifiedImageError):
        raise PromptError(f"--ignore {text}: not a picture that can be read") from None
    if white.shape[::-1] != size_wh:
        got, clip = (f"{w}x{h}" for w, h in (white.shape[::-1], size_wh))
        raise PromptError(f"--ignore {text}: a picture of {got}, but the clip is {clip}")
    return white
