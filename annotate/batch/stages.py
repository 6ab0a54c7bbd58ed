"""The stages that run over many clips: detect, segment, propagate, frames, scenes.

A stage is a frozen dataclass of its options. It runs the same function as the command for one clip,
and its key of a clip covers everything that shapes the bytes of the result: the settings, the
vocabulary, the hashes of the weights, the version of annotate, and the content of the clip. Paths
and names are no part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from annotate import segmenters
from annotate.batch import archive
from annotate.batch.clips import clip_digest, clip_fingerprint, clip_path, files_by_clip
from annotate.batch.stores.remote_clips import RemoteClip
from annotate.batch.stores.store import open_store
from annotate.detectors import run as detectors_run
from annotate.errors import (
    AnswerError,
    ItemsError,
    OutputError,
    PromptError,
    ScenesError,
    needs,
)
from annotate.files import sha256
from annotate.items import points
from annotate.items.records import Header, Vocabulary, record_to_json
from annotate.plugins import optional_member
from annotate.prompts import clip_scope, prompt_table
from annotate.propagators import boxes as propagator_boxes
from annotate.propagators import job as propagators_job
from annotate.propagators import run as propagators_run
from annotate.sampling import run as sampling_run
from annotate.sampling.filter import FilterOptions, SamplingOptions
from annotate.scenes import library
from annotate.scenes import store as scenes_store
from annotate.video import reader
from annotate.video.reader import FrameSelection

if TYPE_CHECKING:
    import pandas as pd


Progress = Callable[[Any], None]
ITEMS_SUFFIX = ".jsonl"


class Stage(Protocol):
    """What runs over each clip: a frozen dataclass that can be pickled."""

    name: ClassVar[str]
    suffix: ClassVar[str]  # of a result's file

    def header(self) -> Header:
        """Make the header of all results, without clips: every setting that shapes them."""

    def inputs(self, clip: Path) -> Mapping[str, str]:
        """Return the hashes of the inputs of a clip beside the clip itself.

        Raises:
            AnnotateError: the clip has no such input.
        """

    def ready(self) -> None:
        """Load what every clip needs, or raise what is missing."""

    def run(self, clip: Path, folder: Path, progress: Progress) -> Path:
        """Write the result of a clip into `folder`, or continue there; returns its file."""


def unit_key(header_line: str, inputs: Mapping[str, str], digest: str) -> str:
    """Return the key of a clip whose content has this digest: a SHA-256, in hex.

    `header_line` is that of the stage's header, `inputs` are the stage's of the clip.
    """
    record = record_to_json({"clip": digest, **inputs})
    return hashlib.sha256(f"{header_line}\n{record}".encode()).hexdigest()


def current_key(stage: Stage, clip: Path | RemoteClip) -> str:
    """Return the key of a stage and a clip as the clip, its inputs and the weights are now."""
    line = stage.header().to_json()
    return unit_key(line, stage.inputs(clip_path(clip)), clip_digest(clip))


class _StageOptions:
    """A stage that is sent to a worker as its options, without what it has loaded."""

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]

    def inputs(self, clip: Path) -> Mapping[str, str]:
        """Return {}: most stages read the clip alone."""
        return {}


@dataclass(frozen=True)
class DetectStage(_StageOptions):
    """Propose boxes; `options` are the fields of the detector that are set."""

    detector: str
    vocabulary: Vocabulary
    options: Mapping[str, Any] = field(default_factory=dict)
    selection: FrameSelection = field(default_factory=FrameSelection)
    mask: str | None = None
    near: str | None = None
    margin: int = 40
    calibration: Path | None = None

    name: ClassVar[str] = "detect"
    suffix: ClassVar[str] = ITEMS_SUFFIX

    @cached_property
    def plugin(self) -> detectors_run.Detector:
        """The detector, behind a colour filter or a calibration if there is one."""
        plugin = detectors_run.DETECTORS.load(self.detector, self.vocabulary, **self.options)
        if self.mask is not None or self.near is not None:
            from annotate.detectors.colour.filter import filter_by_colour

            plugin = filter_by_colour(plugin, mask=self.mask, near=self.near, margin=self.margin)
        if self.calibration is not None:
            from annotate.evaluation.calibration import CalibratedDetector

            plugin = CalibratedDetector(plugin, self.detector, self.calibration)
        return plugin

    def job(self, clip: Path) -> detectors_run.Job:
        """Make the job of one clip, as the command for one clip does."""
        return detectors_run.Job(self.plugin, self.detector, clip, self.selection)

    def header(self) -> Header:
        """Make the header of all results, without clips."""
        settings = self.job(Path()).settings()
        return Header(self.name, settings, vocabulary=self.vocabulary.header_entry())

    def ready(self) -> None:
        """Load the model."""
        detectors_run.check_ready(self.plugin)

    def run(self, clip: Path, folder: Path, progress: Progress) -> Path:
        """Write the items of a clip.

        Raises:
            AnswerError: frames are without a usable answer of a model; the next run asks again.
        """
        job, out = self.job(clip), folder / f"items{self.suffix}"
        detectors_run.run_to_file(job, out, progress=progress)
        if open_frames := detectors_run.unanswered_frames(job, out):
            out.unlink()
            raise AnswerError(f"{len(open_frames)} frames are without a usable answer")
        return out


@dataclass(frozen=True)
class SegmentStage(_StageOptions):
    """Segment whole frames; `options` are the fields of the segmenter that are set."""

    engine: str = "slic"
    options: Mapping[str, Any] = field(default_factory=dict)
    selection: FrameSelection = field(default_factory=FrameSelection)

    name: ClassVar[str] = "segment"
    suffix: ClassVar[str] = ITEMS_SUFFIX

    @cached_property
    def plugin(self) -> segmenters.Segmenter:
        """The segmenter."""
        return segmenters.SEGMENTERS.load(self.engine, **self.options)

    def job(self, clip: Path) -> segmenters.Job:
        """Make the job of one clip."""
        return segmenters.Job(self.plugin, self.engine, clip, self.selection)

    def header(self) -> Header:
        """Make the header of all results, without clips."""
        return Header(self.name, self.job(Path()).settings())

    def ready(self) -> None:
        """Load the network."""
        optional_member(self.plugin, "ready")()

    def run(self, clip: Path, folder: Path, progress: Progress) -> Path:
        """Write the items of a clip."""
        out = folder / f"items{self.suffix}"
        segmenters.run_to_file(self.job(clip), out, progress=progress)
        return out


@dataclass(frozen=True)
class ResultsOf:
    """The results of an earlier stage in the output of its batch."""

    stage: Stage
    place: Path | str

    def file(self, clip: Path) -> Path:
        """Return the result of a clip.

        Raises:
            ItemsError: there is none.
        """
        return open_store(self.place).fetch(current_key(self.stage, clip), self.stage.suffix)


@dataclass(frozen=True)
class PropagateStage(_StageOptions):
    """Propagate the prompts of each clip.

    `points` is a CSV file with the column `video`: the name of a clip, or the end of its path.
    `boxes` is a file of items, a folder of them, such as an earlier batch, or results of a stage.
    """

    engine: str = "light"
    options: Mapping[str, Any] = field(default_factory=dict)
    points: Path | None = None
    boxes: Path | ResultsOf | None = None
    min_score: float = propagator_boxes.MIN_SCORE
    vocabulary: Vocabulary | None = None
    both_directions: bool = False
    start: int = 0
    stop: int | None = None

    name: ClassVar[str] = "propagate"
    suffix: ClassVar[str] = ITEMS_SUFFIX

    @cached_property
    def plugin(self) -> propagators_job.Propagator:
        """The engine."""
        return propagators_job.PROPAGATORS.load(self.engine, **self.options)

    def header(self) -> Header:
        """Make the header of all results, without clips and prompts."""
        settings = {"engine": self.engine, "start": self.start, "stop": self.stop}
        settings |= {"both": self.both_directions, "least": self.min_score}
        settings |= propagators_job.engine_settings(self.plugin)
        vocabulary = {} if self.vocabulary is None else self.vocabulary.header_entry()
        return Header(self.name, settings, vocabulary=vocabulary)

    def inputs(self, clip: Path) -> Mapping[str, str]:
        """Return the hash of the clip's rows in the table, and of its file of boxes."""
        inputs = {}
        rows = self._rows(clip)
        if rows is not None:
            inputs["points"] = hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()
        if self.boxes is not None:
            inputs["boxes"] = sha256(self._boxes_file(clip))
        return inputs

    def ready(self) -> None:
        """Load the network."""
        optional_member(self.plugin, "ready")()

    def job(self, clip: Path) -> propagators_job.Job:
        """Make the job of one clip.

        Raises:
            PromptError, ItemsError: the prompts do not fit the clip.
        """
        video = reader.probe(clip)
        classes = None if self.vocabulary is None else self.vocabulary.labels
        scope = clip_scope(video, classes)
        rows = self._rows(clip)
        table = prompt_table(None if rows is None else points.read_points(rows, scope), scope=scope)
        detected = None
        if self.boxes is not None:
            file = self._boxes_file(clip)
            detected = propagator_boxes.read(file, video, self.min_score, classes)
        return propagators_job.Job(
            self.plugin,
            self.engine,
            clip,
            table,
            self.start,
            self.stop,
            self.both_directions,
            self.vocabulary,
            detected,
        )

    def run(self, clip: Path, folder: Path, progress: Progress) -> Path:
        """Write the items of a clip."""
        out = folder / f"items{self.suffix}"
        propagators_run.run_to_file(self.job(clip), out, progress=progress)
        return out

    @cached_property
    def _tables(self) -> Mapping[str, pd.DataFrame]:
        """The rows of each value of `video`."""
        assert self.points is not None
        table = points.read_table(self.points)
        if "video" not in table.columns:
            raise PromptError(
                f"{self.points}: no column 'video': of several clips, each row names its clip"
            )
        groups = table.groupby("video", sort=False)
        return {str(name): rows.drop(columns="video") for name, rows in groups}

    def _rows(self, clip: Path) -> pd.DataFrame | None:
        if self.points is None:
            return None
        parts = clip.absolute().parts
        matching = [n for n in self._tables if (own := Path(n).parts) and parts[-len(own) :] == own]
        if not matching and self.boxes is None:
            raise PromptError(f"{self.points}: no row has {clip.name!r} in the column 'video'")
        return self._tables[max(matching, key=len)] if matching else None

    def _boxes_file(self, clip: Path) -> Path:
        assert self.boxes is not None
        if isinstance(self.boxes, ResultsOf):
            return self.boxes.file(clip)
        if not self.boxes.is_dir():
            return self.boxes
        fingerprint = clip_fingerprint(clip)
        if fingerprint not in self._boxes_files:
            raise ItemsError(f"{self.boxes}: no file of items of {clip.name} in it")
        return self._boxes_files[fingerprint]

    @cached_property
    def _boxes_files(self) -> Mapping[str, Path]:
        """The files of items in the folder, by the fingerprints of their clips."""
        assert isinstance(self.boxes, Path)
        return files_by_clip(sorted(self.boxes.rglob(f"*{ITEMS_SUFFIX}")))


