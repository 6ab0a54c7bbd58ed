"""Ask a vision-language model which of several numbered pictures show the target.

An answer must name every picture of its batch exactly once. If a picture is missing, repeated or
made up, the question is asked again; then the batch is split into halves, down to single pictures,
as long as one of the halves can be read. A picture without an answer that can be read is None: it
is not a picture without the target.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from annotate.detectors.run import DETECTORS
from annotate.errors import AnswerError, UnreadableAnswer, VideoError, needs
from annotate.items.records import Frame, Picture, Vocabulary
from annotate.items.sequences import chunks
from annotate.progress import counted
from annotate.video import reader
from annotate.video.images import read_image
from annotate.viewing.fonts import default_font_file
from annotate.vlm import messages
from annotate.vlm.answers import AnswerParseError, json_values
from annotate.vlm.budget import Usage
from annotate.vlm.client import Chat
from annotate.vlm.retry import map_threads
from annotate.vlm.thoughts import without_thoughts

FrameRef = tuple[str, int]  # a clip's name, and a frame's index there
_NUMBER_COLOUR, _OUTLINE_COLOUR = (235, 0, 20), (255, 255, 255)
_NUMBER_HEIGHT_DIVISOR = 6  # the number is one sixth as high as the picture
_MIN_NUMBER_HEIGHT = 18  # pixels
_QUESTION_TOKENS = 350  # of a question without its pictures, about
_ANSWER_TOKENS = 22  # of the answer for one picture, about
_MAX_ANSWER_TOKENS = 60  # room for the answer for one picture
_UNREADABLE = "pictures got no answer that can be read: they are open"


@dataclass(frozen=True)
class Judgement:
    """The answer for one picture; `confidence` is the model's own, None if it gave none."""

    shown: bool
    confidence: float | None = None


