"""A file that is either there, whole, or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annotate.errors import OutputError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
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
