"""Read, write and check `lineage.json`: where trained weights come from, and what is in them.

The folder of a trained model holds the weights, `lineage.json` and `vocabulary.toml`. The lineage
names the tensors of the weights by a hash, the dataset that they saw, the weights that they began
with, and the results. A file of items that a trained model made has the hash of its tensors in its
header, so that the way goes from an item to weights, to a dataset, and to the items in it.

The hash of tensors is over names, shapes, types and values, not over the file: the same training
gives the same tensors, but files hold dates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.errors import WeightsError
from annotate.files import parse_json, sha256, write_text

LINEAGE_FILE = "lineage.json"
VOCABULARY_FILE = "vocabulary.toml"
SCHEMA = 1
_NEWER = "made by a newer annotate: pip install -U annotate-local"
_AGAIN = "train again, or copy the whole folder again"


@dataclass(frozen=True)
class Lineage:
    """What a trained model is made of; all values are of JSON.

    `weights` is the name of the file of weights, beside the lineage; `detector` the plugin that
    runs it. `classes` are in the order of their ids. `threshold` is the score with the best F1 on
    val; `image_size` the longer side of a picture in training, pixels. `trainer` is {name,
    version, settings, seed}. `dataset` is {sha256, frames, objects, classes, split_sha256, clips}.
    `parent` is {tensor_sha256, file_sha256, name, licence}. `gold` is {sha256, looks}. `results`
    has measures by name. `runs` lists {epochs, resumed}. `deterministic` is True if the same
    command gives the same tensors.
    """

    weights: str
    detector: str
    tensor_sha256: str
    file_sha256: str
    licence: str
    classes: tuple[str, ...]
    threshold: float
    image_size: int
    trainer: Mapping[str, Any]
    dataset: Mapping[str, Any]
    parent: Mapping[str, Any] | None = None
    gold: Mapping[str, Any] | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[Mapping[str, Any], ...] = ()
    deterministic: bool = False
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Format the lineage as JSON with sorted keys: equal lineages are equal texts."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write `lineage.json` in a folder, atomically.

        Raises:
            OutputError: nothing can be written there.
        """
        write_text(folder / LINEAGE_FILE, self.to_json())


def read_lineage(path: Path) -> Lineage:
    """Read a `lineage.json`.

    Raises:
        WeightsError: it is not there, damaged, or of a newer version.
    """
    try:
        record = parse_json(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"{path}: not there; give the folder that `annotate train` made"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise WeightsError(f"{path}: cannot be read: {reason}; {_AGAIN}") from None
    if not isinstance(record, dict):
        raise WeightsError(f"{path}: damaged: not a table; {_AGAIN}")
    if isinstance(record.get("schema"), int) and record["schema"] > SCHEMA:
        raise WeightsError(f"{path}: {_NEWER}")
    return _checked_lineage(record, path)


_TEXTS = ("weights", "detector", "tensor_sha256", "file_sha256", "licence")
_TABLES = ("trainer", "dataset", "results", "environment")


def _checked_lineage(record: dict[str, Any], path: Path) -> Lineage:
    try:
        values = {each.name: record[each.name] for each in fields(Lineage) if each.name in record}
        lineage = Lineage(**values | {"classes": tuple(record["classes"])})
        lineage = Lineage(**vars(lineage) | {"runs": tuple(lineage.runs)})
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: damaged: {error}; {_AGAIN}") from None
    wrong = [key for key in _TEXTS if not isinstance(getattr(lineage, key), str)]
    wrong += [key for key in _TABLES if not isinstance(getattr(lineage, key), dict)]
    wrong += ["classes"] if not all(isinstance(name, str) for name in lineage.classes) else []
    wrong += ["weights"] if Path(str(lineage.weights)).name != lineage.weights else []
    wrong += [] if isinstance(lineage.image_size, int) else ["image_size"]
    wrong += [] if isinstance(lineage.threshold, int | float) else ["threshold"]
    if wrong or not lineage.classes:
        raise WeightsError(f"{path}: damaged: {(wrong or ['classes'])[0]}; {_AGAIN}")
    return lineage


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in its folder; `weights_path` is its file of weights."""

    folder: Path
    weights_path: Path
    lineage: Lineage

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of their ids."""
        return self.lineage.classes

    @property
    def threshold(self) -> float:
        """The score from which on a box counts: the best F1 on val."""
        return self.lineage.threshold

    @property
    def image_size(self) -> int:
        """The longer side of a picture in training, pixels."""
        return self.lineage.image_size


def is_model(path: Path) -> bool:
    """Return True for the folder of a trained model, and for the weights in one."""
    folder = path if path.is_dir() else path.parent
    if not (folder / LINEAGE_FILE).is_file():
        return False
    return path.is_dir() or read_lineage(folder / LINEAGE_FILE).weights == path.name


def read_model_folder(path: Path | str) -> TrainedModel:
    """Read the folder of a trained model, or the folder that its weights are in.

    Raises:
        WeightsError: there is no such model, or its weights are not those of its lineage.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    lineage = read_lineage(folder / LINEAGE_FILE)
    weights = folder / lineage.weights
    if not path.is_dir() and path.name != lineage.weights:
        raise WeightsError(f"{path}: {LINEAGE_FILE} beside it is of {lineage.weights}")
    if not weights.is_file():
        raise WeightsError(f"{weights}: not there, but {LINEAGE_FILE} names it; {_AGAIN}")
    if sha256(weights) != lineage.file_sha256:
        raise WeightsError(
            f"{weights}: changed since the training: its sha256 is not the one in {LINEAGE_FILE}; "
            f"{_AGAIN}"
        )
    return TrainedModel(folder, weights, lineage)


def tensor_sha256(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of tensors by name: over sorted names, shapes, types and values.

    Examples:
        >>> one = {"a": np.zeros(2, np.float32), "b": np.ones((1, 2), np.float32)}
        >>> tensor_sha256(one) == tensor_sha256(dict(reversed(one.items())))
        True
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {tensor.shape} {little.dtype.str}\n".encode())
        digest.update(np.ascontiguousarray(little).tobytes())
    return digest.hexdigest()
