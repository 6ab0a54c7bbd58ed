"""Answers of vision-language models, and the replies of their servers, that are changed at random.

A box that the model gave whole is found; an entry that cannot be used is counted in the notes, or
the answer is refused. A frame has no box only if the answer says that there is none.
"""

import json
import re
import threading
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import fuzz, json_bytes, mutated, mutated_text, outcome
from vlm_server import listening

from annotate.detectors.run import DETECTORS
from annotate.items.records import Frame, Vocabulary

ENTRIES = [
    {"label": "red mug", "box_2d": [100, 200, 300, 400]},
    {"label": "plate", "box_2d": [500, 500, 900, 1000], "score": 0.5},
    {"label": "plate", "box_2d": [0, 600, 400, 900]},
]
WORDS = Vocabulary("demo.v1", {"mug": {"vlm": "red mug"}, "plate": {"vlm": "plate"}}, "5e1f")
FRAME = Frame("dock.mp4", 0, Fraction(0), np.zeros((100, 100, 3), np.uint8))
OPTIONS = {
    "model": "sees",
    "box_format": "relative 1000 xyxy",
    "side": 1008,  # whole patches: nothing is added to the picture
    "mode": "json",
    "tries": 1,
    "wait_seconds": 0,
    "cache": False,
}
_NUMBER = re.compile(r"\d+")


def _reply(text):
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": "sees"}
    return head | {"choices": [choice], "usage": usage}


@dataclass
class Server:
    """Replies with the same text to every request."""

    text: str = ""
    active_requests: int = 0
    max_active_requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path, body, headers):
        return 200, {}, self.text


@pytest.fixture(scope="module")
def propose():
    """Propose boxes where the server replies with a text; return them with the number of notes."""
    with listening(Server()) as server:
        detector = DETECTORS.load("vlm", WORDS, url=server.url, **OPTIONS)

        def propose(text):
            before, server.text = _count_notes(detector), text
            found = outcome(lambda: detector.propose([FRAME]))
            if found is None:
                return None
            [detections] = found
            assert (detections.xyxy >= 0).all() and (detections.xyxy <= 100).all()
            return detections, _count_notes(detector) - before

        yield propose


def _count_notes(detector):
    return sum(int(line.split()[0]) for line in detector.notes.lines())


@fuzz
@given(mutated({"boxes": ENTRIES}))
def test_every_entry_is_found_or_counted(propose, answer):
    result = propose(json.dumps(_reply(json.dumps(answer))))
    if result is None:
        return
    detections, noted = result
    entries = answer.get("boxes") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        return
    found = {tuple(round(side * 10) for side in box) for box in detections.xyxy.tolist()}
    assert {tuple(entry["box_2d"]) for entry in ENTRIES if entry in entries} <= found
    without_box = [e for e in entries if isinstance(e, dict) and len(_NUMBER.findall(str(e))) < 4]
    assert noted >= len(without_box)


@fuzz
@given(st.sampled_from([json.dumps({"boxes": ENTRIES}), str(ENTRIES)]).flatmap(mutated_text))
def test_no_text_ends_the_run_otherwise(propose, text):
    result = propose(json.dumps(_reply(f"<think>[]</think> As in [1]: {text}")))
    assert result is None or len(result[0]) or result[1] or "[]" in "".join(text.split()), text


@fuzz
@given(json_bytes(_reply(json.dumps({"boxes": ENTRIES}))))
def test_no_reply_of_a_server_ends_the_run_otherwise(propose, data):
    result = propose(data.decode(errors="replace"))
    assert result is None or len(result[0]) or result[1] or b"[]" in data
