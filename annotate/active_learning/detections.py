"""Get what another detector sees: from files of items, or by a trained model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from annotate.dataset.folder import Dataset
from annotate.dataset.frame_sources import FrameKey, LocatedClip
from annotate.detectors import run as detectors_run
from annotate.errors import ItemsError
from annotate.items import journal
from annotate.items.records import Item, Object
from annotate.progress import ProgressBar, no_progress
from annotate.training.inference import detect_images, list_images
from annotate.video import reader
from annotate.weights.lineage import read_model_folder

if TYPE_CHECKING:
    from annotate.detectors.run import Detector

ObjectsByFingerprint = Mapping[str, Mapping[int, Sequence[Object]]]  # -> frame -> objects


def read_objects(
    paths: Iterable[Path | str], fingerprints: Collection[str]
) -> dict[str, dict[int, tuple[Object, ...]]]:
    """Read the objects of some clips from files of items, without masks.

    Returns fingerprint of the clip -> frame -> objects.

    Raises:
        ItemsError: a file is of none of the clips.
    """
    objects: dict[str, dict[int, tuple[Object, ...]]] = {}
    for path in paths:
        items = journal.read(path)
        by_name = {name: str(each.get("fingerprint")) for name, each in items.header.videos.items()}
        if not set(fingerprints) & set(by_name.values()):
            raise ItemsError(f"{path}: its clips are not those of the items to compare with")
        for item in items:
            fingerprint = by_name.get(item.video)
            if fingerprint in fingerprints and fingerprint is not None and item.dropped is None:
                light = tuple(replace(obj, mask=None) for obj in item.objects)
                frames = objects.setdefault(fingerprint, {})
                frames[item.frame] = (*frames.get(item.frame, ()), *light)
    return objects


def load_model(folder: Path | str) -> tuple[Detector, float]:
    """Load the detector of a trained model, and the score from which on its boxes count.

    Raises:
        WeightsError, MissingPackage: it cannot be used: see `annotate.errors`.
    """
    trained = read_model_folder(folder)
    name, option = trained.lineage.detector, {"model": str(trained.folder)}
    vocabulary = detectors_run.read_detector_vocabulary(None, option)
    detector = detectors_run.DETECTORS.load(name, vocabulary, **option)
    detectors_run.check_ready(detector)
    return detector, trained.threshold


def detect_dataset(
    dataset: Dataset, detector: Detector, progress: ProgressBar = no_progress
) -> dict[FrameKey, tuple[Object, ...]]:
    """Run a detector on the images of a dataset: (video, frame) -> objects."""
    with progress("model", len(dataset)) as advance:
        return dict(_by_frame(detect_images(detector, list_images(dataset)), advance))


def _by_frame(
    items: Iterable[Item], advance: Callable[..., object]
) -> Iterator[tuple[FrameKey, tuple[Object, ...]]]:
    for item in items:
        advance()
        yield (item.video, item.frame), item.objects


def detect_on_clip(
    clip: LocatedClip,
    frames: Iterable[int],
    detector: Detector,
    advance: Callable[..., object] = lambda: None,
) -> dict[int, tuple[Object, ...]]:
    """Run a detector on some frames of a clip: frame -> objects."""
    pictures = reader.frames_at(clip.path, sorted(frames))
    items = detectors_run.detect_frames(detector, pictures, type(detector).__name__)
    return {frame: objects for (_, frame), objects in _by_frame(items, advance)}


def read_detections(
    dataset: Dataset, paths: Sequence[Path | str]
) -> dict[FrameKey, tuple[Object, ...]]:
    """Read the items of a detector on the clips of a dataset: (video, frame) -> objects.

    Raises:
        ItemsError: a file is of none of the clips.
    """
    names = {str(entry.get("fingerprint")): name for name, entry in dataset.clips.items()}
    by_clip = read_objects(paths, names)
    return {
        (names[fingerprint], frame): objects
        for fingerprint, frames in by_clip.items()
        for frame, objects in frames.items()
    }
