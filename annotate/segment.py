"""The Segmenter contract: cut a picture into all its parts; a segmenter run over frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from annotate import items, journal, masks, plugins, video
from annotate.records import Frame, Item, Rle
from annotate.sample import Choice

if TYPE_CHECKING:
    import supervision as sv

GROUP = "annotate.segmenters"
LABEL = "segment"  # the class of every part: nobody has said yet what it is


class Segmenter(Protocol):
    """A frozen dataclass whose fields are its options."""

    def segment(self, frame: Frame) -> sv.Detections:
        """The parts of a picture.

        `mask` (compact, where they are many) and `confidence` are always set, NaN where there is no
        score; `class_id` is 0.
        """


def names() -> list[str]:
    """The installed segmenters; none is imported."""
    return plugins.names(GROUP)


def load(name: str, **options: Any) -> Segmenter:
    """The segmenter `name`.

    Raises:
        UnknownName: nothing is installed under that name, or it has no such option.
    """
    segmenter: Segmenter = plugins.make(GROUP, name, **options)
    return segmenter


def parse_options(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Option texts for the segmenter `name`, as its fields' types.

    Raises:
        UnknownName: the segmenter has no such option.
    """
    return plugins.parse_options(plugins.find(GROUP, name), name, texts)


def detections(
    rles: Sequence[Rle], scores: Sequence[float], size_wh: tuple[int, int]
) -> sv.Detections:
    """Parts as what a segmenter returns; empty masks are left out."""
    import supervision as sv

    found = [(r, box, s) for r, s in zip(rles, scores, strict=True) if (box := masks.box(r))]
    if not found:
        return sv.Detections.empty()
    kept, boxes, confidences = zip(*found, strict=True)
    xyxy, (width, height) = np.array(boxes, np.float64), size_wh
    return sv.Detections(
        xyxy,
        mask=sv.CompactMask.from_coco_rle(kept, xyxy, (height, width)),
        confidence=np.array(confidences, np.float64),
        class_id=np.zeros(len(kept), int),
    )


@dataclass(frozen=True)
class Job:
    """A segmenter, a clip or picture, and which frames to cut up; `source` is its name."""

    segmenter: Segmenter
    source: str
    clip: Path
    choice: Choice = field(default_factory=Choice)

    def header(self) -> journal.Header:
        """What the file of items is stamped with: everything that shapes it."""
        told: dict[str, Any] = {"segmenter": self.source}
        told |= dataclasses.asdict(self.segmenter)  # type: ignore[call-overload]  # a dataclass
        told |= dataclasses.asdict(self.choice)
        words = {"name": "", "sha256": "", "labels": [LABEL]}
        clip = journal.about(video.probe(self.clip))
        return journal.Header("segment", told, vocabulary=words, videos=clip)


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
        SettingsDiffer, OutputError, VideoError, MissingPackage: see `annotate.errors`.
    """
    with journal.append(out, job.header(), force=force) as file:
        if file.complete:
            return False
        done = -1 if file.last is None else file.last.frame
        for frame in job.choice.frames(job.clip):
            if frame.index > done:
                found = job.segmenter.segment(frame)
                item = items.from_detections(frame, found, {0: LABEL}, job.source)
                file.write(item)
                progress(item)
        file.finish()
    return True
