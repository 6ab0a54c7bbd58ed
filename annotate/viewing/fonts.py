"""Choose the font for text on images: DejaVu Sans, or a font of this machine that has more letters.

DejaVu Sans comes with matplotlib and is the same everywhere. It has no Chinese, Japanese or Korean
letters, and few emoji: a text with these is drawn in a font of the system that has them. Characters
that no font has are replaced, and reported once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont

_LOGGER = logging.getLogger("annotate.viewing")
_REPLACEMENT = "?"
_ADVICE = "install a font that has these letters, such as Noto Sans CJK or Noto Emoji"


@cache
def default_font_file() -> Path:
    """Locate DejaVu Sans in matplotlib: the same on every system, and not only ASCII."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def font_file(text: str = "") -> Path:
    """Find the font that has most of the characters of a text; DejaVu Sans if it has all."""
    missing = frozenset(text) - _characters(default_font_file())
    return _best_system_font(missing, frozenset(text)) if missing else default_font_file()


@lru_cache(maxsize=256)
def _load_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(str(path), size)


def font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Load the font for a text on images, `size` pixels high."""
    return _load_font(font_file(text), size)


def can_draw(text: str) -> bool:
    """Return True if one font has all characters of a text."""
    return frozenset(text) - {"\n"} <= _characters(font_file(text))


def drawable(text: str) -> str:
    """Replace the characters that the font of a text lacks by question marks, and report it."""
    if can_draw(text):
        return text
    available = _characters(font_file(text))
    shown = "".join(each if each in available else _REPLACEMENT for each in text)
    report_replaced(text, shown)
    return shown


@lru_cache(maxsize=1024)
def report_replaced(text: str, shown: str) -> None:
    """Log, once, what stands on images for a text that cannot be drawn."""
    _LOGGER.warning("no font here can draw %r: on images it is %r; %s", text, shown, _ADVICE)


@cache  # of every font: one that has missing letters is looked for in all of them
def _characters(path: Path) -> frozenset[str]:
    """List the characters that a font has; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(chr(code) for code in FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@lru_cache(maxsize=256)
def _best_system_font(missing: frozenset[str], wanted: frozenset[str]) -> Path:
    """Find the font with most of the missing characters, then with most of all; first by path."""

    def coverage(path: Path) -> tuple[int, int]:
        available = _characters(path)
        return len(missing & available), len(wanted & available)

    best = max(system_fonts(), key=coverage, default=default_font_file())
    return best if coverage(best)[0] else default_font_file()


@lru_cache(maxsize=1)
def system_fonts() -> tuple[Path, ...]:
    """List the fonts of this machine that can be drawn in any size, sorted."""
    from matplotlib import font_manager

    return tuple(_scalable(sorted(map(Path, font_manager.findSystemFonts()))))


def _scalable(paths: list[Path]) -> Iterator[Path]:
    """Leave out fonts of pictures, such as coloured emoji, which have one size."""
    for path in paths:
        try:
            _load_font(path, 12)
        except OSError:
            continue
        yield path
