"""Which dataset was pushed to which project: so that `pull` need not be told again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from annotate.errors import StudioError


def shares() -> Path:
    """The folder of what is kept between runs on this machine: `~/.local/share/annotate`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "annotate"


def _file() -> Path:
    return shares() / "pushed.json"


def _read() -> dict[str, str]:
    try:
        told: dict[str, str] = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told


def remember(url: str, project: int, dataset: Path) -> None:
    """Note what a project was made of."""
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.part")
    told = _read() | {f"{url} {project}": str(dataset.absolute())}
    draft.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    draft.replace(file)


def recall(url: str, project: int) -> Path:
    """The dataset that a project was made of.

    Raises:
        StudioError: it was not pushed from this machine.
    """
    found = _read().get(f"{url} {project}")
    if found is None:
        raise StudioError(
            f"{url}: project {project} was not pushed from this machine; name its dataset: "
            "annotate pull DATASET --project ..."
        )
    return Path(found)
