"""Open the point page of a clip: find its files, load its engine and proposals."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from annotate import prompts
from annotate.active_learning.frame_list import ListedFrame, frames_of_clip, read_frame_list
from annotate.errors import OutputError
from annotate.items.records import Object, Vocabulary
from annotate.plugins import optional_member
from annotate.prompts import PromptTable
from annotate.propagators import boxes as detected_boxes
from annotate.propagators.job import PROPAGATORS, Job
from annotate.video import reader
from annotate.video.reader import Video
from annotate.web.point.app import serving
from annotate.web.point.detectors import FrameDetectors, OfferedDetector, detectors_of
from annotate.web.point.editor import Editor
from annotate.web.point.session import PointSession
from annotate.web.point.tracking.engine import PropagatorEngine
from annotate.web.point.writer import PropagatorWriter

_PORTS_TO_TRY = 20


@dataclass(frozen=True)
class PointFiles:
    """The files of a session: the points, the items that they give, and the dataset."""

    points: Path
    items: Path
    dataset: Path

    @classmethod
    def beside(cls, clip: Path, points: Path | None, items: Path | None) -> PointFiles:
        """Choose the files that are not given: in the working folder, by the clip's name."""
        points = points or Path(f"{clip.stem}-points.csv")
        items = items or points.with_name(f"{clip.stem}-masks.jsonl")
        return cls(points, items, items.with_name(f"{clip.stem}-dataset"))


@dataclass(frozen=True)
class PointOptions:
    """How the points of a clip are propagated, as `annotate propagate` has it."""

    engine: str = "light"
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: int = 0
    stop: int | None = None
    vocabulary: Vocabulary | None = None
    boxes: Path | None = None  # a file of items: boxes to accept as prompts
    min_score: float = detected_boxes.MIN_SCORE
    detectors: Sequence[OfferedDetector] = ()  # besides those that the vocabulary has entries for
    frame_list: Path | None = None  # CSV file of frames to label, as `annotate next` writes it

    def read_listed(self, video: Video) -> list[ListedFrame]:
        """Read the frames to label of a clip, by rank.

        Raises:
            ItemsError: the list cannot be read, or is of another clip.
        """
        if self.frame_list is None:
            return []
        return frames_of_clip(read_frame_list(self.frame_list), video, self.frame_list)


@contextmanager
def open_editor(clip: Path, files: PointFiles, options: PointOptions) -> Iterator[Editor]:
    """Open the editor of a clip while the context lasts.

    Raises:
        VideoError: the clip cannot be read.
        PromptError: the points cannot be used.
        UnknownName, MissingPackage, MissingWeights: the engine cannot be used.
        ItemsError, OutputError: the session or the list of frames is of another clip, or the
            session cannot be written.
    """
    video = reader.probe(clip)
    labels = None if options.vocabulary is None else options.vocabulary.labels
    scope = prompts.clip_scope(video, labels)
    plugin = PROPAGATORS.load(options.engine, **options.settings)
    optional_member(plugin, "ready")()
    table = PromptTable((), {})
    start, stop = options.start, options.stop
    reader.FrameSelection(start=start, stop=stop).check(clip)
    job = Job(plugin, options.engine, clip, table, start, stop, False, options.vocabulary)
    proposals: dict[int, Sequence[Object]] = {}
    if options.boxes is not None:
        detected = detected_boxes.read(options.boxes, video, options.min_score, labels)
        proposals = {item.frame: item.objects for item in detected.items()}
    listed = options.read_listed(video)
    writer = PropagatorWriter(job, files.points, files.items, files.dataset)
    backward = writer.saved_both_directions()
    session = PointSession(
        files.points, scope, {"clip": video.name, "fingerprint": video.fingerprint}
    )
    editor = Editor(
        video,
        session,
        PropagatorEngine(replace(job, both_directions=backward)),
        writer,
        options.engine,
        proposals,
        FrameDetectors(
            [*options.detectors, *detectors_of(options.vocabulary)],
            options.vocabulary,
            options.min_score,
        ),
        (start, min(filter(None, (stop, video.frame_count)), default=start)),
        listed,
    )
    editor.backward = backward
    try:
        yield editor
    finally:
        editor.close()


@contextmanager
def open_page(clip: Path, files: PointFiles, options: PointOptions, port: int = 0) -> Iterator[str]:
    """Serve the point page of a clip while the context lasts; gives its address.

    The next free port is taken where `port` is in use.

    Raises:
        AnnotateError: see `open_editor`.
    """
    with open_editor(clip, files, options) as editor, ExitStack() as stack:
        for candidate in range(port, port + _PORTS_TO_TRY) if port else [0]:
            try:
                address = stack.enter_context(serving(editor, candidate))
            except OSError:
                continue
            yield address
            return
        raise OutputError(
            f"the ports {port} to {port + _PORTS_TO_TRY - 1} are in use: give another `port`"
        )


def start_messages(address: str, files: PointFiles, port: int) -> list[str]:
    """Return what a person should know who opens the page: the files, and how to reach it."""
    used = urlsplit(address).port
    lines = [f"points: {files.points}, saved after every action; items: {files.items}"]
    if port and used != port:
        lines.append(f"port {port} is in use: the page is on {used}")
    if os.environ.get("SSH_CONNECTION"):
        host = os.environ["SSH_CONNECTION"].split()[2]
        lines.append(f"from your machine: ssh -L {used}:127.0.0.1:{used} {host}")
    return [*lines, "Ctrl-C stops the server"]


def open_browser(address: str, wanted: bool) -> None:
    """Open the page in the browser, unless the person sits at another machine."""
    if wanted and not os.environ.get("SSH_CONNECTION"):
        webbrowser.open(address)
