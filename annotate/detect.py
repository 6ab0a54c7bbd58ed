"""The Detector contract; detectors by name; a detector run over frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from annotate import items, journal, plugins, video
from annotate.records import Frame, Item, Vocabulary
from annotate.sample import Choice

if TYPE_CHECKING:
    import supervision as sv

GROUP = "annotate.detectors"


class Detector(Protocol):
    """A frozen dataclass whose first field is the vocabulary and whose other fields are options.

    It can be made without a server, weights or a package; what it lacks it says in `propose`, and
    before a file is begun in `ready()`, if it has that.
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


def names() -> list[str]:
    """The installed detectors; none is imported."""
    return plugins.names(GROUP)


def load(name: str, vocabulary: Vocabulary, **options: Any) -> Detector:
    """The detector `name`, told what to look for.

    Raises:
        UnknownName: nothing is installed under that name, or it has no such option.
    """
    detector: Detector = plugins.make(GROUP, name, vocabulary, **options)
    return detector


def parse_options(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Option texts for the detector `name`, as its fields' types.

    Raises:
        UnknownName: the detector has no such option.
    """
    return plugins.parse_options(plugins.find(GROUP, name), name, texts)


def settings(detector: Detector) -> Mapping[str, Any]:
    """The options that shape what it finds as they are set, those of detectors inside it too.

    An option whose field is marked `plugins.ASIDE` shapes nothing: a time-out, a budget.
    """
    return {name: _told(value) for name, value in _fields(detector)}


def _fields(detector: Detector) -> Iterator[tuple[str, Any]]:
    for field_ in dataclasses.fields(detector):  # type: ignore[arg-type]  # the contract
        if field_.name != "vocabulary" and not plugins.ASIDE.items() <= field_.metadata.items():
            yield field_.name, getattr(detector, field_.name)


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _told(each) for name, each in value.items()}
    return settings(value) if hasattr(value, "propose") else value


def ready(detector: Detector) -> None:
    """Let a detector refuse before a file is begun: one may have `ready()`, which raises."""
    for inner in plugins.inside(detector):
        ready(inner)
    getattr(detector, "ready", lambda: None)()


def run(
    detector: Detector, frames: Iterable[Frame], source: str, *, batch: int = 8
) -> Iterator[Item]:
    """Items, one for each frame, in order; at most `batch` frames are held at a time."""
    labels = dict(enumerate(detector.vocabulary.labels))
    waiting = iter(frames)
    while held := list(islice(waiting, batch)):
        for frame, found in zip(held, detector.propose(held), strict=True):
            yield items.from_detections(frame, found, labels, source)


@dataclass(frozen=True)
class Job:
    """A detector, a clip, and which of its frames to look at; `source` is the detector's name."""

    detector: Detector
    source: str
    clip: Path
    choice: Choice = field(default_factory=Choice)

    def header(self) -> journal.Header:
        """What the file of items is stamped with: everything that shapes it."""
        told = {"detector": self.source, **settings(self.detector)}
        told |= dataclasses.asdict(self.choice)
        clip = journal.about(video.probe(self.clip))
        return journal.Header(
            "detect", told, vocabulary=self.detector.vocabulary.stamp(), videos=clip
        )


def into(
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
    ready(job.detector)
    with journal.append(out, job.header(), force=force) as file:
        if file.complete:
            return False
        done = -1 if file.last is None else file.last.frame
        frames = (frame for frame in job.choice.frames(job.clip) if frame.index > done)
        try:
            for item in run(job.detector, frames, job.source):
                file.write(item)
                progress(item)
        except BaseException:
            if not file.count:  # a start that failed, such as for want of a server, leaves nothing
                out.unlink(missing_ok=True)
            raise
        file.finish()
    return True
