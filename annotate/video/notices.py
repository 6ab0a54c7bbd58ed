"""Say what a reader did with a clip that a user may not expect.

A notice is a record of the logger `annotate.video`, at the level of a warning: without a logging
configuration, Python prints it on stderr. The same text is said once in a process.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path

_LOGGER = logging.getLogger("annotate.video")


@lru_cache(maxsize=4096)
def note(text: str) -> None:
    """Say one line, once."""
    _LOGGER.warning("%s", text)


def printable(path: Path | str) -> str:
    """Return a path as text that can be printed: bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
