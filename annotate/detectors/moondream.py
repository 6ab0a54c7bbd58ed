"""Detect and point by asking Moondream: a Station, the cloud or the local model.

Moondream answers one question for each phrase and gives no scores. Pointing makes a points table
that a propagation can start from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import supervision as sv

from annotate.detectors.phrases import PhraseBox, to_detections
from annotate.detectors.run import DETECTORS, check_ready
from annotate.errors import AnswerError, OutputError, needs
from annotate.files import atomic_file
from annotate.items.records import Frame, Picture, Vocabulary
from annotate.plugins import RUNTIME_ONLY
from annotate.video import reader
from annotate.vlm.budget import Prices, UsageMeter, UsageTotal
from annotate.vlm.moondream import STATION_URL, Moondream
from annotate.vlm.retry import RetryPolicy, map_threads
from annotate.vocabulary import detector_phrases

if TYPE_CHECKING:
    import pandas as pd


_POINT_COLUMNS = ("frame_id", "object_id", "x", "y", "label", "class")
_DUPLICATE_DISTANCE = (
    0.02  # of the picture's diagonal: as near, two phrases of a class point at one thing
)
_PIXEL_DIGITS = 1  # of a pixel


def make_vocabulary(texts: Iterable[str], label: str | None = None) -> Vocabulary:
    """A vocabulary of phrases asked for there and then; each is its own class, or all are `label`.

    >>> asked(["red mech"], "mech").classes
    {'mech': {'moondream': ['red mech']}}
    """
    classes: dict[str, dict[str, list[str]]] = {}
    for phrase in texts:
        classes.setdefault(label or phrase, {"moondream": []})["moondream"].append(phrase)
    return Vocabulary("asked", classes, "")


def points_table(
    clip: Path, vocabulary: Vocabulary, frames: Iterable[int], options: Mapping[str, Any]
) -> pd.DataFrame:
    """A points table of what Moondream sees of the vocabulary on some frames of a clip.

    Every point is an object of its own, on whatever frame: give two that are one thing the same
    `object_id` by hand. `options` are those of the detector `moondream`.

    Raises:
        AnswerError: nothing at all is seen, or no answer came.
        PromptError: the vocabulary tells Moondream nothing.
    """
    import pandas as pd

    detector: Any = DETECTORS.load("moondream", vocabulary, **options)
    check_ready(detector)
    wanted = sorted(set(frames))
    rows = [
        row for frame in reader.frames_at(clip, wanted) for row in _frame_points(frame, detector)
    ]
    if not rows:
        told = ", ".join(repr(phrase.text) for phrase in detector_phrases(vocabulary, "moondream"))
        where = ", ".join(map(str, wanted))
        raise AnswerError(f"{clip}: Moondream sees no {told} on frame {where}: try others of both")
    numbered = [(frame, number, *rest) for number, (frame, *rest) in enumerate(rows, start=1)]
    return pd.DataFrame(numbered, columns=list(_POINT_COLUMNS))


def _frame_points(frame: Frame, detector: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of one frame, without the object's number."""
    seen = detector.moondream.see(frame.image)
    near = _DUPLICATE_DISTANCE * math.hypot(*frame.size_wh)
    known: list[tuple[int, float, float]] = []
    for phrase in detector_phrases(detector.vocabulary, "moondream"):
        for x, y in seen.points(phrase.text):
            if any(i == phrase.class_id and math.dist((x, y), at) < near for i, *at in known):
                continue
            known.append((phrase.class_id, x, y))
            label = detector.vocabulary.labels[phrase.class_id]
            yield frame.index, round(x, _PIXEL_DIGITS), round(y, _PIXEL_DIGITS), 1, label


def write_points(points: pd.DataFrame, out: Path, *, force: bool = False) -> None:
    """Write a points table as CSV.

    Raises:
        OutputError: it is there already and `force` is not given, or nothing can be written there.
    """
    if out.exists() and not force:
        raise OutputError(f"{out}: is there already: give another -o, or --force to write over it")
    with atomic_file(out) as draft:
        points.to_csv(draft, index=False)


@dataclass(frozen=True)
class MoondreamDetector:
    """Boxes that Moondream gives for each class's phrases, one question a phrase, without scores.

    `endpoint` is a Moondream Station, or https://api.moondream.ai/v1; `key` names an environment
    variable. `local` asks the weights of that name on this machine instead, through transformers;
    they bring Python code, which runs only with `trust_remote_code`.
    """

    vocabulary: Vocabulary
    endpoint: str = STATION_URL
    key: str = ""
    model: str = ""
    local: str = ""
    trust_remote_code: bool = False
    device: str = "cpu"
    max_objects: int = 50
    parallel: int = field(default=1, metadata=RUNTIME_ONLY)
    timeout_seconds: float = field(default=60.0, metadata=RUNTIME_ONLY)
    tries: int = field(default=5, metadata=RUNTIME_ONLY)
    wait_seconds: float = field(default=1.0, metadata=RUNTIME_ONLY)
    cache: bool = field(default=True, metadata=RUNTIME_ONLY)

    @cached_property
    def moondream(self) -> Moondream:
        """Who is asked; it points, captions and answers too."""
        patience, meter = RetryPolicy(self.tries, self.wait_seconds), UsageMeter(Prices())
        asked = (self.max_objects, self.timeout_seconds, patience, meter, self.cache)
        if not self.local:
            return Moondream(self.endpoint, self.key, self.model, *asked)
        from annotate.vlm.moondream import load_local

        speaker = load_local(
            self.local, trust_remote_code=self.trust_remote_code, device=self.device
        )
        return Moondream("transformers", "", self.local, *asked, speaker)

    @property
    def usage(self) -> UsageTotal:
        """What this detector has asked so far."""
        return self.moondream.meter.total

    def ready(self) -> None:
        """Refuse to begin without words to ask with, or without what answers.

        Raises:
            PromptError, MissingPackage, WeightsError: say what is missing.
        """
        detector_phrases(self.vocabulary, "moondream")
        if self.local:
            _ = self.moondream
        else:
            needs("moondream")

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, those of a class's first phrase first.

        Raises:
            AnswerError: no answer, or none that can be read.
        """
        self.ready()
        asked, moondream = detector_phrases(self.vocabulary, "moondream"), self.moondream

        def propose(frame: Frame) -> sv.Detections:
            seen = moondream.encode_image(frame.image)
            found = [PhraseBox(phrase, box) for phrase in asked for box in seen.boxes(phrase.text)]
            return to_detections(found, frame.size_wh)

        return map_threads(propose, frames, self.parallel)

    def caption(self, image: Picture, length: str = "normal") -> str:
        """What is to be seen on a picture, RGB, in words: short, normal or long.

        Raises:
            AnswerError: no answer, or none that can be read.
        """
        return self.moondream.encode_image(image).caption(length)

    def query(self, image: Picture, question: str) -> str:
        """The answer to a question about a picture, RGB."""
        return self.moondream.encode_image(image).query(question)
