"""Write files and folders atomically, and locate cache folders and packaged data.

An output is written under a temporary name and renamed when it is complete: it is either there as
a whole, or not there. The packaged data are prompts, models and the demo clip; they lie in
`shipped_data` of a wheel and in the top folders of a checkout.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import re
import shutil
import tempfile
import threading
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from annotate.errors import AnnotateError, OutputError, UnknownName
from annotate.locking.locks import locked_folder

_APP_NAME = "annotate"
_TOO_DEEP = "brackets are nested too deeply"
_PROBE_BYTES = 4096  # written to find out that a disk is full


@contextmanager
def atomic_file(
    path: Path,
    *,
    parents: bool = False,
    concurrent: bool = False,
    mode: int | None = None,
    error: type[AnnotateError] = OutputError,
) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends well.

    The temporary path has the suffix of `path`, by which image libraries choose a format. It is
    removed when the block fails. `parents` creates the missing folders above `path`. `concurrent`
    gives each process and thread a temporary path of its own, for a file that several may write at
    once. `mode` sets the permission bits of the file from its first byte on, for a secret.

    Examples:
        >>> with atomic_file(Path("table.csv")) as draft:  # doctest: +SKIP
        ...     table.to_csv(draft)

    Raises:
        OutputError: nothing can be written there; `error` chooses another class for this.
    """
    writer = f".{os.getpid()}-{threading.get_ident()}" if concurrent else ""
    draft = path.with_name(f".{path.stem}{writer}.part{path.suffix}")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise error(f"{path}: cannot write there: it is a device, which a file would replace")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        if mode is not None:
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield draft
        draft.replace(path)
    except OSError as cause:
        raise error(f"{path}: cannot write there: {cause.strerror or cause}") from cause
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, parents: bool = False) -> None:
    """Write a UTF-8 text file atomically, line ends as they are in `text`.

    Raises:
        OutputError: nothing can be written there.
    """
    with atomic_file(path, parents=parents) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def atomic_folder(out: Path, *, marker_file: str, force: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder, and rename it to `out` when the block ends well.

    The temporary folder is locked, so that two runs cannot write one output, and it is removed when
    the block fails. `force` replaces the folder of an earlier
    run, which is recognised by `marker_file`, a file that such a folder always holds: a folder of
    anything else is never removed.

    Raises:
        OutputError: `out` is already there, another run writes it, or nothing can be written there.
    """
    refuse_existing(out, force, marker_file=marker_file)
    with locked_folder(out.with_name(out.name + ".part")), _replacing(out) as draft:
        yield draft


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    draft = out.with_name(out.name + ".part")
    old = out.with_name(out.name + ".old")
    try:
        for left_over in draft.iterdir():  # of a run that was killed
            _remove(left_over)
        yield draft
        _remove(old)
        if out.exists():
            out.rename(old)
        draft.rename(out)
        _remove(old)
    except BaseException as error:  # after a success, the place of the draft is another run's
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(
                f"{error.filename or out}: cannot write there: {error.strerror or error}"
            ) from error
        raise


def check_writable(path: Path) -> None:
    """Check that an output can be written, before the work for it begins.

    A temporary file is written where the output, or the first of its missing folders, will be.

    Raises:
        OutputError: the folder is read-only or not a folder, the disk is full, or the output is a
            file that is read-only.
    """
    try:
        if path.exists() and not path.is_dir():
            if not path.is_file():
                return  # a device, such as /dev/stdout
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            folder = path.absolute().parent
        else:
            above = path.absolute()
            folder = next(each for each in (above, *above.parents) if os.path.lexists(each))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
    except OSError as cause:
        raise OutputError(f"{path}: cannot write there: {cause.strerror or cause}") from None


OVERWRITE_HINT = "give another output path, or `force` to write over it"


def refuse_existing(path: Path, force: bool, *, marker_file: str | None = None) -> None:
    """Refuse an output path that exists, unless `force` allows replacing it.

    `force` replaces only what annotate can have made (`refuse_foreign`). With `marker_file`, `path`
    is a folder: it may be empty, and `force` replaces only a folder that holds `marker_file`.

    Raises:
        OutputError: the path exists and must not be replaced, or nothing can be written there.
    """
    if not path.exists():
        check_writable(path)
        return
    if marker_file is not None:
        if path.is_dir() and not any(path.iterdir()):
            check_writable(path)
            return
        if not path.is_dir() or not (path / marker_file).exists():
            raise OutputError(
                f"{path}: something else is there (no {marker_file} in it); "
                "give another output path"
            )
    if not force:
        raise OutputError(f"{path}: already there; {OVERWRITE_HINT}")
    refuse_foreign(path)
    check_writable(path)


MADE_BY = "made by annotate"  # in the metadata of a video that annotate writes
_OWN_TEXT = re.compile(
    rb'\s*\{\s*"annotate":|\{"sources":|frame_id,object_id,|clip,frame,seconds,worth,'
)
_PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*", b"RIFF", b"BM")


def refuse_foreign(path: Path) -> None:
    """Refuse to replace a file that annotate cannot have made.

    It can have made a file of items, score curves, a map, a table of points, a list of frames, any
    picture, and a video with its mark. A folder, a device and an empty file pass.

    Raises:
        OutputError: another kind of file is there.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        is_own = _OWN_TEXT.match(content) or content[:8].startswith(_PICTURE_STARTS)
        if is_own or content.find(MADE_BY.encode()) >= 0:
            return
    raise OutputError(
        f"{path}: not made by annotate, and so not replaced, not even with `force`: "
        "give another output path, or remove it first"
    )


def refuse_foreign_folder(folder: Path, marker: str, names: Iterable[str]) -> None:
    """Refuse to write files into a folder that holds files of these names from something else.

    The results of an earlier run are recognised by `marker`, which is always among them.

    Raises:
        OutputError: names a file that would be replaced.
    """
    if (folder / marker).exists():
        return
    for name in names:
        if (folder / name).exists():
            raise OutputError(
                f"{folder / name}: not of such a run (no {marker} beside it), and so not replaced: "
                "give another output path"
            )


def refuse_input(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is one of the inputs of its run, or a folder that contains one.

    Raises:
        OutputError: names the output and the input.
    """
    if not (output.is_file() or output.is_dir()):
        return  # nothing is there, or a device
    place = output.resolve()
    for each in inputs:
        if not each.exists():
            continue
        if each.samefile(output):
            raise OutputError(
                f"{output}: this is an input of the run, which the output would replace: "
                "give another output path"
            )
        if place in each.resolve().parents or place in each.absolute().parents:
            raise OutputError(
                f"{output}: this folder contains an input of the run, {each}: "
                "give another output path"
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


_DATA_DIRS = {  # kind -> its folder in a wheel, and in a checkout
    kind: (Path(__file__).parent / "shipped_data" / kind, Path(__file__).parents[1] / folder)
    for kind, folder in {"prompts": "prompts", "models": "models", "clips": "tests/clips"}.items()
}


def data_dir(kind: str) -> Path:
    """Return the folder of packaged data of a kind: prompts, models or clips."""
    return next(folder for folder in _DATA_DIRS[kind] if folder.is_dir())


def packaged_file(kind: str, name: str) -> Path:
    """Return the path of a packaged data file, by its kind and its name inside that folder.

    Raises:
        UnknownName: no such file is packaged; names the nearest.
    """
    path = data_dir(kind) / name
    if not path.is_file():
        choices = [str(file.relative_to(data_dir(kind))) for file in data_dir(kind).rglob("*.*")]
        raise UnknownName(f"file in {kind}", name, choices)
    return path


def cache_dir(*parts: str) -> Path:
    """Return the user's cache folder of this program, or the folder `parts` in it.

    It is `$XDG_CACHE_HOME/annotate` where that variable is set, on every system; else the cache
    folder of the platform: `~/.cache/annotate` on Linux. It need not exist.
    """
    return _user_dir("XDG_CACHE_HOME", "user_cache_path").joinpath(*parts)


def user_data_dir(*parts: str) -> Path:
    """Return the user's data folder of this program, or the folder `parts` in it.

    It is `$XDG_DATA_HOME/annotate` where that variable is set, on every system; else the data
    folder of the platform: `~/.local/share/annotate` on Linux. It need not exist.
    """
    return _user_dir("XDG_DATA_HOME", "user_data_path").joinpath(*parts)


def _user_dir(variable: str, function: str) -> Path:
    if folder := os.environ.get(variable):
        return Path(folder) / _APP_NAME
    import platformdirs  # 20 ms, which `annotate --help` need not wait for

    path: Path = getattr(platformdirs, function)(_APP_NAME, appauthor=False)
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of a record as JSON with sorted keys: a name for a cache file."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of a stranger: brackets nested too deeply are a ValueError too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def parse_toml(data: bytes) -> dict[str, Any]:
    """Parse TOML of a stranger: brackets nested too deeply are a ValueError too."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a record that `write_json` wrote; None where there is no file, or a damaged one."""
    try:
        record = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON atomically, with the missing folders above it.

    Several threads and processes may write the same file.

    Raises:
        OutputError: nothing can be written there.
    """
    with atomic_file(path, parents=True, concurrent=True) as draft:
        draft.write_text(json.dumps(record), encoding="utf-8")  # ASCII: text of any kind
