"""Find out how a model counts, by pictures drawn for it; remembered for that model and address."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from annotate import model_notes, questions
from annotate.answers import Said
from annotate.chat import WAYS, Chat
from annotate.convention import Drawn, Fit, drawn, fit
from annotate.errors import AnswerError
from annotate.patience import several


@dataclass(frozen=True)
class Calibration:
    """How a model counts and is best asked, and the file that remembers it."""

    fit: Fit
    way: str
    note: Path


def calibrate(chat: Chat, side: int = 1024, detail: str | None = "high") -> Calibration:
    """Ask a model for boxes that are known, in each way until its answers fit; remember how.

    A server may take tools and then not see the picture, so that a way counts only if the boxes
    come out right.

    Raises:
        AnswerError: in no way do its answers fit; says what was wrong in each.
    """
    wrong: dict[str, list[str]] = {}  # what was wrong -> in which ways
    for way in WAYS if chat.way == "auto" else (chat.way,):
        try:
            found = _fit(replace(chat, way=way, cached=False), side, detail)
        except AnswerError as error:
            wrong.setdefault(str(error), []).append(way)
            continue
        facts = {"convention": str(found.convention), "iou": round(found.iou, 4), "side": side}
        return Calibration(found, way, model_notes.note(chat.url, chat.model, way=way, **facts))
    said = [f"asked by {', '.join(ways)}: {error}" for error, ways in wrong.items()]
    raise AnswerError(f"{chat.model} at {chat.url}, {'; '.join(said)}")


def _fit(chat: Chat, side: int, detail: str | None) -> Fit:
    pictures = drawn(side)
    told = questions.template("boxes.v1")

    def ask(picture: Drawn) -> list[Said]:
        things = list(picture.boxes)
        shown = questions.part(questions.resized(picture.image, 0), detail)
        return chat.boxes([shown, questions.words(told.ask(things))], things, "a drawn picture")

    return fit(pictures, several(ask, pictures, 1))
