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
from annotate.errors import AnswerError, needs
from annotate.files import atomic_file, refuse_existing
from annotate.items.records import Frame, Picture, Vocabulary
from annotate.plugins import RUNTIME_ONLY
from annotate.progress import Notes
from annotate.video import reader
from annotate.vlm.budget import Prices, UsageMeter, UsageTotal
from annotate.vlm.moondream import STATION_URL, Moondream
from annotate.vlm.retry import RetryPolicy, map_threads
from annotate.vocabulary import detector_phrases

if TYPE_CHECKING:
    import pandas as pd


_POINT_COLUMNS = ("frame_id", "object_id", "x", "y", "label", "class")
# As a fraction of the diagonal: nearer points of two phrases of a class are one object.
_DUPLICATE_DISTANCE = 0.02
_NO_AREA = "boxes were left out, for they have no area"
_NO_ANSWER = "frames have no usable answer, only boxes without area: they are left out"
_PIXEL_DIGITS = 1  # decimals of a coordinate in the points table


def make_vocabulary(texts: Iterable[str], label: str | None = None) -> Vocabulary:
    """Make a vocabulary of phrases; each phrase is its own class, or all are the class `label`.

    Examples:
        >>> make_vocabulary(["red mech"], "mech").classes
        {'mech': {'moondream': ['red mech']}}
    """
    classes: dict[str, dict[str, list[str]]] = {}
    for text in texts:
        classes.setdefault(label or text, {"moondream": []})["moondream"].append(text)
    return Vocabulary("asked", classes, "")


def points_table(
    clip: Path, vocabulary: Vocabulary, frames: Iterable[int], options: Mapping[str, Any]
) -> pd.DataFrame:
    """Make a points table by asking Moondream for the vocabulary's objects on some frames.

    Moondream does not recognize an object again on another frame, so every point gets an
    `object_id` of its own: give the same one to the points of one object, or it is propagated
    twice. `options` are those of the detector `moondream`.

    Raises:
        AnswerError: no point was found, or no answer came.
        PromptError: the vocabulary has no phrases for Moondream.
    """
    import pandas as pd

    detector: Any = DETECTORS.load("moondream", vocabulary, **options)
    check_ready(detector)
    indices = sorted(set(frames))
    rows = [
        row for frame in reader.frames_at(clip, indices) for row in _frame_points(frame, detector)
    ]
    if not rows:
        phrases = detector_phrases(vocabulary, "moondream")
        texts = ", ".join(repr(phrase.text) for phrase in phrases)
        raise AnswerError(
            f"{clip}: Moondream sees no {texts} on frame {', '.join(map(str, indices))}: "
            "try other frames or other phrases"
        )
    numbered = [(frame, number, *rest) for number, (frame, *rest) in enumerate(rows, start=1)]
    return pd.DataFrame(numbered, columns=list(_POINT_COLUMNS))


def _frame_points(frame: Frame, detector: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one frame, without the object ids."""
    image = detector.moondream.encode_image(frame.image)
    min_distance = _DUPLICATE_DISTANCE * math.hypot(*frame.size_wh)
    kept: list[tuple[int, tuple[float, float]]] = []
    for phrase in detector_phrases(detector.vocabulary, "moondream"):
        for x, y in image.points(phrase.text):
            same_class = [xy for class_id, xy in kept if class_id == phrase.class_id]
            if any(math.dist((x, y), xy) < min_distance for xy in same_class):
                continue
            kept.append((phrase.class_id, (x, y)))
            label = detector.vocabulary.labels[phrase.class_id]
            yield frame.index, round(x, _PIXEL_DIGITS), round(y, _PIXEL_DIGITS), 1, label


def write_points(points: pd.DataFrame, out: Path, *, force: bool = False) -> None:
    """Write a points table as CSV.

    Raises:
        OutputError: the file exists and `force` is not given, or it cannot be written.
    """
    refuse_existing(out, force)
    with atomic_file(out) as draft:
        points.to_csv(draft, index=False)


@dataclass(frozen=True)
class MoondreamDetector:
    """Ask Moondream for the boxes of each phrase, one question a phrase, without scores.

    `endpoint` is a Moondream Station, or https://api.moondream.ai/v1; `key` names the environment
    variable of the API key. `local` names weights to run on this machine instead, through
    transformers; they bring Python code, which runs only with `trust_remote_code`.
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
        """The model that is asked; it also points, captions and answers questions."""
        retry_policy, meter = RetryPolicy(self.tries, self.wait_seconds), UsageMeter(Prices())
        settings = (self.max_objects, self.timeout_seconds, retry_policy, meter, self.cache)
        if not self.local:
            return Moondream(self.endpoint, self.key, self.model, *settings)
        from annotate.vlm.moondream import load_local

        model = load_local(self.local, trust_remote_code=self.trust_remote_code, device=self.device)
        return Moondream("transformers", "", self.local, *settings, model)

    @property
    def usage(self) -> UsageTotal:
        """Requests so far, and their tokens."""
        return self.moondream.meter.total

    @property
    def notes(self) -> Notes:
        """What a run may have missed: objects beyond the limit, answers that were not kept."""
        return self.moondream.notes

    def ready(self) -> None:
        """Check for phrases, and for the package or the weights.

        Raises:
            PromptError, MissingPackage, WeightsError: say what is missing.
        """
        detector_phrases(self.vocabulary, "moondream")
        if self.local:
            _ = self.moondream
        else:
            needs("moondream")

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes for each frame, those of a class's first phrase first.

        Raises:
            AnswerError: no answer, or none that can be parsed.
        """
        self.ready()
        phrases, moondream = detector_phrases(self.vocabulary, "moondream"), self.moondream

        def propose(frame: Frame) -> sv.Detections:
            image = moondream.encode_image(frame.image)
            found = [PhraseBox(each, box) for each in phrases for box in image.boxes(each.text)]
            flat_count = sum(
                x1 == x2 or y1 == y2 for x1, y1, x2, y2 in (each.box for each in found)
            )
            if flat_count:
                self.notes.add(_NO_AREA, frame.name, count=flat_count)
            if found and flat_count == len(found):
                self.notes.add_open_frame((frame.video, frame.index), _NO_ANSWER, frame.name)
            return to_detections(found, frame.size_wh)

        return map_threads(propose, frames, self.parallel)

    def caption(self, image: Picture, length: str = "normal") -> str:
        """Describe a picture, (H, W, 3) RGB, in words; `length` is short, normal or long.

        Raises:
            AnswerError: no answer, or none that can be parsed.
        """
        return self.moondream.encode_image(image).caption(length)

    def query(self, image: Picture, question: str) -> str:
        """Answer a question about a picture, (H, W, 3) RGB."""
        return self.moondream.encode_image(image).query(question)
