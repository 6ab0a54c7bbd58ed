"""Points on things that words name, as a table that `annotate propagate -p` starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate import detect, video
from annotate.drafts import new_file
from annotate.errors import AnswerError, OutputError
from annotate.phrasing import phrases
from annotate.records import Frame, Vocabulary

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("frame_id", "object_id", "x", "y", "label", "class")
_SAME = 0.02  # of the picture's diagonal: as near, two phrases of a class point at one thing
_DIGITS = 1  # of a pixel


def asked(told: Iterable[str], label: str | None = None) -> Vocabulary:
    """A vocabulary of phrases asked for there and then; each is its own class, or all are `label`.

    >>> asked(["red mech"], "mech").classes
    {'mech': {'moondream': ['red mech']}}
    """
    classes: dict[str, dict[str, list[str]]] = {}
    for phrase in told:
        classes.setdefault(label or phrase, {"moondream": []})["moondream"].append(phrase)
    return Vocabulary("asked", classes, "")


def point(
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

    detector: Any = detect.load("moondream", vocabulary, **options)
    detect.ready(detector)
    wanted = sorted(set(frames))
    rows = [row for frame in video.frames_at(clip, wanted) for row in _on(frame, detector)]
    if not rows:
        told = ", ".join(repr(phrase.text) for phrase in phrases(vocabulary, "moondream"))
        where = ", ".join(map(str, wanted))
        raise AnswerError(f"{clip}: Moondream sees no {told} on frame {where}: try others of both")
    numbered = [(frame, number, *rest) for number, (frame, *rest) in enumerate(rows, start=1)]
    return pd.DataFrame(numbered, columns=list(_COLUMNS))


def _on(frame: Frame, detector: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of one frame, without the object's number."""
    seen = detector.moondream.see(frame.image)
    near = _SAME * math.hypot(*frame.size_wh)
    known: list[tuple[int, float, float]] = []
    for phrase in phrases(detector.vocabulary, "moondream"):
        for x, y in seen.points(phrase.text):
            if any(i == phrase.class_id and math.dist((x, y), at) < near for i, *at in known):
                continue
            known.append((phrase.class_id, x, y))
            label = detector.vocabulary.labels[phrase.class_id]
            yield frame.index, round(x, _DIGITS), round(y, _DIGITS), 1, label


def write(points: pd.DataFrame, out: Path, *, force: bool = False) -> None:
    """Write a points table as CSV.

    Raises:
        OutputError: it is there already and `force` is not given, or nothing can be written there.
    """
    if out.exists() and not force:
        raise OutputError(f"{out}: is there already: give another -o, or --force to write over it")
    with new_file(out) as draft:
        points.to_csv(draft, index=False)
