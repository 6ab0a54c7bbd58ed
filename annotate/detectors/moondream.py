"""Ask Moondream for boxes: a station of one's own, the cloud, or the model on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import supervision as sv

from annotate.errors import needs
from annotate.found import Found, detections
from annotate.moondream_client import STATION, Moondream
from annotate.patience import Patience, several
from annotate.phrasing import phrases
from annotate.plugins import ASIDE
from annotate.records import Frame, Picture, Vocabulary
from annotate.spending import Bill, Meter, Prices


@dataclass(frozen=True)
class MoondreamDetector:
    """Boxes that Moondream gives for each class's phrases, one question a phrase, without scores.

    `endpoint` is a Moondream Station, or https://api.moondream.ai/v1; `key` names an environment
    variable. `local` asks the weights of that name on this machine instead, through transformers;
    they bring Python code, which runs only with `trust_remote_code`.
    """

    vocabulary: Vocabulary
    endpoint: str = STATION
    key: str = ""
    model: str = ""
    local: str = ""
    trust_remote_code: bool = False
    device: str = "cpu"
    max_objects: int = 50
    parallel: int = field(default=1, metadata=ASIDE)
    timeout: float = field(default=60.0, metadata=ASIDE)
    tries: int = field(default=5, metadata=ASIDE)
    wait: float = field(default=1.0, metadata=ASIDE)
    cache: bool = field(default=True, metadata=ASIDE)

    @cached_property
    def moondream(self) -> Moondream:
        """Who is asked; it points, captions and answers too."""
        patience, meter = Patience(self.tries, self.wait), Meter(Prices())
        asked = (self.max_objects, self.timeout, patience, meter, self.cache)
        if not self.local:
            return Moondream(self.endpoint, self.key, self.model, *asked)
        from annotate import moondream_local

        speaker = moondream_local.load(
            self.local, trust_remote_code=self.trust_remote_code, device=self.device
        )
        return Moondream("transformers", "", self.local, *asked, speaker)

    @property
    def bill(self) -> Bill:
        """What this detector has asked so far."""
        return self.moondream.meter.bill

    def ready(self) -> None:
        """Refuse to begin without words to ask with, or without what answers.

        Raises:
            PromptError, MissingPackage, WeightsError: say what is missing.
        """
        phrases(self.vocabulary, "moondream")
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
        asked, moondream = phrases(self.vocabulary, "moondream"), self.moondream

        def propose(frame: Frame) -> sv.Detections:
            seen = moondream.see(frame.image)
            found = [Found(phrase, box) for phrase in asked for box in seen.boxes(phrase.text)]
            return detections(found, frame.size_wh)

        return several(propose, frames, self.parallel)

    def caption(self, image: Picture, length: str = "normal") -> str:
        """What is to be seen on a picture, RGB, in words: short, normal or long.

        Raises:
            AnswerError: no answer, or none that can be read.
        """
        return self.moondream.see(image).caption(length)

    def query(self, image: Picture, question: str) -> str:
        """The answer to a question about a picture, RGB."""
        return self.moondream.see(image).query(question)
