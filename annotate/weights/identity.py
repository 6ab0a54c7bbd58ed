"""Identify weights by their content: a hash for each option of a plugin that names weights.

The hashes are in the header of a file of items. So a run is not continued, and not taken for
complete, with weights that were trained again under the same name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from annotate import files
from annotate.errors import OutputError, UnknownName, WeightsError
from annotate.plugins import RUNTIME_ONLY, named_plugins, optional_member
from annotate.weights.lineage import is_model, read_model_folder
from annotate.weights.store import weights_path

WEIGHT_OPTIONS = ("model", "weights", "checkpoint", "encoder", "local")  # parts of options' names
HEADER_KEY = "weights"  # in the settings of a header: option -> hash
_RACY_NS = 2_000_000_000  # a file that changed so recently may change again with the same times


def header_settings(plugin: Any) -> dict[str, dict[str, str]]:
    """Return the entry of a plugin's weights for the settings of a header; {} without weights."""
    hashes = weights_hashes(plugin)
    return {HEADER_KEY: hashes} if hashes else {}


def weights_hashes(plugin: Any) -> dict[str, str]:
    """Hash the weights that the options of a plugin, and of those in it, name: option -> SHA-256.

    Options of other names are those that the optional member `weights` of a plugin lists. Weights
    that are not on this machine have no entry.
    """
    hashes = {}
    for option, name in _named_weights(plugin):
        if digest := weights_sha256(name):
            hashes[option] = digest
    return hashes


def _named_weights(plugin: Any) -> Iterator[tuple[str, str]]:
    """Yield each option that names weights, as `option` or `nested.option`, and its value."""
    if getattr(plugin, "random_weights", None) is not None or not dataclasses.is_dataclass(plugin):
        return  # an object of a Python user that is no dataclass has no options
    listed = optional_member(plugin, "weights")
    for field in dataclasses.fields(plugin):
        if RUNTIME_ONLY.items() <= field.metadata.items():
            continue
        value = getattr(plugin, field.name)
        names_weights = field.name in listed or any(part in field.name for part in WEIGHT_OPTIONS)
        if names_weights and isinstance(value, str) and value:
            yield field.name, value
    for prefix, each in named_plugins(plugin):
        yield from ((f"{prefix}.{option}", name) for option, name in _named_weights(each))


def weights_sha256(name: str) -> str:
    """Return the SHA-256 of weights, by a name in the manifest or a path; "" if they are not here.

    That of a trained model is the hash of its tensors, as in its lineage. That of another folder
    covers the paths and the contents of its files that are not hidden.
    """
    try:
        path = weights_path(name)
        if is_model(path):
            return read_model_folder(path).lineage.tensor_sha256
        return content_sha256(path)
    except (WeightsError, UnknownName, OSError, ValueError):
        return ""


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the paths and contents of a folder's files."""
    if not path.is_dir():
        return _file_sha256(path)
    digest = hashlib.sha256()
    for name in sorted(each.relative_to(path) for each in path.rglob("*") if each.is_file()):
        if not any(part.startswith(".") for part in name.parts):
            digest.update(f"{_file_sha256(path / name)}  {name.as_posix()}\n".encode())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    """Hash a file; the hash is kept in the cache folder until the file or its times change."""
    path = path.resolve()
    name = files.json_digest({"path": os.fsencode(path).hex()})  # a name may be no text
    cached = files.cache_dir("hashes", f"{name[:32]}.json")
    state = _state(path)
    record = files.read_json(cached)
    kept = None if record is None or record.get("state") != state else record.get("sha256")
    if isinstance(kept, str):
        return kept
    digest = files.sha256(path)
    _, *times, _, _ = state
    if state == _state(path) and time.time_ns() - max(times) > _RACY_NS:
        with suppress(OutputError):  # then it is hashed again the next time
            files.write_json(cached, {"path": str(path), "state": state, "sha256": digest})
    return digest


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
