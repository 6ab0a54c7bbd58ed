"""Detect by asking a vision-language model behind an OpenAI-compatible endpoint.

All phrases go into one question. Optionally a reference image is shown first, and each box is
refined by asking again on a crop round it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv

from annotate import files
from annotate.detectors.phrases import PhraseBox, crop, match_phrase, to_detections
from annotate.errors import AnswerError, UnreadableAnswer, VideoError, needs
from annotate.items import boxes
from annotate.items.records import Box, Frame, Picture, Vocabulary
from annotate.plugins import RUNTIME_ONLY
from annotate.progress import Notes
from annotate.video.images import read_image
from annotate.vlm import messages
from annotate.vlm.answer_cache import read_model_notes
from annotate.vlm.answers import AnswerParseError, ParsedBox, count_unplaced, parse_boxes
from annotate.vlm.budget import Prices, UsageMeter, UsageTotal
from annotate.vlm.client import Chat
from annotate.vlm.coordinates import BoxFormat
from annotate.vlm.retry import RetryPolicy, map_threads
from annotate.vocabulary import Phrase, detector_phrases

_EXAMPLE_IMAGE, _SEARCHED_IMAGE = "A", "B"  # the names of pictures in a question with a reference
_CAPTION_PROMPT = "caption.v1"
_NO_ANSWER = "frames have no usable answer: they are left out"
_NOT_REFINED = "boxes could not be refined, for the answer on the crop cannot be used"
_UNKNOWN_LABELS = "boxes were left out, for their labels are none of the phrases"
_UNPLACED = "objects were left out, for the answer gives no coordinates of them"

NamedBox = tuple[ParsedBox, Phrase]


@dataclass(frozen=True)
class _Answer:
    """The boxes that an answer gives for phrases, the labels of others, objects without a box."""

    named_boxes: list[NamedBox]
    unknown_labels: list[str]
    unplaced_count: int


@dataclass(frozen=True)
class VlmDetector:
    """Ask a vision-language model for the boxes of all phrases, in one question a frame.

    `key` names the environment variable of the API key. `box_format` is the format of the model's
    coordinates: "calibrated", which is what `annotate calibrate` found, or one such as "relative
    1000 xyxy". `mode` is how the format of the answer is requested: tool, schema, json or auto. The
    picture is sent as a JPEG whose longest side is `side` pixels (0: its own size). `refine` asks
    again on a crop round each box. `reference` is the path of a picture that shows an example.
    `unreadable` is what happens at a frame without a usable answer: "stop" ends the run, "skip"
    leaves the frame out and counts it. Prices are for a million tokens; `budget` is for one run, in
    the currency of the prices.
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
        text = self.box_format
        if text == "calibrated":
            text = str(read_model_notes(self.url, self.model).get("convention", ""))
        object.__setattr__(self, "coordinates", str(BoxFormat.parse(text)) if text else "")
        object.__setattr__(self, "prompt_sha256", self._template.sha256)
        digest = files.sha256(Path(self.reference)) if self._reference else ""
        object.__setattr__(self, "reference_sha256", digest)

    def _check_model(self) -> None:
        if not self.model:
            raise AnswerError("vlm: no model is named: give `model`, and its address as `url`")

    def _check_choices(self) -> None:
        for name, value, choices in (
            ("mode", self.mode, ("auto", "tool", "schema", "json")),
            ("unreadable", self.unreadable, ("stop", "skip")),
        ):
            if value not in choices:
                raise AnswerError(f"vlm: {name} must be {' or '.join(choices)}, got {value!r}")
        if self.side < 0:
            raise AnswerError(f"vlm: side must be 0 or more pixels, got {self.side}")
        if self.budget is not None and not self.price_in + self.price_out > 0:
            raise AnswerError("vlm: a budget needs prices: give `price_in` and `price_out`")

    @cached_property
    def _template(self) -> messages.Template:
        name = "boxes-with-reference.v1" if self.reference else "boxes.v1"
        return messages.load_template(self.prompt or name)

    @cached_property
    def _reference(self) -> dict[str, Any] | None:
        if not self.reference:
            return None
        try:
            picture = read_image(Path(self.reference))
        except VideoError as error:
            raise AnswerError(f"reference: {error}") from None
        return messages.image_part(messages.resize(picture, self.side), self.detail)

    @cached_property
    def chat(self) -> Chat:
        """The model that is asked, with the meter of its cost."""
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
        """Requests so far, and their tokens and cost."""
        return self.chat.meter.total

    @property
    def notes(self) -> Notes:
        """What a run left out, by reason: boxes of other labels, frames without an answer."""
        return self.chat.notes

    def ready(self) -> None:
        """Check for a model, its box format, and phrases.

        Raises:
            AnswerError, PromptError, MissingPackage: say what is missing.
        """
        self._check_model()
        detector_phrases(self.vocabulary, "vlm")
        if not self.coordinates:
            raise AnswerError(
                f"the box format of {self.model} at {self.url} is not known: run annotate "
                "calibrate for this model and address"
            )
        needs("openai"), needs("json_repair")
        _ = self.chat  # made once, before threads share it, so that one counts

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Propose boxes for each frame, in the order of the model's answer.

        Raises:
            AnswerError: no answer, or none that can be parsed; see `unreadable`.
            BudgetExceeded: the next request could exceed the budget.
        """
        self.ready()
        phrases = detector_phrases(self.vocabulary, "vlm")
        return map_threads(lambda frame: self._propose(frame, phrases), frames, self.parallel)

    def caption(self, image: Picture) -> str:
        """Describe a picture, (H, W, 3) RGB, in words.

        Raises:
            AnswerError: no model is named, or no answer came.
        """
        return self.query(image, messages.load_template(_CAPTION_PROMPT).text)

    def query(self, image: Picture, question: str) -> str:
        """Answer a question about a picture, (H, W, 3) RGB."""
        self._check_model()
        part = messages.image_part(messages.resize(image, self.side), self.detail)
        return self.chat.ask_text([part, messages.text_part(question)], "a picture")

    def _propose(self, frame: Frame, phrases: Sequence[Phrase]) -> sv.Detections:
        try:
            phrase_boxes = self._ask(frame, phrases)
        except UnreadableAnswer as error:
            if self.unreadable == "stop":
                raise
            self.notes.add_open_frame((frame.video, frame.index), _NO_ANSWER, str(error))
            return to_detections([], frame.size_wh)
        if self.refine:
            phrase_boxes = [self._refine_box(frame, each) for each in phrase_boxes]
        return to_detections(phrase_boxes, frame.size_wh)

    def _ask(self, frame: Frame, phrases: Sequence[Phrase]) -> list[PhraseBox]:
        """Ask for the boxes of one frame, in its pixels."""
        picture = messages.resize(frame.image, self.side)
        padded = messages.pad_to_patches(picture)
        texts = [phrase.text for phrase in phrases]
        parts = [messages.image_part(padded, self.detail)]
        if self._reference:
            searched = messages.text_part(f"Picture {_SEARCHED_IMAGE}:")
            parts = [
                messages.text_part(f"Picture {_EXAMPLE_IMAGE}:"),
                self._reference,
                searched,
                *parts,
            ]
        parts.append(messages.text_part(self._template.fill(texts)))
        answer = self.chat.ask(
            parts,
            messages.boxes_format(texts),
            lambda text: self._parse(text, phrases),
            frame.name,
        )
        for label in answer.unknown_labels:
            self.notes.add(_UNKNOWN_LABELS, f"{label!r} on {frame.name}")
        if answer.unplaced_count:
            self.notes.add(_UNPLACED, frame.name, count=answer.unplaced_count)
        return self._to_phrase_boxes(answer.named_boxes, frame, picture.size, padded.size)

    def _parse(self, text: str, phrases: Sequence[Phrase]) -> _Answer:
        """Find the phrase of each box of the searched picture.

        Raises:
            AnswerParseError: no boxes, and not that there are none; or all are of other labels.
        """
        boxes_of_picture = parse_boxes(text, [phrase.text for phrase in phrases])
        searched = boxes_of_picture
        if self._reference:
            searched = [box for box in boxes_of_picture if not _is_example(box)]
        if boxes_of_picture and not searched:
            raise AnswerParseError("boxes of the example alone, not of the searched picture")
        matches = [(box, match_phrase(box.label, phrases)) for box in searched]
        unknown_labels = [box.label for box, phrase in matches if phrase is None]
        if matches and len(unknown_labels) == len(matches):
            labels = ", ".join(sorted({label or "no label" for label in unknown_labels}))
            raise AnswerParseError(f"boxes of other labels than the phrases: {labels}")
        named_boxes = [(box, phrase) for box, phrase in matches if phrase is not None]
        return _Answer(named_boxes, unknown_labels, count_unplaced(text))

    def _to_phrase_boxes(
        self,
        named_boxes: Sequence[NamedBox],
        frame: Frame,
        resized_wh: tuple[int, int],
        sent_wh: tuple[int, int],
    ) -> list[PhraseBox]:
        """Convert boxes to the frame's pixels; drops those that lie outside.

        `resized_wh` is the size of the frame in the picture that was sent, which is `sent_wh`.
        """
        box_format = BoxFormat.parse(self.coordinates)
        scale = np.tile(np.array(frame.size_wh) / np.array(resized_wh), 2)
        phrase_boxes, outside_count = [], 0
        for each, phrase in named_boxes:
            sent_xyxy = np.array(box_format.xyxy(each.numbers, sent_wh, each.order))
            x1, y1, x2, y2 = (sent_xyxy * scale).tolist()
            score = float("nan") if each.score is None else each.score
            if _fraction_inside((x1, y1, x2, y2), frame.size_wh) > 0.5:
                phrase_boxes.append(PhraseBox(phrase, (x1, y1, x2, y2), score))
            else:
                outside_count += 1
                self.notes.add("boxes were left out, for they lie outside the picture", frame.name)
        if outside_count and not phrase_boxes:
            raise UnreadableAnswer(
                f"{frame.name}: the boxes lie outside the picture; the model's box format may not "
                f"be {self.coordinates!r}: run annotate calibrate"
            )
        return phrase_boxes

    def _refine_box(self, frame: Frame, phrase_box: PhraseBox) -> PhraseBox:
        """Ask again on a crop round a box; returns the box unchanged if none overlaps it there."""
        first = phrase_box.box
        x1, y1, x2, y2 = first
        margin_px = max(x2 - x1, y2 - y1, 32.0)  # on each side: the crop is three boxes wide
        cropped, (left, top) = crop(frame, first, margin_px)
        try:
            found = self._ask(cropped, [phrase_box.phrase])
        except UnreadableAnswer as error:
            if self.unreadable == "stop":
                raise
            self.notes.add(_NOT_REFINED, str(error))
            return phrase_box
        refined = [
            (each.box[0] + left, each.box[1] + top, each.box[2] + left, each.box[3] + top)
            for each in found
        ]
        best = max(refined, key=lambda box: boxes.iou(box, first), default=first)
        return replace(phrase_box, box=best) if boxes.iou(best, first) > 0 else phrase_box


def _is_example(box: ParsedBox) -> bool:
    """Return whether a box is of the picture that shows the example: picture A, the first."""
    words = re.findall(r"[a-z0-9]+", box.image_id.casefold())
    return bool({_EXAMPLE_IMAGE.casefold(), "first", "1"} & set(words[-1:]))


def _fraction_inside(box: Box, size_wh: tuple[int, int]) -> float:
    return boxes.area(boxes.clip_box(box, size_wh)) / max(boxes.area(box), 1e-9)
