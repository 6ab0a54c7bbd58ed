"""Ask a vision-language model which of several numbered pictures show the target.

An answer must name every picture of its batch exactly once. If one is missing, repeated or made up,
the question is repeated; then the batch is split into halves, down to single pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from annotate.errors import AnswerError, UnreadableAnswer, VideoError
from annotate.items.records import Frame, Picture
from annotate.video import reader
from annotate.video.images import read_image
from annotate.vlm import messages
from annotate.vlm.budget import Usage
from annotate.vlm.client import Chat
from annotate.vlm.messages import AnswerParseError, json_values
from annotate.vlm.retry import map_threads

FrameRef = tuple[str, int]  # a clip's name, and a frame's index there
_NUMBER_COLOUR, _OUTLINE_COLOUR = (235, 0, 20), (255, 255, 255)
_NUMBER_HEIGHT_DIVISOR = 6  # of a picture's height is its number one part
_PIXELS_PER_TOKEN = 750  # about what makers of models that see say of theirs
_QUESTION_TOKENS = 350  # tokens of a question without its pictures, about
_ANSWER_TOKENS = 22  # tokens of what is said of one picture, about


@dataclass(frozen=True)
class Judgement:
    """What was said of a picture; `confidence` is the model's own, None where it gave none."""

    shown: bool
    confidence: float | None = None


@dataclass(frozen=True)
class VlmJudge:
    """Who is asked, for what, and how many pictures at once.

    `references` are pictures of the thing; `clips` is name -> path. A picture is sent with its
    longest side made `side` pixels.
    """

    chat: Chat
    target: str
    references: Sequence[Picture]
    clip_paths: Mapping[str, Path]
    max_side: int = 512
    detail: str | None = "low"
    batch_size: int = 10
    workers: int = 15

    def ask(
        self,
        frame_refs: Sequence[FrameRef],
        on_answers: Callable[[Mapping[FrameRef, Judgement | None]], object],
    ) -> dict[FrameRef, Judgement | None]:
        """An answer for each look; None where none could be read, even of the picture alone.

        `told` is given each batch's answers as they come, in any order.

        Raises:
            AnswerError: no answer came.
            BudgetSpent: the next question might cost more than is left.
        """
        found: dict[FrameRef, Judgement | None] = {}
        lock = threading.Lock()

        def batch(some: Sequence[FrameRef]) -> None:
            answers = self._judge_batch(list(self._read_frames(some)))
            with lock:
                found.update(answers)
                on_answers(answers)

        map_threads(batch, [frame_refs[n : n + self.batch_size] for n in range(0, len(frame_refs), self.batch_size)],
                self.workers)  # fmt: skip
        return found

    def estimate_tokens(self, picture_count: int, size_wh: tuple[int, int]) -> tuple[int, int]:
        """About how many tokens so many pictures will take, in and out; makers count otherwise."""
        batches = -(-picture_count // self.batch_size)
        scale = self.max_side / max(size_wh) if self.max_side else 1.0
        each = size_wh[0] * size_wh[1] * scale**2 / _PIXELS_PER_TOKEN
        sent = picture_count + batches * len(self.references)
        return round(sent * each + batches * _QUESTION_TOKENS), picture_count * _ANSWER_TOKENS

    def affordable_pictures(self, asked_count: int, size_wh: tuple[int, int]) -> int | None:
        """How many more pictures the budget suffices for, by what `asked` pictures have cost."""
        meter = self.chat.meter
        expected = meter.prices.cost(Usage(*self.estimate_tokens(self.batch_size, size_wh)))
        if not asked_count:
            meter.expect_cost(expected)
        if meter.budget is None:
            return None
        spent = meter.total.cost
        each = spent / asked_count if spent else expected / self.batch_size
        return int((meter.budget - spent) / each) if each else None

    def _read_frames(self, frame_refs: Sequence[FrameRef]) -> Iterator[Frame]:
        for name in dict.fromkeys(name for name, _ in frame_refs):
            yield from reader.frames_at(
                self.clip_paths[name], [n for clip, n in frame_refs if clip == name]
            )

    def _judge_batch(self, frames: list[Frame]) -> dict[FrameRef, Judgement | None]:
        numbers = range(1, len(frames) + 1)
        what = f"{frames[0].name} and {len(frames) - 1} more" if frames[1:] else frames[0].name
        try:
            said = self.chat.ask(
                self._message_parts(frames),
                messages.verdicts_format(numbers),
                lambda text: parse_judgements(text, numbers),
                what,
            )
        except UnreadableAnswer:
            if len(frames) == 1:
                return {(frames[0].video, frames[0].index): None}
            half = len(frames) // 2
            return self._judge_batch(frames[:half]) | self._judge_batch(frames[half:])
        return {(f.video, f.index): said[n] for f, n in zip(frames, numbers, strict=True)}

    def _message_parts(self, frames: Sequence[Frame]) -> list[dict[str, Any]]:
        """The example first, then the pictures in the order of their numbers, then the question."""
        shown = [messages.image_part(messages.resize(r, self.max_side), self.detail)
                 for r in self.references]  # fmt: skip
        for number, frame in enumerate(frames, start=1):
            picture = draw_number(messages.resize(frame.image, self.max_side), number)
            shown.append(messages.image_part(picture, self.detail))
        told = messages.load_template("find.v1").fill([self.target])
        return [*shown, messages.text_part(f"Pictures 1 to {len(frames)}.\n{told}")]


def draw_number(picture: Image.Image, number: int) -> Image.Image:
    """The picture with a large red number, edged in white, in its upper left corner."""
    from annotate.viewing.overlay import font_file

    marked = picture.convert("RGB")
    size = max(picture.height // _NUMBER_HEIGHT_DIVISOR, 18)
    font = ImageFont.truetype(str(font_file()), size)
    draw = ImageDraw.Draw(marked)
    at, edge = size // 4, max(size // 12, 2)
    draw.text(
        (at, at),
        str(number),
        _NUMBER_COLOUR,
        font,
        anchor="lt",
        stroke_width=edge,
        stroke_fill=_OUTLINE_COLOUR,
    )
    return marked


def parse_judgements(text: str, numbers: Sequence[int]) -> dict[int, Judgement]:
    """What a model's words say of each numbered picture.

    Raises:
        Unreadable: not exactly one verdict for every number.
    """
    said: list[tuple[Any, Judgement]] = []
    for value in json_values(text):
        said += _iter_judgements(value)
    wrong = [number for number, _ in said if number not in numbers]
    counts = {n: sum(number == n for number, _ in said) for n in numbers}
    missing = [n for n in numbers if not counts[n]]
    twice = [n for n in numbers if counts[n] > 1]
    for numbers_, why in ((wrong, "made up"), (twice, "named twice"), (missing, "left out")):
        if numbers_:
            raise AnswerParseError(f"{why}: {', '.join(map(str, numbers_))}")
    return dict(said)


def _iter_judgements(value: Any) -> Iterator[tuple[Any, Judgement]]:
    if isinstance(value, list):
        for each in value:
            yield from _iter_judgements(each)
    elif isinstance(value, dict):
        if "id" in value and (shown := _parse_bool(value.get("shown"))) is not None:
            yield (
                _parse_number(value["id"]),
                Judgement(shown, _parse_confidence(value.get("confidence"))),
            )
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
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if good else None


def read_reference(path: Path) -> Picture:
    """Read a picture of what is looked for.

    Raises:
        AnswerError: it cannot be read.
    """
    try:
        return read_image(path)
    except VideoError as error:
        raise AnswerError(str(error)) from None
