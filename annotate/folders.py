"""A folder that is either there, whole, or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annotate.errors import OutputError


@contextmanager
def new_folder(out: Path, *, mark: str, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well and vanishes when it does not.

    `force` replaces what an earlier run left, which it knows by `mark`, a file that such a folder
    always holds: a folder of something else is never removed.

    Raises:
        OutputError: `out` is already there, or nothing can be written there.
    """
    _refuse(out, mark, force)
    draft = out.with_name(out.name + ".part")
    old = out.with_name(out.name + ".old")
    try:
        _remove(draft)
        draft.mkdir(parents=True)
        yield draft
        _remove(old)
        if out.exists():
            out.rename(old)
        draft.rename(out)
        _remove(old)
    except OSError as error:
        raise OutputError(
            f"{error.filename or out}: cannot write there: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refuse(out: Path, mark: str, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / mark).exists():
        raise OutputError(f"{out}: something else is there (no {mark} in it); give another -o")
    if not force:
        raise OutputError(f"{out}: already there; give another -o, or --force to write it anew")


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
