"""Walk from items to the weights that made them, to the dataset those saw, and to its items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from annotate.dataset.folder import DATASET_FILE, dataset_sha256, load_dataset
from annotate.errors import AnnotateError, WeightsError
from annotate.items import journal
from annotate.items.records import Header
from annotate.progress import counted
from annotate.weights import identity, lineage

INTACT, GONE, ALTERED = "as it was", "gone", "altered"
_DIGITS = 12  # of a hash


@dataclass(frozen=True)
class Link:
    """A step of the chain: what it is, its name, what is known of it, and its state now.

    `state` is `INTACT`, `GONE`, `ALTERED` with the reason, or "" where nothing can be compared.
    """

    what: str
    name: str
    facts: str = ""
    state: str = ""


def walk(path: Path) -> Iterator[Link]:
    """Walk from a file of items, a model's folder or weights, or a dataset, to what it is made of.

    Raises:
        AnnotateError: nothing of these is there.
    """
    if path.is_dir() and (path / DATASET_FILE).is_file():
        yield from _dataset_links(path, None)
    elif path.is_dir() or lineage.is_model(path):
        yield from _model_links(path, None)
    else:
        yield from _items_links(path, journal.read(path).header)


def _items_links(path: Path, header: Header) -> Iterator[Link]:
    plugin = header.settings.get("detector") or header.settings.get("engine") or header.model
    yield Link("items", str(path), f"{header.stage} {plugin}".strip())
    hashes = header.settings.get(identity.HEADER_KEY)
    for option, digest in hashes.items() if isinstance(hashes, dict) else ():
        name = header.settings.get(option)
        if isinstance(name, str):
            yield from _model_links(Path(name), str(digest))


def _model_links(path: Path, expected: str | None) -> Iterator[Link]:
    """Yield a model, its parent and its dataset; `expected` is the hash in what led here."""
    try:
        model = lineage.read_model_folder(path)
    except WeightsError as error:
        if expected is None:
            raise
        facts = f"tensors {expected[:_DIGITS]}"
        changed = path.exists() and lineage.is_model(path)
        known = identity.weights_sha256(str(path)) == expected
        state = INTACT if known else f"{ALTERED}: {error}" if changed else GONE
        yield Link("weights", str(path), facts, state)
        return
    record = model.lineage
    facts = f"tensors {record.tensor_sha256[:_DIGITS]}, {record.trainer.get('name')}"
    state = INTACT
    if expected is not None and expected != record.tensor_sha256:
        state = f"{ALTERED}: these were made by tensors {expected[:_DIGITS]}"
    yield Link("weights", str(path), f"{facts}, {record.licence}", state)
    if record.parent is not None:
        digest = record.parent.get("tensor_sha256") or record.parent.get("file_sha256") or ""
        yield Link("parent", str(record.parent.get("name", "")), f"sha256 {digest[:_DIGITS]}")
    if record.gold is not None:
        digest = str(record.gold.get("sha256", ""))[:_DIGITS]
        looks = counted(int(record.gold.get("looks") or 0), "time")
        yield Link("gold", f"sha256 {digest}", f"looked at {looks}")
    where = record.dataset.get("path", "")
    yield from _dataset_links(Path(where), str(record.dataset.get("sha256", "")))


def _dataset_links(path: Path, expected: str | None) -> Iterator[Link]:
    facts = "" if expected is None else f"sha256 {expected[:_DIGITS]}"
    try:
        dataset = load_dataset(path)
        digest = dataset_sha256(dataset)
    except AnnotateError as error:
        if expected is None:
            raise
        state = f"{ALTERED}: {error}" if (path / DATASET_FILE).exists() else GONE
        yield Link("dataset", str(path), facts, state)
        return
    same = expected in (None, digest)
    state = INTACT if same else f"{ALTERED}: sha256 {digest[:_DIGITS]} now"
    yield Link("dataset", str(path), facts or f"sha256 {digest[:_DIGITS]}", state)
    for source in dataset.sources:
        stage, model = source.get("stage") or "", source.get("model") or ""
        yield Link("items", str(source.get("items", "")), f"{stage} {model}".strip())
    for name, clip in dataset.clips.items():
        fingerprint = str(clip.get("fingerprint") or "")[:_DIGITS]
        yield Link("clip", name, f"fingerprint {fingerprint}" if fingerprint else "")
