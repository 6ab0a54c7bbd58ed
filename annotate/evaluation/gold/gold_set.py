"""Seal a gold set, refuse a changed one, count the looks at it, and find overlaps with training.

A gold set is a dataset that chooses nothing: neither weights, nor epoch, nor threshold. Its first
use seals it: `gold.toml` in its folder holds the hash of its content. A gold set that has been
looked at often has been chosen by, so each model that was evaluated on it is in `looks.jsonl`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from annotate.dataset.folder import Dataset, Sample, dataset_sha256, load_dataset
from annotate.dataset.split import DUPLICATE_RMS, nearest_rows, thumbnail_and_histogram
from annotate.errors import DatasetError, OutputError
from annotate.files import parse_json, parse_toml, write_text

SEAL_FILE, LOOKS_FILE = "gold.toml", "looks.jsonl"
_MAX_NAMED = 3  # overlaps that a message names


@dataclass(frozen=True)
class GoldSet:
    """A sealed dataset that models are compared on. `sha256` is that of its content."""

    dataset: Dataset
    sha256: str

    @property
    def looks(self) -> int:
        """How many evaluations of different models looked at it."""
        return len(_read_looks(self.dataset.path / LOOKS_FILE))

    @property
    def clips(self) -> tuple[str, ...]:
        """The clips that have frames in it, sorted."""
        return tuple(sorted({sample.item.video for sample in self.dataset}))

    def record_look(self, models: Iterable[str]) -> int:
        """Append an evaluation of `models`, by their hashes; return how many there are now.

        The same models give the same numbers: to look at them again is not another look.

        Raises:
            OutputError: the folder cannot be written.
        """
        path, names = self.dataset.path / LOOKS_FILE, sorted(set(models))
        looks = _read_looks(path)
        if names not in looks:
            line = json.dumps({"models": names}, separators=(",", ":")) + "\n"
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                try:
                    os.write(descriptor, line.encode())  # one write: no run tears another's line
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise OutputError(
                    f"{path}: cannot write there, and a look at a gold set must be counted: "
                    f"{error.strerror}"
                ) from None
            looks.append(names)
        return len(looks)


def _read_looks(path: Path) -> list[list[str]]:
    """Read the models of each look; a line that was cut off counts, with no models."""
    if not path.exists():
        return []
    looks: list[list[str]] = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            looks.append(list(parse_json(line)["models"]))
        except (ValueError, KeyError, TypeError):
            looks.append([])
    return looks


def open_gold(path: Path | str) -> GoldSet:
    """Open a gold set; a dataset that is not sealed yet is sealed now.

    Raises:
        DatasetError: no dataset, no frame in it, or one that was changed after it was sealed.
        OutputError: the seal cannot be written.
    """
    dataset = load_dataset(path)
    digest, seal_path = dataset_sha256(dataset), dataset.path / SEAL_FILE
    if seal_path.exists():
        sealed = _read_seal(seal_path)
        if sealed != digest:
            raise DatasetError(
                f"{dataset.path}: changed after it was sealed (sha256 {digest[:12]}, "
                f"not {sealed[:12]}), so that numbers on it cannot be compared with earlier ones: "
                f"restore it, or remove {SEAL_FILE} and {LOOKS_FILE} to begin a new gold set"
            )
    else:
        _write_seal(dataset, digest)
    return GoldSet(dataset, digest)


def _read_seal(path: Path) -> str:
    try:
        return str(parse_toml(path.read_bytes())["sha256"])
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from None


def _write_seal(dataset: Dataset, digest: str) -> None:
    frames = objects = 0
    clips: dict[str, str] = {}
    for sample in dataset:
        frames, objects = frames + 1, objects + len(sample.item.objects)
        video = sample.item.video
        clips[video] = str(dataset.clips.get(video, {}).get("fingerprint") or "")
    if not frames:
        raise DatasetError(f"{dataset.path}: no frames in it: a gold set needs some")
    lines = [f'annotate = 1\nsha256 = "{digest}"\nframes = {frames}\nobjects = {objects}\n[clips]']
    lines += [f"{json.dumps(k, ensure_ascii=False)} = {json.dumps(v)}" for k, v in clips.items()]
    write_text(dataset.path / SEAL_FILE, "\n".join(lines) + "\n")


@dataclass(frozen=True)
class GoldOverlap:
    """A frame or clip of a gold set that is in the training data too, and why that is so."""

    gold: str
    training: str
    reason: str

    def __str__(self) -> str:
        return f"{self.gold} is {self.reason} {self.training}"


def find_overlaps(dataset: Dataset, gold: GoldSet) -> list[GoldOverlap]:
    """Find what training data and a gold set share: clips by fingerprint, else frames alike.

    Frames are compared as `annotate split` does, all with all: a frame that is alike also tells of
    a shot, or of a copy of a clip in another size or encoding. A picture without structure, such as
    a black one, is alike in any clips and is left out.
    """
    training_clips = _clips_by_fingerprint(dataset)
    shared = [
        GoldOverlap(clip, training_clips[fingerprint], "the same clip as")
        for fingerprint, clip in _clips_by_fingerprint(gold.dataset).items()
        if fingerprint in training_clips
    ]
    if shared:
        return shared
    (own, names), (others, other_names) = map(_thumbnails, (gold.dataset, dataset))
    if not names or not other_names:
        return []
    rows, distances = nearest_rows(own, others)
    return [
        GoldOverlap(names[index], other_names[rows[index]], "a near-duplicate of")
        for index in np.flatnonzero(distances < DUPLICATE_RMS)
    ]


def refuse_overlaps(dataset: Dataset, gold: GoldSet) -> None:
    """Refuse to evaluate on a gold set what was trained on a part of it.

    Raises:
        DatasetError: names what both have.
    """
    overlaps = find_overlaps(dataset, gold)
    if overlaps:
        named = "; ".join(map(str, overlaps[:_MAX_NAMED]))
        more = len(overlaps) - _MAX_NAMED
        raise DatasetError(
            f"{gold.dataset.path}: overlaps with {dataset.path}: {named}"
            + (f"; and {more} more" if more > 0 else "")
            + ": numbers on it would be too good; take clips for gold that are not in training"
        )


def _clips_by_fingerprint(dataset: Dataset) -> dict[str, str]:
    used = {sample.item.video for sample in dataset}
    described: Mapping[str, Mapping[str, Any]] = dataset.clips
    return {
        str(entry["fingerprint"]): name
        for name, entry in described.items()
        if name in used and entry.get("fingerprint")
    }


def _thumbnails(dataset: Dataset) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[str]]:
    """Compute the thumbnails, (n, 576), and the names of the pictures that have structure."""

    def thumbnail(sample: Sample) -> np.ndarray[Any, np.dtype[np.float32]]:
        return thumbnail_and_histogram(dataset.images / sample.image)[0]

    pairs = [(thumbnail(sample), sample.image) for sample in dataset]
    kept = [(each, name) for each, name in pairs if each.std() >= DUPLICATE_RMS]
    rows = np.array([each for each, _ in kept], np.float32).reshape(len(kept), -1)
    return rows, [name for _, name in kept]
