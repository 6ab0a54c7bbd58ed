"""Find, fetch, verify and add the weights of a model on this machine.

Only `fetch_weights` uses the network, and only a person calls it. A folder of weights counts as
complete when it has a receipt, `fetched.json`, that lists the size and the sha256 of every file.

`add_weights` registers weights that the user already has: under the name in the manifest if their
sha256 is in it, otherwise under a name of the user's own.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from annotate.errors import MissingWeights, WeightsError, needs
from annotate.files import sha256
from annotate.weights.download import (
    ProgressCallback,
    RemoteFile,
    download_file,
    find_problem,
    guarded_write,
    link_or_copy,
    locate_file,
    side_files,
)
from annotate.weights.manifest import (
    RECEIPT_NAME,
    USER_MANIFEST,
    Model,
    ModelFile,
    all_models,
    find_model,
    install_folder,
    receipt_from_json,
    receipt_to_json,
    user_models,
    user_models_to_json,
    weights_folders,
)


@dataclass(frozen=True)
class FileCheck:
    """One file of a model, looked at; `problem` is "" when it is sound."""

    model: str
    path: Path
    problem: str = ""


def weights_path(name: str) -> Path:
    """The model's file, or its folder when it has several; a path stands for itself.

    Sizes are checked, hashes are not (`verify` does).

    Raises:
        UnknownName: no such model.
        MissingWeights: not on this machine; the text names the command which fetches it.
    """
    path = Path(name).expanduser()
    if name not in all_models() and path.exists():
        return path
    model = find_model(name)
    place = _installed_folder(model)
    if place is None:
        raise MissingWeights(_missing_message(model))
    alone = len(model.files) == 1 and not model.also
    return place / model.files[0].path if alone else place


def list_models() -> list[tuple[Model, bool]]:
    """Every model that has a name, and whether it is on this machine."""
    return [(model, _installed_folder(model) is not None) for model in all_models().values()]


def describe_model(model: Model) -> str:
    """What a person should read before a fetch: what, how much, from where, which licence."""
    lines = [f"{model.name}: {model.task}"]
    lines += [f"{size_text(model)} from {model.page} {model.revision}", f"licence: {model.licence}"]
    lines += ["gated: its owner must give you access first"] if model.gated else []
    lines += [model.notes] if model.notes else []
    return "\n".join(lines)


def size_text(model: Model) -> str:
    """The size of its files, in words; "+" where some are of unknown size."""
    more = "+" * (bool(model.also) or any(file.bytes is None for file in model.files))
    return f"{model.bytes / 1e6:,.0f} MB{more}" if model.bytes else "size unknown"


def fetch_weights(
    name: str, mirror: str | None = None, progress: ProgressCallback | None = None
) -> Path:
    """Bring a model's files to this machine, each checked; what is there and sound is kept.

    `mirror` is a copy of another machine's folder of weights, or the address of one. `progress` is
    told the file, the bytes that are there and the bytes that there will be, if known.

    Raises:
        UnknownName: no such model.
        WeightsError: refused, cut off, of another size or sha256.
        OutputError: no room, no right to write.
    """
    model = find_model(name)
    if not model.path:
        with model_lock(model.name):
            if not _is_intact(model, model.folder_in(install_folder())):
                _fetch_files(model, mirror, progress)
    return weights_path(name)


def verify_weights(names: Iterable[str] | None = None) -> list[FileCheck]:
    """Read every file again, of the named models or of all that are on this machine.

    Raises:
        UnknownName: no such model.
    """
    if names is not None:
        return [check for name in names for check in _check_files(find_model(name))]
    return [
        check
        for model in all_models().values()
        if _is_begun(model)
        for check in _check_files(model)
    ]


@contextmanager
def model_lock(name: str) -> Iterator[None]:
    """Nobody else writes what `name` stands for until this is over; waits for whoever does."""
    path = install_folder() / ".locks" / f"{name}.lock"
    with guarded_write(path):
        lock = needs("filelock").FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_receipt(model_folder: Path, files: Collection[ModelFile]) -> None:
    """Write down what lies in a model's folder, which is how the folder counts as whole."""
    placed = [(file, model_folder / file.path) for file in files]
    whole = [ModelFile(file.path, at.stat().st_size, _file_sha256(file, at)) for file, at in placed]
    part = model_folder / f"{RECEIPT_NAME}.part"
    with guarded_write(part):
        part.write_text(receipt_to_json(whole), "utf-8")
        part.replace(model_folder / RECEIPT_NAME)


def _file_sha256(file: ModelFile, path: Path) -> str:
    return file.sha256 if len(file.sha256) == 64 else sha256(path)


def _fetch_files(model: Model, mirror: str | None, progress: ProgressCallback | None) -> None:
    place = model.folder_in(install_folder())
    expected = _expected_files(model, place)
    files = [*model.files, *side_files(model, mirror)]
    for file in files:
        target = place / file.path
        if not find_problem(target, expected.get(file.path, file)):
            continue
        source = locate_file(model, file, mirror)
        if isinstance(source, RemoteFile):
            download_file(source, file, target, progress)
        else:
            link_or_copy(source, file, target)
    write_receipt(place, files)


def _read_receipt(model_folder: Path) -> dict[str, ModelFile]:
    """What a folder says it holds; nothing where it says nothing that can be read."""
    try:
        files = receipt_from_json((model_folder / RECEIPT_NAME).read_bytes(), str(model_folder))
    except (FileNotFoundError, NotADirectoryError, WeightsError):
        return {}
    return {file.path: file for file in files}


