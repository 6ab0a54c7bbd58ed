"""Give a name to weights which a user has already: the manifest's name, or one of their own."""

from pathlib import Path

from annotate.download import sha256, take, writing
from annotate.errors import WeightsError
from annotate.manifest import OWN, File, Model, find, home, manifest, own, own_to_json
from annotate.weights import held, seal


def add(path: str | Path, name: str | None = None) -> Model:
    """Register a file or a folder of weights, which stays where it is.

    Weights that the manifest knows by their sha256 join the folder of weights under the manifest's
    name (a hard link where that can be). Others are written down under `name`, or the file's own.

    Raises:
        WeightsError: nothing there; or `name` is a model of the manifest, and these are not it.
    """
    path = Path(path).expanduser().resolve()
    folder = path if path.is_dir() else path.parent
    files = _read(path, folder)
    shipped = {key: model for key, model in manifest().items() if not model.path}
    if name in shipped:
        return _join(shipped[name], folder, files)
    if name is None:
        for model in shipped.values():
            if not _lacks(model, files):
                return _join(model, folder, files)
    return _record(name or path.stem, folder, files)


def _read(path: Path, folder: Path) -> list[File]:
    """Every file there that is not hidden, hashed."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    names = [each.relative_to(folder) for each in found if each.is_file()]
    shown = [each for each in names if not any(part.startswith(".") for part in each.parts)]
    if not shown:
        raise WeightsError(f"{path}: no weights there: name a file, or a folder with files in it")
    return [
        File(each.as_posix(), (folder / each).stat().st_size, sha256(folder / each))
        for each in shown
    ]


def _lacks(model: Model, files: list[File]) -> str:
    """What of a model is not among `files`, in words; "" when all of it is."""
    for file in model.files:
        if not any(file.knows(each.sha256) for each in files):
            return f"no file there has the sha256 of its {file.path}, {file.sha256}"
    if model.takes_along("config.json") and "config.json" not in {file.path for file in files}:
        return "its config.json is not there: give the whole folder"
    return ""


def _join(model: Model, folder: Path, files: list[File]) -> Model:
    if lacks := _lacks(model, files):
        raise WeightsError(
            f"{folder}: not {model.name}: {lacks}; to use your own, give it another --name"
        )
    wanted = {
        file: next(each.path for each in files if file.knows(each.sha256)) for file in model.files
    }
    wanted |= {file: file.path for file in files if model.takes_along(file.path)}
    place = model.place(home())
    with held(model.name):
        for file, source in wanted.items():
            take(folder / source, file, place / file.path)
        seal(place, wanted)
    return model


def _record(name: str, folder: Path, files: list[File]) -> Model:
    model = Model(name, "own", "your own", "your own", tuple(files), path=str(folder))
    part = home() / f"{OWN}.part"
    with held(OWN), writing(part):
        part.write_text(own_to_json(own(home()) | {name: model}), "utf-8")
        part.replace(home() / OWN)
    return find(name)