@dataclass(frozen=True)
class FramesStage(_StageOptions):
    """Save the frames worth keeping of each clip; a result is an archive of the folder."""

    sampling_options: SamplingOptions = field(default_factory=SamplingOptions)
    filter_options: FilterOptions = field(default_factory=FilterOptions)
    max_frames: int | None = None  # of each clip
    image_format: str = "png"

    name: ClassVar[str] = "frames"
    suffix: ClassVar[str] = archive.SUFFIX

    def job(self, *clips: Path) -> sampling_run.Job:
        """Make the job of one clip."""
        return sampling_run.Job(
            clips, self.sampling_options, self.filter_options, self.max_frames, self.image_format
        )

    def header(self) -> Header:
        """Make the header of all results, without clips; it has the hashes of ignored areas."""
        return Header(self.name, self.job().settings())

    def ready(self) -> None:
        """Check that shots can be detected."""
        if self.sampling_options.shots:
            needs("scenedetect")

    def run(self, clip: Path, folder: Path, progress: Progress) -> Path:
        """Write the archive of a clip's folder of frames."""
        filled = folder / "frames"
        sampling_run.fill_folder(self.job(clip), filled, progress=progress)
        return archive.pack(filled, folder / f"frames{self.suffix}")


@dataclass(frozen=True)
class ScenesStage(_StageOptions):
    """Store the scenes of each clip; a result is a database of one clip, for `library.merge`."""

    selection: FrameSelection = field(default_factory=FrameSelection)

    name: ClassVar[str] = "scenes"
    suffix: ClassVar[str] = scenes_store.SUFFIX

    def header(self) -> Header:
        """Make the header of all results, without clips."""
        settings = asdict(library.stored_selection(self.selection))
        return Header(self.name, settings | {"format": scenes_store.FORMAT_VERSION})

    def ready(self) -> None:
        """Do nothing: no model is loaded."""

    def run(self, clip: Path, folder: Path, progress: Progress) -> Path:
        """Write the database of a clip.

        Raises:
            OutputError: it cannot be written.
        """
        out = folder / f"scenes{self.suffix}"
        try:
            library.add([clip], out, self.selection, progress)
        except ScenesError as error:
            raise OutputError(str(error)) from None
        return out
