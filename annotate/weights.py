"""The name of a model -> its files on this machine: find, fetch, verify, add.

Nothing here goes to the network but `fetch`, which only a person calls.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from annotate.download import Progress, Remote, download, problem, sha256, take, writing
from annotate.errors import MissingWeights, WeightsError, needs
from annotate.manifest import (
    RECEIPT,
    File,
    Model,
    find,
    folders,
    home,
    manifest,
    receipt_from_json,
    receipt_to_json,
)
from annotate.sources import locate, side_files


@dataclass(frozen=True)
class Check:
    """One file of a model, looked at; `problem` is "" when it is sound."""

    model: str
    path: Path
    problem: str = ""


def where(name: str) -> Path:
    """The model's file, or its folder when it has several; a path stands for itself.

    Sizes are checked, hashes are not (`verify` does).

    Raises:
        UnknownName: no such model.
        MissingWeights: not on this machine; the text names the command which fetches it.
    """
    path = Path(name).expanduser()
    if name not in manifest() and path.exists():
        return path
    model = find(name)
    place = _found(model)
    if place is None:
        raise MissingWeights(_missing(model))
    alone = len(model.files) == 1 and not model.also
    return place / model.files[0].path if alone else place


def listing() -> list[tuple[Model, bool]]:
    """Every model that has a name, and whether it is on this machine."""
    return [(model, _found(model) is not None) for model in manifest().values()]


def terms(model: Model) -> str:
    """What a person should read before a fetch: what, how much, from where, which licence."""
    lines = [f"{model.name}: {model.task}"]
    lines += [f"{size(model)} from {model.page} {model.revision}", f"licence: {model.licence}"]
    lines += ["gated: its owner must give you access first"] if model.gated else []
    lines += [model.notes] if model.notes else []
    return "\n".join(lines)


def size(model: Model) -> str:
    """The size of its files, in words; "+" where some are of unknown size."""
    more = "+" * (bool(model.also) or any(file.bytes is None for file in model.files))
    return f"{model.bytes / 1e6:,.0f} MB{more}" if model.bytes else "size unknown"


def fetch(name: str, mirror: str | None = None, progress: Progress | None = None) -> Path:
    """Bring a model's files to this machine, each checked; what is there and sound is kept.

    `mirror` is a copy of another machine's folder of weights, or the address of one. `progress` is
    told the file, the bytes that are there and the bytes that there will be, if known.

    Raises:
        UnknownName: no such model.
        WeightsError: refused, cut off, of another size or sha256.
        OutputError: no room, no right to write.
    """
    model = find(name)
    if not model.path:
        with held(model.name):
            if not _sound(model, model.place(home())):
                _fetch(model, mirror, progress)
    return where(name)


def verify(names: Iterable[str] | None = None) -> list[Check]:
    """Read every file again, of the named models or of all that are on this machine.

    Raises:
        UnknownName: no such model.
    """
    if names is not None:
        return [check for name in names for check in _checks(find(name))]
    return [check for model in manifest().values() if _begun(model) for check in _checks(model)]


@contextmanager
def held(name: str) -> Iterator[None]:
    """Nobody else writes what `name` stands for until this is over; waits for whoever does."""
    path = home() / ".locks" / f"{name}.lock"
    with writing(path):
        lock = needs("filelock").FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def seal(place: Path, files: Collection[File]) -> None:
    """Write down what lies in a model's folder, which is how the folder counts as whole."""
    placed = [(file, place / file.path) for file in files]
    whole = [File(file.path, at.stat().st_size, _hash(file, at)) for file, at in placed]
    part = place / f"{RECEIPT}.part"
    with writing(part):
        part.write_text(receipt_to_json(whole), "utf-8")
        part.replace(place / RECEIPT)


def _hash(file: File, path: Path) -> str:
    return file.sha256 if len(file.sha256) == 64 else sha256(path)


def _fetch(model: Model, mirror: str | None, progress: Progress | None) -> None:
    place = model.place(home())
    expected = _expected(model, place)
    files = [*model.files, *side_files(model, mirror)]
    for file in files:
        target = place / file.path
        if not problem(target, expected.get(file.path, file)):
            continue
        source = locate(model, file, mirror)
        if isinstance(source, Remote):
            download(source, file, target, progress)
        else:
            take(source, file, target)
    seal(place, files)


def _receipt(place: Path) -> dict[str, File]:
    """What a folder says it holds; nothing where it says nothing that can be read."""
    try:
        files = receipt_from_json((place / RECEIPT).read_bytes(), str(place))
    except (FileNotFoundError, NotADirectoryError, WeightsError):
        return {}
    return {file.path: file for file in files}


def _expected(model: Model, place: Path) -> dict[str, File]:
    """The files of a model: the manifest's word goes before the receipt's."""
    return _receipt(place) | {file.path: file for file in model.files}


def _sealed(model: Model, place: Path) -> bool:
    """Whether the fetch came to its end, and brought what the manifest means today."""
    receipt = _receipt(place)
    return bool(model.path) or all(
        file.path in receipt and file.knows(receipt[file.path].sha256) for file in model.files
    )


def _sound(model: Model, place: Path) -> bool:
    expected = _expected(model, place)
    return _sealed(model, place) and not any(
        problem(place / path, file) for path, file in expected.items()
    )


def _found(model: Model) -> Path | None:
    """The folder of a model that is whole, by name and size."""
    for place in _places(model):
        sizes = {path: file.bytes for path, file in _expected(model, place).items()}
        if _sealed(model, place) and all(_is_of(place / path, sizes[path]) for path in sizes):
            return place
    return None


def _is_of(path: Path, size_bytes: int | None) -> bool:
    return path.is_file() and size_bytes in (None, path.stat().st_size)


def _places(model: Model) -> list[Path]:
    return [model.place(folder) for folder in folders()]


def _begun(model: Model) -> bool:
    return bool(model.path) or any(place.exists() for place in _places(model))


def _checks(model: Model) -> list[Check]:
    places = _places(model)
    place = next((place for place in places if place.exists()), None)
    if place is None:
        return [Check(model.name, places[0], "not on this machine")]
    expected = _expected(model, place)
    return [
        Check(model.name, place / path, problem(place / path, file))
        for path, file in expected.items()
    ]


def _missing(model: Model) -> str:
    if model.path:
        gone = f"{model.name}: {model.path} does not hold what was added from it"
        return f"{gone}: annotate models add PATH --name {model.name}"
    state = "not whole" if _begun(model) else "not"
    about = f"({size(model)}, {model.licence})"
    return f"{model.name} is {state} on this machine {about}: annotate models fetch {model.name}"
