"""A propagator for tests: it moves what it was shown by one pixel a frame."""

import hashlib
from dataclasses import dataclass

import numpy as np
import supervision as sv

from annotate.items import journal
from annotate.items.records import Prompt


@dataclass(frozen=True)
class Wanderer:
    """An engine: each object is a square whose place is a hash of every frame it has seen.

    It is lost on every tenth frame that it sees. A step missed, or taken twice, or in the wrong
    direction, moves all that follows.
    """

    side: int = 9

    def begin(self, prompted_frames):
        return WandererSession(self.side, [len(prompted.prompts) for prompted in prompted_frames])


class WandererSession:
    def __init__(self, side, lessons):
        self.side, self.lessons, self.seen = side, lessons, {}

    def step(self, frame, prompts):
        for prompt in prompts:
            self.seen.setdefault(prompt.object_id, (0, b""))
        found = []
        for object_id, (count, past) in self.seen.items():
            told = sum(prompt.object_id == object_id for prompt in prompts)
            pixels = frame.image[::50, ::50].tobytes()
            past = hashlib.sha256(past + pixels + bytes([told, *self.lessons])).digest()
            self.seen[object_id] = count + 1, past
            if count % 10 != 9:
                found.append((object_id, past[0], past[1]))
        masks = np.zeros((len(found), *frame.image.shape[:2]), bool)
        for mask, (_, x, y) in zip(masks, found, strict=True):
            mask[y : y + self.side, x : x + self.side] = True
        ids = np.array([object_id for object_id, _, _ in found], int)
        boxes = sv.mask_to_xyxy(masks) if len(found) else np.zeros((0, 4))
        scores = np.full(len(found), 0.5)
        return sv.Detections(boxes, mask=masks, confidence=scores, tracker_id=ids)

    def state(self):
        ids = sorted(self.seen)
        pasts = [np.frombuffer(self.seen[i][1], np.uint8) for i in ids]
        return {
            "ids": np.array(ids),
            "counts": np.array([self.seen[i][0] for i in ids]),
            "pasts": np.array(pasts),
        }

    def restore(self, state):
        rows = zip(state["ids"], state["counts"], state["pasts"], strict=True)
        self.seen = {int(i): (int(count), past.tobytes()) for i, count, past in rows}


def point(frame, object_id, x=100.0, y=100.0):
    return Prompt(frame, object_id, np.array([[x, y]]), np.array([1]))


def objects_by_frame(path):
    return {item.frame: {o.track: o for o in item.objects} for item in journal.read(path)}


class Killed(Exception):
    pass
