"""Let detectors propose boxes on single frames of the point page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from annotate.detectors.run import (
    DETECTORS,
    Detector,
    check_ready,
    detect_frames,
    read_detector_vocabulary,
)
from annotate.errors import AnnotateError, UnknownName
from annotate.items.records import Frame, Object, Vocabulary
from annotate.propagators.boxes import MIN_SCORE
from annotate.web.point.tracking.engine_thread import give_way


@dataclass(frozen=True)
class OfferedDetector:
    """A detector by its name in the entry points, with its options; `text` is shown on the page."""

    text: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


def detectors_of(vocabulary: Vocabulary | None) -> list[OfferedDetector]:
    """List the installed detectors for which a class of the vocabulary has an entry."""
    if vocabulary is None:
        return []
    return [OfferedDetector(name, name) for name in DETECTORS.names() if vocabulary.phrases(name)]


class FrameDetectors:
    """The detectors of one session; each is loaded when it is first asked."""

    def __init__(
        self,
        offered: Sequence[OfferedDetector] = (),
        vocabulary: Vocabulary | None = None,
        min_score: float = MIN_SCORE,
    ) -> None:
        """Offer detectors; boxes with a score below `min_score` are left out."""
        self._offered = {each.text: each for each in offered}
        self._vocabulary, self._min_score = vocabulary, min_score
        self._loaded: dict[str, Detector] = {}
        self._thread = ThreadPoolExecutor(1, "annotate-detect", give_way)

    @property
    def texts(self) -> list[str]:
        """The texts of the offered detectors, in order."""
        return list(self._offered)

    def close(self) -> None:
        """Stop after the detector that runs."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def propose(self, text: str, frame: Frame) -> list[Object]:
        """Return the boxes that an offered detector finds on a frame; one request runs at a time.

        Raises:
            UnknownName: it is not offered.
            AnnotateError: it is not ready, fails, or gives no usable answer.
        """
        if text not in self._offered:
            raise UnknownName("detector", text, self._offered)
        return self._thread.submit(self._propose, self._offered[text], frame).result()

    def _propose(self, offered: OfferedDetector, frame: Frame) -> list[Object]:
        try:
            if offered.text not in self._loaded:
                words = read_detector_vocabulary(self._vocabulary, offered.options)
                loaded = DETECTORS.load(offered.name, words, **offered.options)
                check_ready(loaded)
                self._loaded[offered.text] = loaded
            items = list(detect_frames(self._loaded[offered.text], [frame], offered.name))
        except AnnotateError:
            raise
        except Exception as error:  # a plugin's own: the page shows it and goes on
            what = f"{type(error).__name__}: {error}"
            raise AnnotateError(f"the detector {offered.text} failed: {what}") from error
        if not items:
            raise AnnotateError(f"the detector {offered.text} gave no usable answer: ask it again")
        (item,) = items
        return [obj for obj in item.objects if obj.score is None or obj.score >= self._min_score]