def _expected_files(model: Model, model_folder: Path) -> dict[str, ModelFile]:
    """The files of a model: the manifest's word goes before the receipt's."""
    return _read_receipt(model_folder) | {file.path: file for file in model.files}


def _has_full_receipt(model: Model, model_folder: Path) -> bool:
    """Whether the fetch came to its end, and brought what the manifest means today."""
    receipt = _read_receipt(model_folder)
    return bool(model.path) or all(
        file.path in receipt and file.matches(receipt[file.path].sha256) for file in model.files
    )


def _is_intact(model: Model, model_folder: Path) -> bool:
    expected = _expected_files(model, model_folder)
    return _has_full_receipt(model, model_folder) and not any(
        find_problem(model_folder / path, file) for path, file in expected.items()
    )


def _installed_folder(model: Model) -> Path | None:
    """The folder of a model that is whole, by name and size."""
    for place in _candidate_folders(model):
        sizes = {path: file.bytes for path, file in _expected_files(model, place).items()}
        if _has_full_receipt(model, place) and all(
            _has_size(place / path, sizes[path]) for path in sizes
        ):
            return place
    return None


def _has_size(path: Path, size_bytes: int | None) -> bool:
    return path.is_file() and size_bytes in (None, path.stat().st_size)


def _candidate_folders(model: Model) -> list[Path]:
    return [model.folder_in(folder) for folder in weights_folders()]


def _is_begun(model: Model) -> bool:
    return bool(model.path) or any(place.exists() for place in _candidate_folders(model))


def _check_files(model: Model) -> list[FileCheck]:
    places = _candidate_folders(model)
    place = next((place for place in places if place.exists()), None)
    if place is None:
        return [FileCheck(model.name, places[0], "not on this machine")]
    expected = _expected_files(model, place)
    return [
        FileCheck(model.name, place / path, find_problem(place / path, file))
        for path, file in expected.items()
    ]


def _missing_message(model: Model) -> str:
    if model.path:
        gone = f"{model.name}: {model.path} does not hold what was added from it"
        return f"{gone}: annotate models add PATH --name {model.name}"
    state = "not whole" if _is_begun(model) else "not"
    about = f"({size_text(model)}, {model.licence})"
    return f"{model.name} is {state} on this machine {about}: annotate models fetch {model.name}"


def add_weights(path: str | Path, name: str | None = None) -> Model:
    """Register a file or a folder of weights, which stays where it is.

    Weights that the manifest knows by their sha256 join the folder of weights under the manifest's
    name (a hard link where that can be). Others are written down under `name`, or the file's own.

    Raises:
        WeightsError: nothing there; or `name` is a model of the manifest, and these are not it.
    """
    path = Path(path).expanduser().resolve()
    folder = path if path.is_dir() else path.parent
    files = _hash_files(path, folder)
    shipped = {key: model for key, model in all_models().items() if not model.path}
    if name in shipped:
        return _link_known_model(shipped[name], folder, files)
    if name is None:
        for model in shipped.values():
            if not _mismatch(model, files):
                return _link_known_model(model, folder, files)
    return _record_user_model(name or path.stem, folder, files)


def _hash_files(path: Path, folder: Path) -> list[ModelFile]:
    """Every file there that is not hidden, hashed."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    names = [each.relative_to(folder) for each in found if each.is_file()]
    shown = [each for each in names if not any(part.startswith(".") for part in each.parts)]
    if not shown:
        raise WeightsError(f"{path}: no weights there: name a file, or a folder with files in it")
    return [
        ModelFile(each.as_posix(), (folder / each).stat().st_size, sha256(folder / each))
        for each in shown
    ]


def _mismatch(model: Model, files: list[ModelFile]) -> str:
    """What of a model is not among `files`, in words; "" when all of it is."""
    for file in model.files:
        if not any(file.matches(each.sha256) for each in files):
            return f"no file there has the sha256 of its {file.path}, {file.sha256}"
    if model.includes_side_file("config.json") and "config.json" not in {
        file.path for file in files
    }:
        return "its config.json is not there: give the whole folder"
    return ""


def _link_known_model(model: Model, folder: Path, files: list[ModelFile]) -> Model:
    if lacks := _mismatch(model, files):
        raise WeightsError(
            f"{folder}: not {model.name}: {lacks}; to use your own, give it another --name"
        )
    wanted = {
        file: next(each.path for each in files if file.matches(each.sha256)) for file in model.files
    }
    wanted |= {file: file.path for file in files if model.includes_side_file(file.path)}
    place = model.folder_in(install_folder())
    with model_lock(model.name):
        for file, source in wanted.items():
            link_or_copy(folder / source, file, place / file.path)
        write_receipt(place, wanted)
    return model


def _record_user_model(name: str, folder: Path, files: list[ModelFile]) -> Model:
    model = Model(name, "own", "your own", "your own", tuple(files), path=str(folder))
    part = install_folder() / f"{USER_MANIFEST}.part"
    with model_lock(USER_MANIFEST), guarded_write(part):
        part.write_text(user_models_to_json(user_models(install_folder()) | {name: model}), "utf-8")
        part.replace(install_folder() / USER_MANIFEST)
    return find_model(name)
