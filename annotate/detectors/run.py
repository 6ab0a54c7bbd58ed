"""The Detector contract, loading detectors by name, and running one over a clip.

A run writes a file of items and continues after the last frame that an equal run wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from annotate import plugins
from annotate.items import detections, journal, records
from annotate.items.records import Frame, Item, Vocabulary
from annotate.items.sequences import chunks
from annotate.plugins import FAMILIES, Family
from annotate.video import reader
from annotate.video.reader import FrameSelection

if TYPE_CHECKING:
    import supervision as sv


@runtime_checkable
class Detector(Protocol):
    """A frozen dataclass whose first field is the vocabulary and whose other fields are options.

    It can be made without a server, weights or a package; what it lacks it says in `propose`, and
    before a file is begun in `ready()`, if it has that (see `plugins.OPTIONAL_MEMBERS`).
    """

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes it proposes."""

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, in order.

        `class_id` and `confidence` are always set (NaN where the model gives no score). `data`
        holds nothing but, where the detector was told words, `phrase`: what found each box, as an
        array of str. `metadata` holds nothing.
        """


DETECTORS: Family[Detector] = FAMILIES["detectors"]


def detector_settings(detector: Detector) -> Mapping[str, Any]:
    """The options that shape what it finds as they are set, those of detectors inside it too.

    An option whose field is marked `plugins.RUNTIME_ONLY` shapes nothing: a time-out, a budget.
    """
    return {name: _setting_value(value) for name, value in _setting_fields(detector)}


def _setting_fields(detector: Detector) -> Iterator[tuple[str, Any]]:
    for field_ in dataclasses.fields(detector):  # type: ignore[arg-type]  # the contract
        if (
            field_.name != "vocabulary"
            and not plugins.RUNTIME_ONLY.items() <= field_.metadata.items()
        ):
            yield field_.name, getattr(detector, field_.name)


def _setting_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _setting_value(each) for name, each in value.items()}
    return detector_settings(value) if isinstance(value, Detector) else value


def check_ready(detector: Detector) -> None:
    """Raise what a detector, or one inside it, lacks for a run: a server, weights, a package."""
    for inner in plugins.nested_plugins(detector):
        check_ready(inner)
    plugins.optional_member(detector, "ready")()


def detect_frames(
    detector: Detector, frames: Iterable[Frame], source: str, *, batch_size: int = 8
) -> Iterator[Item]:
    """Items, one for each frame, in order; at most `batch` frames are held at a time."""
    labels = dict(enumerate(detector.vocabulary.labels))
    for held in chunks(frames, batch_size):
        for frame, found in zip(held, detector.propose(held), strict=True):
            yield detections.item_from_detections(frame, found, labels, source)


@dataclass(frozen=True)
class Job:
    """A detector, a clip, and which of its frames to look at; `source` is the detector's name."""

    detector: Detector
    source: str
    clip: Path
    selection: FrameSelection = field(default_factory=FrameSelection)

    def header(self) -> records.Header:
        """What the file of items is stamped with: everything that shapes it."""
        told = {"detector": self.source, **detector_settings(self.detector)}
        told |= dataclasses.asdict(self.selection)
        clip = reader.header_entry(reader.probe(self.clip))
        return records.Header(
            "detect", told, vocabulary=self.detector.vocabulary.header_entry(), videos=clip
        )


def run_to_file(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> bool:
    """Write a file of items; goes on behind the last frame that an equal run wrote.

    Returns False when the file was complete already.

    Raises:
        SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    check_ready(job.detector)

    def items_after(last: int) -> Iterator[Item]:
        frames = (frame for frame in job.selection.frames(job.clip) if frame.index > last)
        return detect_frames(job.detector, frames, job.source)

    return journal.resume_items(out, job.header(), items_after, force=force, progress=progress)
