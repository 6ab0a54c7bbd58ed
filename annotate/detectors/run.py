"""The Detector contract, loading detectors by name, and running one over a clip.

A run writes a file of items and continues after the last frame that an equal run wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from annotate import plugins, vocabulary
from annotate.errors import PluginError, PromptError
from annotate.items import detections, journal, records
from annotate.items.records import Frame, Item, Vocabulary
from annotate.items.sequences import chunks
from annotate.plugins import FAMILIES, Family
from annotate.progress import Notes
from annotate.video import reader
from annotate.video.reader import FrameSelection
from annotate.weights import identity, lineage

if TYPE_CHECKING:
    import supervision as sv


@runtime_checkable
class Detector(Protocol):
    """A frozen dataclass: the first field is the vocabulary, the other fields are options.

    A detector can be made without a server, weights or a package. What is missing is an error in
    `propose`, and, before a file is begun, in the optional method `ready()` (see
    `plugins.OPTIONAL_MEMBERS`).
    """

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes that the detector proposes."""

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes for each frame, in order.

        `class_id` and `confidence` are always set (NaN where the model gives no score). `data`
        holds nothing but, for a detector that is prompted by phrases, `phrase`: the phrase that
        found each box, as an array of str. `metadata` is empty.
        """


DETECTORS: Family[Detector] = FAMILIES["detectors"]


def read_detector_vocabulary(
    given: str | Path | Vocabulary | None, options: Mapping[str, Any]
) -> Vocabulary:
    """Read the vocabulary for a detector: the given one, or that of a trained model.

    Without one, `options["model"]` must be the folder that `annotate train` made, or its weights.

    Raises:
        UnknownName: no such vocabulary.
        PromptError: none is given, and the model has none; or the file is malformed.
    """
    if given is not None:
        return given if isinstance(given, Vocabulary) else vocabulary.read_vocabulary(given)
    model = Path(str(options.get("model") or ""))
    if lineage.is_model(model):
        return vocabulary.read_vocabulary(
            (model if model.is_dir() else model.parent) / lineage.VOCABULARY_FILE
        )
    packaged = ", ".join(vocabulary.packaged_vocabularies())
    text = f"a detector by name needs a vocabulary: a TOML file, or one of {packaged}"
    if options.get("model"):
        text += f"; {model} is no model of `annotate train`, which has its own"
    raise PromptError(text)


def detector_settings(detector: Detector) -> Mapping[str, Any]:
    """Return the options that shape the boxes, with those of nested detectors.

    An option with a field marked `plugins.RUNTIME_ONLY`, such as a time-out, is left out.
    """
    return {name: _setting_value(value) for name, value in _setting_fields(detector)}


def header_settings(detector: Detector) -> dict[str, Any]:
    """Return what shapes the boxes, for a header: the options, and the hashes of the weights."""
    return {**detector_settings(detector), **identity.header_settings(detector)}


def _setting_fields(detector: Detector) -> Iterator[tuple[str, Any]]:
    for field_ in dataclasses.fields(detector):  # type: ignore[arg-type]  # a dataclass by contract
        runtime_only = plugins.RUNTIME_ONLY.items() <= field_.metadata.items()
        if field_.name != "vocabulary" and not runtime_only:
            yield field_.name, getattr(detector, field_.name)


def _setting_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _setting_value(each) for name, each in value.items()}
    return detector_settings(value) if isinstance(value, Detector) else value


def check_ready(detector: Detector) -> None:
    """Check that a detector and its nested ones have what they need: weights, packages, a model.

    Raises:
        AnnotateError: says what is missing.
    """
    for nested in plugins.nested_plugins(detector):
        check_ready(nested)
    plugins.optional_member(detector, "ready")()


def collect_notes(detector: Detector) -> list[Notes]:
    """Collect what a detector and its nested ones left out in a run."""
    notes = [each for nested in plugins.nested_plugins(detector) for each in collect_notes(nested)]
    own = plugins.optional_member(detector, "notes")
    return notes if own is None else [*notes, own]


def detect_frames(
    detector: Detector, frames: Iterable[Frame], source: str, *, batch_size: int = 8
) -> Iterator[Item]:
    """Yield an item for each frame, in order; at most `batch_size` frames are in memory.

    Raises:
        PluginError: the detector breaks its contract.
    """
    for _, item in detect_pairs(detector, frames, source, batch_size=batch_size):
        yield item


def detect_pairs(
    detector: Detector, frames: Iterable[Frame], source: str, *, batch_size: int = 8
) -> Iterator[tuple[Frame, Item]]:
    """Yield each frame with its item, as `detect_frames` does.

    A frame without a usable answer, which a detector's notes list as open, is left out.
    """
    labels = dict(enumerate(detector.vocabulary.labels))
    notes = collect_notes(detector)
    for batch in chunks(frames, batch_size):
        proposed = _propose_all(detector, batch, source)
        for frame, found in zip(batch, proposed, strict=True):
            if not any((frame.video, frame.index) in each.open_frames for each in notes):
                yield frame, detections.item_from_detections(frame, found, labels, source)


def propose_checked(detector: Detector, frames: list[Frame], source: str) -> list[sv.Detections]:
    """Propose boxes by a detector inside another, and check them before the other reads them.

    Raises:
        PluginError: the detector breaks its contract: names `source`, the frame and the rule.
    """
    proposed = _propose_all(detector, frames, source)
    class_ids = range(len(detector.vocabulary.labels))
    for frame, found in zip(frames, proposed, strict=True):
        detections.check_detections(frame, found, source, class_ids)
        if found.confidence is None or found.class_id is None:
            raise PluginError(
                f"{source}: {frame.name}: it did not set class_id and confidence; this is a fault "
                "of the plugin: confidence is NaN where there is no score"
            )
    return proposed


def _propose_all(detector: Detector, frames: list[Frame], source: str) -> list[sv.Detections]:
    proposed = detector.propose(frames)
    if len(proposed) != len(frames):
        raise PluginError(
            f"{source}: {frames[0].name}: it gave {len(proposed)} Detections for {len(frames)} "
            "frames; this is a fault of the plugin: it must give one for each frame"
        )
    return proposed


@dataclass(frozen=True)
class Job:
    """A detector, a clip, and a choice of its frames; `source` is the detector's name."""

    detector: Detector
    source: str
    clip: Path
    selection: FrameSelection = field(default_factory=FrameSelection)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the header: the detector's and the selection of frames."""
        settings = {"detector": self.source, **header_settings(self.detector)}
        return settings | dataclasses.asdict(self.selection)

    def header(self) -> records.Header:
        """Make the header of the file of items: everything that shapes the file."""
        settings, vocabulary = self.settings(), self.detector.vocabulary.header_entry()
        self.selection.check(self.clip)
        clip = reader.header_entry(reader.probe(self.clip))
        return records.Header("detect", settings, vocabulary=vocabulary, videos=clip)


def run_to_file(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> bool:
    """Write a file of items; continues after the last frame that an equal run wrote.

    Returns False when the file was already complete.

    Raises:
        SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    check_ready(job.detector)

    def items_after(last: int) -> Iterator[Item]:
        frames = (frame for frame in job.selection.frames(job.clip) if frame.index > last)
        return detect_frames(job.detector, frames, job.source)

    return journal.resume_items(out, job.header(), items_after, force=force, progress=progress)


def unanswered_frames(job: Job, out: Path) -> list[int]:
    """List the selected frames without a record in a complete file: a run left them out.

    Only a detector with notes leaves frames out. The clip is decoded if a frame may be missing.
    """
    if not collect_notes(job.detector):
        return []
    recorded = {item.frame for item in journal.read(out)}
    selected = job.selection.count(reader.probe(job.clip))
    if selected is not None and len(recorded) >= selected:
        return []
    indices = (frame.index for frame in job.selection.frames(job.clip))
    return [index for index in indices if index not in recorded]
