"""Find, fetch, verify and add the weights of a model on this machine.

Only `fetch_weights` uses the network; nothing calls it but the user's own command. The folder of a
model is complete when it has a receipt, `fetched.json`, that lists the size and the sha256 of every
file.

`add_weights` registers weights that the user already has: under the name in the manifest if their
sha256 is in it, otherwise under a name of the user's own.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from annotate.errors import MissingWeights, WeightsError, needs
from annotate.files import sha256, write_text
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

# Names that end so are taken for paths; those of models have other dots, as in sam2.1-tiny.
_WEIGHT_SUFFIXES = {".pt", ".pth", ".onnx", ".safetensors", ".ts", ".engine", ".ckpt"}


@dataclass(frozen=True)
class FileCheck:
    """The result of verifying one file of a model; `problem` is "" if it is intact."""

    model: str
    path: Path
    problem: str = ""


def weights_path(name: str) -> Path:
    """Return the path of a model's file, or of its folder if it has several files.

    `name` may also be a path, which is returned. Sizes are checked; hashes are checked by
    `verify_weights`.

    Raises:
        UnknownName: no such model.
        MissingWeights: not on this machine; the error names the command that fetches it.
        WeightsError: the path does not exist.
    """
    path = Path(name).expanduser()
    if name not in all_models():
        if path.exists():
            return path
        if path.parent != Path() or path.suffix in _WEIGHT_SUFFIXES:
            raise WeightsError(
                f"{name}: no such file or folder; give the path of weights, or the name of a "
                "model: annotate models list"
            )
    model = find_model(name)
    folder = _installed_folder(model)
    if folder is None:
        raise MissingWeights(_missing_message(model))
    single_file = len(model.files) == 1 and not model.also
    return folder / model.files[0].path if single_file else folder


def list_models() -> list[tuple[Model, bool]]:
    """List every model of the manifests, and whether it is on this machine."""
    return [(model, _installed_folder(model) is not None) for model in all_models().values()]


def describe_model(model: Model) -> str:
    """Describe a model before it is fetched: task, size, source, licence."""
    lines = [f"{model.name}: {model.task}"]
    lines += [f"{size_text(model)} from {model.page} {model.revision}", f"licence: {model.licence}"]
    lines += ["gated: its owner must grant you access first"] if model.gated else []
    lines += [model.notes] if model.notes else []
    return "\n".join(lines)


def size_text(model: Model) -> str:
    """Format the size of a model; "+" if some files are of unknown size."""
    is_minimum = bool(model.also) or any(file.bytes is None for file in model.files)
    plus = "+" if is_minimum else ""
    return f"{model.bytes / 1e6:,.0f} MB{plus}" if model.bytes else "size unknown"


def fetch_weights(
    name: str, mirror: str | None = None, progress: ProgressCallback | None = None
) -> Path:
    """Download a model's files and verify each; files that are intact are kept.

    `mirror` is a copy of another machine's folder of weights, or its address. `progress` is called
    with the file's path, the bytes received and the total, None if unknown.

    Raises:
        UnknownName: no such model.
        WeightsError: access denied, connection failed, wrong size or sha256.
        OutputError: the disk is full, or the folder cannot be written.
    """
    model = find_model(name)
    if not model.path:
        with model_lock(model.name):
            if not _is_intact(model, model.folder_in(install_folder())):
                _fetch_files(model, mirror, progress)
    return weights_path(name)


def verify_weights(names: Iterable[str] | None = None) -> list[FileCheck]:
    """Verify the sha256 of every file, of the named models or of all on this machine.

    Raises:
        UnknownName: no such model.
    """
    if names is not None:
        return [check for name in names for check in _check_files(find_model(name))]
    return [
        check
        for model in all_models().values()
        if _is_present(model)
        for check in _check_files(model)
    ]


@contextmanager
def model_lock(name: str) -> Iterator[None]:
    """Hold the file lock of a model, so that one process at a time writes its files."""
    path = install_folder() / ".locks" / f"{name}.lock"
    with guarded_write(path):
        lock = needs("filelock").FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_receipt(model_folder: Path, files: Collection[ModelFile]) -> None:
    """Write the receipt of a model's folder: its files with their sizes and hashes."""
    installed = [
        ModelFile(file.path, path.stat().st_size, _file_sha256(file, path))
        for file, path in ((file, model_folder / file.path) for file in files)
    ]
    write_text(model_folder / RECEIPT_NAME, receipt_to_json(installed))


def _file_sha256(file: ModelFile, path: Path) -> str:
    return file.sha256 if len(file.sha256) == 64 else sha256(path)


def _fetch_files(model: Model, mirror: str | None, progress: ProgressCallback | None) -> None:
    folder = model.folder_in(install_folder())
    expected = _expected_files(model, folder)
    files = [*model.files, *side_files(model, mirror)]
    for file in files:
        target = folder / file.path
        if not find_problem(target, expected.get(file.path, file)):
            continue
        source = locate_file(model, file, mirror)
        if isinstance(source, RemoteFile):
            download_file(source, file, target, progress)
        else:
            link_or_copy(source, file, target)
    write_receipt(folder, files)


