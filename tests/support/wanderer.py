"""A propagator for tests, whose masks depend on every frame that it has seen."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import supervision as sv

from annotate.items import journal
from annotate.items.records import Prompt


@dataclass(frozen=True)
class Wanderer:
    """An engine whose objects are squares; the position is a hash of all frames of the object.

    An object is lost on every tenth of its frames. A step that is missed, repeated or taken in the
    wrong direction moves all later squares.
    """

    side: int = 9

    def begin(self, prompted_frames):
        return WandererSession(self.side, [len(prompted.prompts) for prompted in prompted_frames])


class WandererSession:
    def __init__(self, side, prompt_counts):
        self.side, self.prompt_counts = side, prompt_counts
        self.tracked = {}  # object id -> number of its frames, hash of them

    def step(self, frame, prompts):
        for prompt in prompts:
            self.tracked.setdefault(prompt.object_id, (0, b""))
        squares = []  # object id, x, y
        for object_id, (count, past) in self.tracked.items():
            prompt_count = sum(prompt.object_id == object_id for prompt in prompts)
            pixels = frame.image[::50, ::50].tobytes()
            numbers = bytes([prompt_count, *self.prompt_counts])
            past = hashlib.sha256(past + pixels + numbers).digest()
            self.tracked[object_id] = count + 1, past
            if count % 10 != 9:
                squares.append((object_id, past[0], past[1]))
        masks = np.zeros((len(squares), *frame.image.shape[:2]), bool)
        for mask, (_, x, y) in zip(masks, squares, strict=True):
            mask[y : y + self.side, x : x + self.side] = True
        ids = np.array([object_id for object_id, _, _ in squares], int)
        boxes = sv.mask_to_xyxy(masks) if len(squares) else np.zeros((0, 4))
        scores = np.full(len(squares), 0.5)
        return sv.Detections(boxes, mask=masks, confidence=scores, tracker_id=ids)

    def state(self):
        ids = sorted(self.tracked)
        pasts = [np.frombuffer(self.tracked[i][1], np.uint8) for i in ids]
        return {
            "ids": np.array(ids),
            "counts": np.array([self.tracked[i][0] for i in ids]),
            "pasts": np.array(pasts),
        }

    def restore(self, state):
        rows = zip(state["ids"], state["counts"], state["pasts"], strict=True)
        self.tracked = {int(i): (int(count), past.tobytes()) for i, count, past in rows}


@dataclass(frozen=True)
class IndependentWanderer(Wanderer):
    """A wanderer whose squares do not depend on each other, and are so large that they overlap."""

    side: int = 150
    independent: ClassVar[bool] = True

    def begin(self, prompted_frames):
        return WandererSession(self.side, [])


@dataclass(frozen=True)
class PhraseWanderer(Wanderer):
    """A wanderer that needs no prompts: an object of its phrase starts on every eighth frame."""

    phrase: str = ""

    def begin(self, prompted_frames):
        return PhraseWandererSession(self.side, [])


class PhraseWandererSession(WandererSession):
    def step(self, frame, prompts):
        new_prompts = [] if frame.index % 8 else [point(frame.index, frame.index)]
        return super().step(frame, new_prompts)


def point(frame, object_id, x=100.0, y=100.0):
    return Prompt(frame, object_id, np.array([[x, y]]), np.array([1]))


def objects_by_frame(path):
    return {item.frame: {o.track: o for o in item.objects} for item in journal.read(path)}


class Killed(Exception):
    pass
