"""Run a detector on the images of a dataset: on val, on a gold set, on labels to look at again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from annotate.dataset.folder import Dataset
from annotate.detectors.run import Detector, detect_frames
from annotate.items.records import Frame, Item
from annotate.video.images import read_image


def detect_images(
    detector: Detector, images: Iterable[tuple[Path, Item]], source: str = ""
) -> Iterator[Item]:
    """Yield what a detector sees on image files; the item of each names its clip, frame and time.

    `source` names the images in errors: by default the name of the detector's class.

    Raises:
        VideoError: an image cannot be read.
        PluginError: the detector breaks its contract.
    """
    frames = (
        Frame(item.video, item.frame, item.seconds, read_image(path)) for path, item in images
    )
    return detect_frames(detector, frames, source or type(detector).__name__)


def list_images(dataset: Dataset) -> Iterator[tuple[Path, Item]]:
    """Yield the image file and the item of each frame of a dataset, for `detect_images`."""
    return ((dataset.images / sample.image, sample.item) for sample in dataset)
