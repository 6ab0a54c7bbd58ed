"""Detect by asking a vision-language model behind an OpenAI-compatible endpoint.

All phrases go into one question. Optionally a reference image is shown, and each box is refined by
asking again on a crop round it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv

from annotate.detectors.phrases import PhraseBox, crop, iou, match_phrase, to_detections
from annotate.errors import AnswerError, UnreadableAnswer, VideoError, needs
from annotate.items.records import Box, Frame, Picture, Vocabulary
from annotate.plugins import RUNTIME_ONLY
from annotate.video.images import read_image
from annotate.vlm import messages
from annotate.vlm.budget import Prices, UsageMeter, UsageTotal
from annotate.vlm.client import Chat, read_model_notes
from annotate.vlm.coordinates import BoxFormat
from annotate.vlm.messages import ParsedBox
from annotate.vlm.retry import RetryPolicy, map_threads
from annotate.vocabulary import Phrase, detector_phrases

_SEARCHED_IMAGE = "B"  # what a question with a reference calls the picture to be searched
_CAPTION_PROMPT = "caption.v1"


@dataclass(frozen=True)
class VlmDetector:
    """Boxes that a vision-language model gives for each class's phrases, all in one question.

    `key` names an environment variable. `convention` is how the model counts: what `annotate
    calibrate` found out, or one such as "relative 1000 xyxy". `way` is tool, schema, json or auto.
    The picture is sent with its longest side made `side` pixels (0: as it is), as a JPEG of full
    colour. `refine` asks again on a crop round each box. `reference` is a picture of what is looked
    for. `unreadable` is what becomes of a frame whose answer cannot be read: "stop", or "empty".
    Prices are for a million tokens; `budget` is for one run, in their currency.
    """

    vocabulary: Vocabulary
    model: str = ""
    url: str = "http://localhost:11434/v1"
    key: str = ""
    box_format: str = "calibrated"
    mode: str = "auto"
    prompt: str = ""
    reference: str = ""
    side: int = 1024
    detail: str | None = "high"
    refine: bool = False
    unreadable: str = "stop"
    temperature: float | None = 0.0
    max_tokens: int = 2048
    parallel: int = field(default=4, metadata=RUNTIME_ONLY)
    timeout_seconds: float = field(default=60.0, metadata=RUNTIME_ONLY)
    tries: int = field(default=5, metadata=RUNTIME_ONLY)
    wait_seconds: float = field(default=1.0, metadata=RUNTIME_ONLY)
    cache: bool = field(default=True, metadata=RUNTIME_ONLY)
    price_in: float = field(default=0.0, metadata=RUNTIME_ONLY)
    price_out: float = field(default=0.0, metadata=RUNTIME_ONLY)
    budget: float | None = field(default=None, metadata=RUNTIME_ONLY)
    coordinates: str = field(init=False)
    prompt_sha256: str = field(init=False)
    reference_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        self._check_choices()
        found = self.box_format
        if found == "calibrated":
            found = str(read_model_notes(self.url, self.model).get("convention", ""))
        object.__setattr__(self, "coordinates", str(BoxFormat.parse(found)) if found else "")
        object.__setattr__(self, "prompt_sha256", self._template.sha256)
        shown = Path(self.reference).read_bytes() if self._reference else b""
        object.__setattr__(
            self, "reference_sha256", hashlib.sha256(shown).hexdigest()[: 64 * bool(shown)]
        )

    def _check_model(self) -> None:
        if not self.model:
            raise AnswerError("vlm: which model? --set model=NAME, and --set url=ADDRESS")

    def _check_choices(self) -> None:
        for name, value, known in (
            ("way", self.mode, ("auto", "tool", "schema", "json")),
            ("unreadable", self.unreadable, ("stop", "empty")),
        ):
            if value not in known:
                raise AnswerError(f"vlm: {name} must be {' or '.join(known)}, got {value!r}")
        if self.side < 0:
            raise AnswerError(f"vlm: side must be 0 or more pixels, got {self.side}")
        if self.budget is not None and not self.price_in + self.price_out > 0:
            raise AnswerError("vlm: a budget needs prices: --set price_in=... --set price_out=...")

    @cached_property
    def _template(self) -> messages.Template:
        name = "boxes-with-reference.v1" if self.reference else "boxes.v1"
        return messages.load_template(self.prompt or name)

    @cached_property
    def _reference(self) -> dict[str, Any] | None:
        if not self.reference:
            return None
        try:
            shown = read_image(Path(self.reference))
        except VideoError as error:
            raise AnswerError(str(error)) from None
        return messages.image_part(messages.resize(shown, self.side), self.detail)

    @cached_property
    def chat(self) -> Chat:
        """The model that it asks, and what counts what that costs."""
        return Chat(
            self.url,
            self.model,
            self.key,
            self.mode,
            self.temperature,
            self.max_tokens,
            self.timeout_seconds,
            RetryPolicy(self.tries, self.wait_seconds),
            UsageMeter(Prices(self.price_in, self.price_out), self.budget),
            self.cache,
        )

    @property
    def usage(self) -> UsageTotal:
        """What this detector has asked so far, and what it cost."""
        return self.chat.meter.total

    def ready(self) -> None:
        """Refuse to begin without a model, its way to count, or words to ask with.

        Raises:
            AnswerError, PromptError, MissingPackage: say what is missing.
        """
        self._check_model()
        detector_phrases(self.vocabulary, "vlm")
        if not self.coordinates:
            asked = f"annotate calibrate --model {self.model} --url {self.url}"
            raise AnswerError(f"how {self.model} counts is not known: {asked}")
        needs("openai"), needs("json_repair")
        _ = self.chat  # made once, before threads share it: it counts what they spend

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, in the order of the model's answer.

        Raises:
            AnswerError: no answer, or none that can be read; see `unreadable`.
            BudgetSpent: the next question might cost more than the budget leaves.
        """
        self.ready()
        asked = detector_phrases(self.vocabulary, "vlm")
        return map_threads(lambda frame: self._propose(frame, asked), frames, self.parallel)

    def caption(self, image: Picture) -> str:
        """What is to be seen on a picture, RGB, in words.

        Raises:
            AnswerError: no model is named, or it gives no answer.
        """
        return self.query(image, messages.load_template(_CAPTION_PROMPT).text)

    def query(self, image: Picture, question: str) -> str:
        """The answer to a question about a picture, RGB."""
        self._check_model()
        shown = messages.image_part(messages.resize(image, self.side), self.detail)
        return self.chat.ask_text([shown, messages.text_part(question)], "a picture")

    def _propose(self, frame: Frame, phrases: Sequence[Phrase]) -> sv.Detections:
        found = self._ask(frame, phrases)
        if self.refine:
            found = [self._refine_box(frame, each) for each in found]
        return to_detections(found, frame.size_wh)

    def _ask(self, frame: Frame, phrases: Sequence[Phrase]) -> list[PhraseBox]:
        """The boxes on one picture, in its pixels."""
        picture = messages.resize(frame.image, self.side)
        told = [phrase.text for phrase in phrases]
        shown = [messages.image_part(picture, self.detail)]
        if self._reference:
            named = (
                messages.text_part("Picture A:"),
                messages.text_part(f"Picture {_SEARCHED_IMAGE}:"),
            )
            shown = [named[0], self._reference, named[1], *shown]
        try:
            said = self.chat.ask_boxes(
                [*shown, messages.text_part(self._template.fill(told))], told, frame.name
            )
            return self._to_phrase_boxes(said, frame, phrases, picture.size)
        except UnreadableAnswer:
            if self.unreadable == "stop":
                raise
            return []

    def _to_phrase_boxes(
        self,
        parsed_boxes: Sequence[ParsedBox],
        frame: Frame,
        phrases: Sequence[Phrase],
        sent_wh: tuple[int, int],
    ) -> list[PhraseBox]:
        """What was said, in the frame's pixels; boxes of other things and pictures are left out."""
        convention = BoxFormat.parse(self.coordinates)
        scale = np.tile(np.array(frame.size_wh) / np.array(sent_wh), 2)
        found, outside = [], 0
        for each in parsed_boxes:
            phrase = match_phrase(each.label, phrases)
            elsewhere = self._reference and each.image_id.upper() not in ("", _SEARCHED_IMAGE)
            if phrase is None or elsewhere:
                continue
            x1, y1, x2, y2 = (
                np.array(convention.xyxy(each.numbers, sent_wh, each.order)) * scale
            ).tolist()
            score = float("nan") if each.score is None else each.score
            if _fraction_inside((x1, y1, x2, y2), frame.size_wh) > 0.5:
                found.append(PhraseBox(phrase, (x1, y1, x2, y2), score))
            else:
                outside += 1
        if outside and not found:
            how = f"it may count otherwise than {self.coordinates!r}: annotate calibrate"
            raise UnreadableAnswer(f"{frame.name}: the boxes lie outside the picture; {how}")
        return found

    def _refine_box(self, frame: Frame, phrase_box: PhraseBox) -> PhraseBox:
        """The box as a second look sees it, at a crop round it; as it was if that sees none."""
        x1, y1, x2, y2 = phrase_box.box
        more = max(x2 - x1, y2 - y1, 32.0)  # pixels on each side: three boxes wide
        shown, (left, top) = crop(frame, phrase_box.box, more)
        seen = [
            (each.box[0] + left, each.box[1] + top, each.box[2] + left, each.box[3] + top)
            for each in self._ask(shown, [phrase_box.phrase])
        ]
        best = max(seen, key=lambda box: iou(box, phrase_box.box), default=phrase_box.box)
        return replace(phrase_box, box=best) if iou(best, phrase_box.box) > 0 else phrase_box


def _fraction_inside(box: Box, size_wh: tuple[int, int]) -> float:
    x1, y1, x2, y2 = box
    width = min(x2, size_wh[0]) - max(x1, 0.0)
    height = min(y2, size_wh[1]) - max(y1, 0.0)
    return max(width, 0.0) * max(height, 0.0) / max((x2 - x1) * (y2 - y1), 1e-9)