@dataclass(frozen=True)
class VlmJudge:
    """A vision-language model that judges batches of frames.

    `target` names what is searched, `references` are pictures of it, and `clip_paths` maps the name
    of a clip to its path. A picture is sent with its longest side scaled to `max_side` pixels.
    `workers` questions are asked in parallel, after a first one whose answer can be read. While
    there is none, up to `max_unreadable` questions are asked, and then no more.
    """

    chat: Chat
    target: str
    references: Sequence[Picture]
    clip_paths: Mapping[str, Path]
    max_side: int = 512
    detail: str | None = "low"
    batch_size: int = 10
    workers: int = 15
    max_unreadable: int | None = None

    def ask(
        self,
        frame_refs: Sequence[FrameRef],
        on_answers: Callable[[Mapping[FrameRef, Judgement | None]], object],
    ) -> dict[FrameRef, Judgement | None]:
        """Judge each frame; None where no answer could be read, even for the frame alone.

        `on_answers` gets the answers of each batch as they arrive, in any order.

        Raises:
            UnreadableAnswer: `max_unreadable` questions got no answer that can be read.
            AnswerError: the model did not answer.
            BudgetExceeded: the next question might cost more than is left of the budget.
        """
        judgements: dict[FrameRef, Judgement | None] = {}
        lock = threading.Lock()

        def judge(batch: Sequence[FrameRef]) -> None:
            answers = self._judge_batch(list(self._read_frames(batch)))
            with lock:
                judgements.update(answers)
                on_answers(answers)
                if any(answers.values()):
                    self._readable.set()

        batches = list(chunks(frame_refs, self.batch_size))
        while batches and not self._readable.is_set():
            self._check_patience()
            judge(batches.pop(0))
        map_threads(judge, batches, self.workers)
        return judgements

    @cached_property
    def _readable(self) -> threading.Event:
        """Set when an answer could be read."""
        return threading.Event()

    def _check_patience(self) -> None:
        asked = self.chat.meter.total.questions
        if self.max_unreadable is not None and asked >= max(self.max_unreadable, 1):
            raise UnreadableAnswer(
                f"{self.chat.model} gives no answer that can be read: {counted(asked, 'question')} "
                "asked, and no more are; try another model, or a smaller `batch_size`"
            )

    def estimate_tokens(self, picture_count: int, size_wh: tuple[int, int]) -> tuple[int, int]:
        """Estimate the tokens, in and out, of a number of pictures; makers count differently."""
        batches = -(-picture_count // self.batch_size)
        scale = self.max_side / max(size_wh) if self.max_side else 1.0
        picture_tokens = size_wh[0] * size_wh[1] * scale**2 / messages.PIXELS_PER_TOKEN
        sent = picture_count + batches * len(self.references)
        tokens_in = round(sent * picture_tokens + batches * _QUESTION_TOKENS)
        return tokens_in, picture_count * _ANSWER_TOKENS

    def affordable_pictures(self, asked_count: int, size_wh: tuple[int, int]) -> int | None:
        """Estimate how many more pictures the budget allows; None without a budget or a price.

        The estimate is based on the cost of the `asked_count` pictures asked so far.
        """
        meter = self.chat.meter
        if meter.budget is None:
            return None
        expected = meter.prices.cost(Usage(*self.estimate_tokens(self.batch_size, size_wh)))
        spent = meter.total.cost
        cost = spent / asked_count if spent else expected / self.batch_size
        return int((meter.budget - spent) / cost) if cost else None

    def _read_frames(self, frame_refs: Sequence[FrameRef]) -> Iterator[Frame]:
        for name in dict.fromkeys(name for name, _ in frame_refs):
            yield from reader.frames_at(
                self.clip_paths[name], [n for clip, n in frame_refs if clip == name]
            )

    def _judge_batch(self, frames: list[Frame]) -> dict[FrameRef, Judgement | None]:
        answers = self._ask_once(frames)
        if isinstance(answers, dict):
            return answers
        return self._judge_halves(frames, answers)

    def _judge_halves(
        self, frames: list[Frame], error: UnreadableAnswer
    ) -> dict[FrameRef, Judgement | None]:
        """Judge the halves of a batch whose answer cannot be read, as long as one half can be."""
        if len(frames) == 1:
            return self._leave_open(frames, error)
        middle = len(frames) // 2
        halves = [frames[:middle], frames[middle:]]
        answers = [self._ask_once(half, attempts=1 if half[1:] else None) for half in halves]
        if not any(isinstance(each, dict) for each in answers):
            return self._leave_open(frames, error)
        judgements: dict[FrameRef, Judgement | None] = {}
        for half, answer in zip(halves, answers, strict=True):
            if isinstance(answer, UnreadableAnswer):
                answer = self._judge_halves(half, answer)
            judgements |= answer
        return judgements

    def _leave_open(
        self, frames: list[Frame], error: UnreadableAnswer
    ) -> dict[FrameRef, Judgement | None]:
        self.chat.notes.add(_UNREADABLE, str(error), count=len(frames))
        return dict.fromkeys((frame.video, frame.index) for frame in frames)

    def _ask_once(
        self, frames: list[Frame], attempts: int | None = None
    ) -> dict[FrameRef, Judgement | None] | UnreadableAnswer:
        """Ask about a batch; returns the error where no answer can be read."""
        numbers = range(1, len(frames) + 1)
        description = frames[0].name + (f" and {len(frames) - 1} more" if frames[1:] else "")
        try:
            judgements = self.chat.ask(
                self._message_parts(frames),
                messages.verdicts_format(numbers),
                lambda text: parse_judgements(text, numbers),
                description,
                parse_attempts=attempts,
            )
        except UnreadableAnswer as error:
            return error
        return {(f.video, f.index): judgements[n] for f, n in zip(frames, numbers, strict=True)}

    def _message_parts(self, frames: Sequence[Frame]) -> list[dict[str, Any]]:
        """Build the question: the references, the pictures by number, the text."""
        pictures = [messages.resize(reference, self.max_side) for reference in self.references]
        pictures += [
            draw_number(messages.resize(frame.image, self.max_side), number)
            for number, frame in enumerate(frames, start=1)
        ]
        parts = [messages.image_part(picture, self.detail) for picture in pictures]
        question = messages.load_template("find.v1").fill([self.target])
        return [*parts, messages.text_part(f"Pictures 1 to {len(frames)}.\n{question}")]


def vlm_judge(
    target: str,
    references: Sequence[Picture],
    settings: Mapping[str, str],
    *,
    budget: float | None = None,
    batch_size: int = 10,
    workers: int = 15,
) -> VlmJudge:
    """Make the judge of a search; `settings` are options of the detector `vlm`, as text.

    Raises:
        AnswerError: no model is given.
        MissingPackage: the client packages are not installed.
    """
    texts = {"side": "512", "detail": "low"} | dict(settings)
    texts |= {} if budget is None else {"budget": str(budget)}
    options = DETECTORS.parse_options("vlm", texts)
    vocabulary = Vocabulary(target, {target: {"vlm": target}}, "")
    detector: Any = DETECTORS.load("vlm", vocabulary, **options)  # a plugin: no static type
    if not detector.model:
        raise AnswerError(
            "vlm: no model was given; give the option `model`, and `url` of its server"
        )
    needs("openai"), needs("json_repair")
    max_tokens = max(detector.max_tokens, _MAX_ANSWER_TOKENS * batch_size)
    chat = replace(detector.chat, max_tokens=max_tokens)
    size_and_detail = (detector.side, detector.detail)
    return VlmJudge(chat, target, references, {}, *size_and_detail, batch_size, workers)


def draw_number(picture: Image.Image, number: int) -> Image.Image:
    """Draw a large red number with a white outline in the upper left corner of a copy."""
    marked = picture.convert("RGB")
    size = max(picture.height // _NUMBER_HEIGHT_DIVISOR, _MIN_NUMBER_HEIGHT)
    ImageDraw.Draw(marked).text(
        (size // 4, size // 4),
        str(number),
        _NUMBER_COLOUR,
        ImageFont.truetype(str(default_font_file()), size),
        anchor="lt",
        stroke_width=max(size // 12, 2),
        stroke_fill=_OUTLINE_COLOUR,
    )
    return marked


def parse_judgements(text: str, numbers: Sequence[int]) -> dict[int, Judgement]:
    """Parse the answer of a model: number of a picture -> judgement.

    Raises:
        AnswerParseError: a number has no judgement, more than one, or was not asked about.
    """
    judgements: list[tuple[Any, Judgement]] = []
    for value in json_values(text):
        judgements += _iter_judgements(value)
    if not judgements:  # a refusal, or nothing at all
        raise AnswerParseError(without_thoughts(text).strip()[:120] or "an empty answer")
    unknown = [number for number, _ in judgements if number not in numbers]
    counts = {n: sum(number == n for number, _ in judgements) for n in numbers}
    missing = [n for n in numbers if not counts[n]]
    repeated = [n for n in numbers if counts[n] > 1]
    faults = {"made up": unknown, "named twice": repeated, "left out": missing}
    for fault, wrong_numbers in faults.items():
        if wrong_numbers:
            raise AnswerParseError(f"{fault}: {', '.join(map(str, wrong_numbers))}")
    return dict(judgements)


def _iter_judgements(value: Any) -> Iterator[tuple[Any, Judgement]]:
    if isinstance(value, list):
        for each in value:
            yield from _iter_judgements(each)
    elif isinstance(value, dict):
        if "id" in value and (shown := _parse_bool(value.get("shown"))) is not None:
            confidence = _parse_confidence(value.get("confidence"))
            yield _parse_number(value["id"]), Judgement(shown, confidence)
        else:
            for each in value.values():
                yield from _iter_judgements(each)


def _parse_bool(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"yes": True, "true": True, "no": False, "false": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int) else None


def _parse_number(value: Any) -> Any:
    text = str(value).strip().lstrip("#")
    return int(text) if text.isdigit() else value


def _parse_confidence(value: Any) -> float | None:
    valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if valid else None


def read_reference(path: Path) -> Picture:
    """Read a picture of the target: (H, W, 3) uint8, RGB, upright.

    Raises:
        AnswerError: the file is not a picture that can be read.
    """
    try:
        return read_image(path)
    except VideoError as error:
        raise AnswerError(str(error)) from None
