"""Check single values of JSON that other programs wrote, where any key may be of any type."""

from __future__ import annotations

import math
import re
from typing import Any, TypeGuard

from annotate.errors import DatasetError

Id = int | str
_MAX_WHOLE = 2**63
_MAX_SHOWN_CHARS = 120


def shown(value: Any) -> str:
    """Write a foreign value into a message: in one line, and not too long."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def as_table(record: Any, where: str) -> dict[str, Any]:
    """Check that a value is a table of keys.

    Raises:
        DatasetError: it is none; `where` begins the message.
    """
    if not isinstance(record, dict):
        raise DatasetError(f"{where}: expected a record with keys, got {shown(record)}")
    return record


def as_id(value: Any, what: str) -> Id:
    """Check an id: a whole number, also as text, or a text.

    Raises:
        DatasetError: it is neither; `what` begins the message.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and re.fullmatch(r"0|[1-9]\d{0,17}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not (isinstance(value, int) or is_text(value)):
        raise DatasetError(f"{what} must be a number or text, got {shown(value)}")
    identity: Id = value
    return identity


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether a value is text that is not empty and can be written to a file."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_whole_number(value: Any) -> int | None:
    """Read a whole number, also written as 3.0 or "3"; None for anything else, or from 2**63 on."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < _MAX_WHOLE else None
    number = as_finite_number(value)
    if number is None or not number.is_integer() or abs(number) >= _MAX_WHOLE:
        return None
    is_digits = isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]+\s*", value)
    return int(value) if is_digits else int(number)


def as_finite_number(value: Any) -> float | None:
    """Read a finite number, also written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
