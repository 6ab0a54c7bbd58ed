"""The Detector contract; detectors by name; a detector run over frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from annotate import items, journal, plugins
from annotate.records import Frame, Item, Vocabulary

if TYPE_CHECKING:
    import supervision as sv

GROUP = "annotate.detectors"


class Detector(Protocol):
    """A frozen dataclass whose first field is the vocabulary and whose other fields are options."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes it proposes."""

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, in order.

        `class_id` and `confidence` are always set (NaN where the model gives no score); nothing is
        in `data` or `metadata`.
        """


def names() -> list[str]:
    """The installed detectors; none is imported."""
    return plugins.names(GROUP)


def load(name: str, vocabulary: Vocabulary, **options: Any) -> Detector:
    """The detector `name`, told what to look for.

    Raises:
        UnknownName: nothing is installed under that name, or it has no such option.
    """
    plugin = plugins.find(GROUP, name)
    plugins.check_options(plugin, name, options)
    detector: Detector = plugin(vocabulary, **options)
    return detector


def settings(detector: Detector) -> Mapping[str, Any]:
    """The detector's options as they are set: what a file of items is stamped with."""
    fields = dataclasses.fields(detector)  # type: ignore[arg-type]  # the contract: a dataclass
    return {f.name: getattr(detector, f.name) for f in fields if f.name != "vocabulary"}


def run(
    detector: Detector, frames: Iterable[Frame], source: str, *, batch: int = 8
) -> Iterator[Item]:
    """Items, one for each frame, in order; at most `batch` frames are held at a time."""
    labels = dict(enumerate(detector.vocabulary.labels))
    waiting = iter(frames)
    while held := list(islice(waiting, batch)):
        for frame, found in zip(held, detector.propose(held), strict=True):
            yield items.from_detections(frame, found, labels, source)


def into(
    out: Path,
    header: journal.Header,
    propose: Callable[[Iterable[Frame]], Iterator[Item]],
    frames: Iterable[Frame],
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> None:
    """Write a file of items for `frames`; goes on behind the last frame that an equal run wrote.

    Raises:
        SettingsDiffer, OutputError: see `annotate.journal.append`.
    """
    with journal.append(out, header, force=force) as file:
        if file.complete:
            return
        done = -1 if file.last is None else file.last.frame
        for item in propose(frame for frame in frames if frame.index > done):
            file.write(item)
            progress(item)
        file.finish()
