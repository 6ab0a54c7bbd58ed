"""Write files and folders atomically, and locate the data files in the package.

An output is written under a temporary name and renamed when it is complete: it is either there as
a whole, or not there. The packaged data are prompts, models and the demo clip; they lie in
`shipped_data` of a wheel and in the top folders of a checkout.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from annotate.errors import OutputError, UnknownName


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which becomes `path` when the block ends well.

    Raises:
        OutputError: nothing can be written there.
    """
    draft = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot write there: {error.strerror or error}") from None
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path, *, marker_file: str, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well and vanishes when it does not.

    `force` replaces what an earlier run left, which it knows by `mark`, a file that such a folder
    always holds: a folder of something else is never removed.

    Raises:
        OutputError: `out` is already there, or nothing can be written there.
    """
    _refuse_existing(out, marker_file, force)
    draft = out.with_name(out.name + ".part")
    old = out.with_name(out.name + ".old")
    try:
        _remove_tree(draft)
        draft.mkdir(parents=True)
        yield draft
        _remove_tree(old)
        if out.exists():
            out.rename(old)
        draft.rename(out)
        _remove_tree(old)
    except OSError as error:
        raise OutputError(
            f"{error.filename or out}: cannot write there: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refuse_existing(out: Path, marker_file: str, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / marker_file).exists():
        raise OutputError(
            f"{out}: something else is there (no {marker_file} in it); give another -o"
        )
    if not force:
        raise OutputError(f"{out}: already there; give another -o, or --force to write it anew")


def _remove_tree(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


_DATA_DIRS = {  # kind -> its folder in a wheel, and in a checkout
    kind: (Path(__file__).parent / "shipped_data" / kind, Path(__file__).parents[1] / folder)
    for kind, folder in {"prompts": "prompts", "models": "models", "clips": "tests/clips"}.items()
}


def data_dir(kind: str) -> Path:
    """The folder of `kind`: prompts, models or clips."""
    return next(folder for folder in _DATA_DIRS[kind] if folder.is_dir())


def packaged_file(kind: str, name: str) -> Path:
    """The file `name` of `kind`; a miss names the nearest.

    Raises:
        UnknownName: when no such file ships.
    """
    path = data_dir(kind) / name
    if not path.is_file():
        known = [str(each.relative_to(data_dir(kind))) for each in data_dir(kind).rglob("*.*")]
        raise UnknownName(f"file in {kind}", name, known)
    return path


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """The user's folder for what can be had again: `$XDG_CACHE_HOME/annotate`."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "annotate"


def json_digest(record: Mapping[str, Any]) -> str:
    """The name of a question: address, model, words, pictures and settings, hashed."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """A record that `save` wrote; None where there is none, or it is damaged."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, whole or not at all; several threads may write the same."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file, ensure_ascii=False)
            Path(draft).replace(path)
        finally:
            with suppress(FileNotFoundError):
                Path(draft).unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def user_data_dir() -> Path:
    """The folder of what is kept between runs on this machine: `~/.local/share/annotate`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "annotate"