def _read_receipt(model_folder: Path) -> dict[str, ModelFile]:
    """Read the receipt of a folder by path; empty if there is none or it is damaged."""
    try:
        files = receipt_from_json((model_folder / RECEIPT_NAME).read_bytes(), str(model_folder))
    except (FileNotFoundError, NotADirectoryError, WeightsError):
        return {}
    return {file.path: file for file in files}


def _expected_files(model: Model, model_folder: Path) -> dict[str, ModelFile]:
    """List the files of a model by path: those of the receipt, as the manifest overrides them."""
    return _read_receipt(model_folder) | {file.path: file for file in model.files}


def _has_full_receipt(model: Model, model_folder: Path) -> bool:
    """Return True if the receipt lists every file with the hash in the current manifest."""
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
    """Find the folder in which a model is complete, by the names and sizes of its files."""
    for folder in _candidate_folders(model):
        expected = _expected_files(model, folder)
        if _has_full_receipt(model, folder) and all(
            _has_size(folder / path, file.bytes) for path, file in expected.items()
        ):
            return folder
    return None


def _has_size(path: Path, size_bytes: int | None) -> bool:
    return path.is_file() and size_bytes in (None, path.stat().st_size)


def _candidate_folders(model: Model) -> list[Path]:
    return [model.folder_in(folder) for folder in weights_folders()]


def _is_present(model: Model) -> bool:
    """Return True if the model has a folder on this machine, complete or not."""
    return bool(model.path) or any(folder.exists() for folder in _candidate_folders(model))


def _check_files(model: Model) -> list[FileCheck]:
    folders = _candidate_folders(model)
    folder = next((folder for folder in folders if folder.exists()), None)
    if folder is None:
        return [FileCheck(model.name, folders[0], "not on this machine")]
    expected = _expected_files(model, folder)
    return [
        FileCheck(model.name, folder / path, find_problem(folder / path, file))
        for path, file in expected.items()
    ]


def _missing_message(model: Model) -> str:
    if model.path:
        missing = f"{model.name}: {model.path} no longer holds the files that were added"
        return f"{missing}; add them again under the same `name`: annotate models add PATH"
    state = "not complete" if _is_present(model) else "not"
    terms = f"({size_text(model)}, {model.licence})"
    return f"{model.name} is {state} on this machine {terms}: annotate models fetch {model.name}"


def add_weights(path: str | Path, name: str | None = None) -> Model:
    """Register a file or a folder of weights, which stays where it is.

    Weights whose sha256 is in the manifest are linked or copied into the folder of weights, under
    the manifest's name. Others are registered under `name`, by default the name of the file.

    Raises:
        WeightsError: no files there; or `name` is in the manifest with other hashes.
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
    """Hash every file at `path` that is not hidden."""
    candidates = [path] if path.is_file() else sorted(path.rglob("*"))
    names = [each.relative_to(folder) for each in candidates if each.is_file()]
    visible = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not visible:
        raise WeightsError(f"{path}: no weights there; give a file, or a folder with files in it")
    return [
        ModelFile(name.as_posix(), (folder / name).stat().st_size, sha256(folder / name))
        for name in visible
    ]


def _mismatch(model: Model, files: list[ModelFile]) -> str:
    """Return why `files` do not make up the model; "" if they do."""
    for file in model.files:
        if not any(file.matches(each.sha256) for each in files):
            return f"no file in it has the sha256 of {file.path}, {file.sha256}"
    if model.includes_side_file("config.json") and "config.json" not in {
        file.path for file in files
    }:
        return "it has no config.json: give the whole folder"
    return ""


def _link_known_model(model: Model, folder: Path, files: list[ModelFile]) -> Model:
    if reason := _mismatch(model, files):
        raise WeightsError(
            f"{folder}: not {model.name}: {reason}; for weights of your own, give another `name`"
        )
    sources = {
        file: next(each.path for each in files if file.matches(each.sha256)) for file in model.files
    }
    sources |= {file: file.path for file in files if model.includes_side_file(file.path)}
    target = model.folder_in(install_folder())
    with model_lock(model.name):
        for file, source in sources.items():
            link_or_copy(folder / source, file, target / file.path)
        write_receipt(target, sources)
    return model


def _record_user_model(name: str, folder: Path, files: list[ModelFile]) -> Model:
    model = Model(name, "own", "your own", "your own", tuple(files), path=str(folder))
    path = install_folder() / USER_MANIFEST
    with model_lock(USER_MANIFEST):
        models = user_models(install_folder()) | {name: model}
        write_text(path, user_models_to_json(models), parents=True)
    return find_model(name)
