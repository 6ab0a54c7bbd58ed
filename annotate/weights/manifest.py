"""List the known models: files, source, revision, hashes and licence of each.

The shipped `models/manifest.toml` decides for the models that it names. The `manifest.json` in a
folder of weights has the same fields and holds the models that the user added.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from annotate.errors import UnknownName, WeightsError
from annotate.files import cache_dir, packaged_file, parse_json, parse_toml
from annotate.items.foreign_records import is_text, shown

WEIGHTS_VARIABLE = "ANNOTATE_WEIGHTS"
USER_MANIFEST = "manifest.json"
RECEIPT_NAME = "fetched.json"
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256_PATTERN = re.compile(r"[0-9a-f]{8,64}")


def _check_types(where: str, record: Any) -> None:
    """Check the fields of a dataclass that are text, numbers or flags; JSON may hold any type."""
    for field in fields(record):
        value = getattr(record, field.name)
        kind: Any = field.type
        is_simple = kind in (str, bool, int | None)
        is_usable = is_text(value) if isinstance(value, str) and value else True
        if is_simple and not (isinstance(value, kind) and is_usable):
            raise WeightsError(f"{where}: {field.name} cannot be {shown(value)}")


@dataclass(frozen=True)
class ModelFile:
    """One file of a model; `path` is relative, "/" between its parts.

    `sha256` is "" and `bytes` None where they are not published. `sha256` may be the first digits
    of the hash only, as torch.hub publishes them in a file's name. `hash_confidence` is A (the
    publisher's page, or two sources that agree) or B (one third party).
    """

    path: str
    bytes: int | None = None
    sha256: str = ""
    hash_confidence: str = ""

    def __post_init__(self) -> None:
        _check_types("a file of a model", self)
        path = PurePosixPath(self.path)
        if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in self.path:
            raise WeightsError(f"{self.path!r} is not a path inside a folder of weights")
        if self.sha256 and not _SHA256_PATTERN.fullmatch(self.sha256):
            raise WeightsError(f"{self.path}: {self.sha256!r} is not a sha256: 64 digits 0-9, a-f")
        if self.bytes is not None and not 0 <= self.bytes < 2**63:
            raise WeightsError(f"{self.path}: its bytes cannot be {shown(self.bytes)}")

    def matches(self, sha256: str) -> bool:
        """Return True if a file's sha256 agrees with all digits that are published."""
        return bool(self.sha256) and sha256.startswith(self.sha256)


@dataclass(frozen=True)
class Model:
    """A model's weights: one name always means the same bytes.

    The files come from `repo` on the Hugging Face hub at `revision`, or from the address `url` of
    their folder; the files of a user's own model are in the folder `path`. `also` are patterns of
    further small files (a config, a tokenizer), which have no published hash: the pinned revision
    fixes their content. `card` is a file in models/.
    """

    name: str
    family: str
    task: str
    licence: str
    files: tuple[ModelFile, ...]
    revision: str = ""
    repo: str = ""
    url: str = ""
    path: str = ""
    also: tuple[str, ...] = ()
    gated: bool = False
    card: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        _check_types(f"model {shown(self.name)}", self)
        if not _NAME_PATTERN.fullmatch(self.name):
            raise WeightsError(
                f"{self.name!r} cannot name a model: use letters, digits, '.', '_', '-'"
            )
        if sum(map(bool, (self.repo, self.url, self.path))) != 1:
            raise WeightsError(f"{self.name}: give one of repo, url, path")
        if not self.path and not _NAME_PATTERN.fullmatch(self.revision):
            raise WeightsError(f"{self.name}: {self.revision!r} is not a revision")

    @property
    def bytes(self) -> int:
        """The size of its files in bytes; files of unknown size count 0."""
        return sum(file.bytes or 0 for file in self.files)

    @property
    def page(self) -> str:
        """The web page, address or folder that the model comes from."""
        return self.path or self.url or f"https://huggingface.co/{self.repo}"

    def includes_side_file(self, path: str) -> bool:
        """Return True if the file `path` matches a pattern of `also`."""
        listed = {file.path for file in self.files}
        matches = any(fnmatchcase(path, pattern) for pattern in self.also)
        return matches and "/" not in path and path not in listed

    def folder_in(self, weights_folder: Path) -> Path:
        """Return the folder of this revision's files in a folder of weights."""
        return Path(self.path) if self.path else weights_folder / self.name / self.revision[:12]


def weights_folders() -> list[Path]:
    """List the folders of weights: $ANNOTATE_WEIGHTS (a shared folder), then the user's own."""
    user_folder = cache_dir("weights")
    shared = os.environ.get(WEIGHTS_VARIABLE)
    return [Path(shared).expanduser(), user_folder] if shared else [user_folder]


def install_folder() -> Path:
    """Return the folder that fetched and added weights are written to."""
    return weights_folders()[0]


def all_models() -> dict[str, Model]:
    """Read the shipped manifest and the user's own; return the models by name.

    Raises:
        WeightsError: a manifest is damaged.
    """
    models = dict(_shipped_models())
    for folder in weights_folders():
        models = user_models(folder) | models
    return dict(sorted(models.items()))


def find_model(name: str) -> Model:
    """Look up a model by name.

    Raises:
        UnknownName: no such model; the error names the nearest.
    """
    models = all_models()
    if name not in models:
        raise UnknownName("model", name, models)
    return models[name]


def user_models(weights_folder: Path) -> dict[str, Model]:
    """Read the models that a user has added to a folder of weights.

    Raises:
        WeightsError: its manifest is damaged or cannot be read.
    """
    path = weights_folder / USER_MANIFEST
    try:
        return _parse_models(parse_json(path.read_bytes()), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise WeightsError(f"{path}: damaged: {error}") from None


def user_models_to_json(models: Mapping[str, Model]) -> str:
    """Format a user's `manifest.json`."""
    records = {name: asdict(model) for name, model in sorted(models.items())}
    for record in records.values():
        del record["name"]
    return json.dumps(records, indent=1, ensure_ascii=False) + "\n"


def receipt_to_json(files: Iterable[ModelFile]) -> str:
    """Format a receipt, `fetched.json`: the files of a model, all verified."""
    return json.dumps([asdict(file) for file in files], indent=1) + "\n"


def receipt_from_json(text: str | bytes, source: str) -> list[ModelFile]:
    """Parse a receipt, `fetched.json`; `source` begins the error message.

    Raises:
        WeightsError: the receipt is damaged.
    """
    try:
        return [ModelFile(**record) for record in parse_json(text)]
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{source}: damaged: {error}") from None


@cache
def _shipped_models() -> dict[str, Model]:
    path = packaged_file("models", "manifest.toml")
    return _parse_models(parse_toml(path.read_bytes()), str(path))


def _parse_models(records: Any, source: str) -> dict[str, Model]:
    try:
        return {name: _parse_model(name, record) for name, record in records.items()}
    except (AttributeError, KeyError, TypeError, WeightsError) as error:
        raise WeightsError(f"{source}: {error}") from None


def _parse_model(name: str, record: Mapping[str, Any]) -> Model:
    files, also = tuple(ModelFile(**each) for each in record["files"]), record.get("also", ())
    if not isinstance(also, list | tuple) or not all(isinstance(each, str) for each in also):
        raise WeightsError(f"{name}: also must be a list of patterns, got {shown(also)}")
    rest = {key: value for key, value in record.items() if key not in ("files", "also")}
    return Model(name, files=files, also=tuple(also), **rest)
