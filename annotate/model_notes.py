"""What has been found out about a model at an address: how it speaks, how it counts.

One small file for each in the user's cache, written by `annotate calibrate` and by whoever finds
out that a server lacks tools.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from annotate.answer_cache import home, save


def notes(url: str, model: str) -> dict[str, Any]:
    """What is known; nothing where nothing is, or what is there is damaged."""
    try:
        known = json.loads(_place(url, model).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def note(url: str, model: str, **facts: Any) -> Path:
    """Remember facts beside those that are known; gives the file.

    Raises:
        OutputError: nothing can be written there.
    """
    path = _place(url, model)
    save(path, {"url": url.rstrip("/"), "model": model} | notes(url, model) | facts)
    return path


def _place(url: str, model: str) -> Path:
    both = f"{url.rstrip('/')} {model}"
    readable = re.sub(r"\W+", "-", model).strip("-")[:60]
    return home() / "models" / f"{readable}-{hashlib.sha256(both.encode()).hexdigest()[:12]}.json"
