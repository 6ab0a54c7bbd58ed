"""The parts of a point page that need no engine: an editor whose objects are squares."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from annotate import prompts
from annotate.items import masks
from annotate.items.records import Object
from annotate.video import reader
from annotate.web.point.editor import Editor
from annotate.web.point.session import PointSession
from annotate.web.point.tracking.tracks import TrackedFrame

SIDE = 40  # pixels


@dataclass
class SquareEngine:
    """Each object is a square round its first point on a frame; it moves one pixel a frame.

    `gate` holds back the steps of a propagation: clear it, and release one step with `step`.
    """

    size_wh: tuple = (800, 600)
    independent: bool = True
    fail_on: int | None = None
    rough_side: int | None = None  # of the squares of quick previews, if there are such
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        self.gate.set()
        self.table = None

    def set_prompts(self, table):
        self.table = table

    def preview(self, frame, table, ids, side=SIDE):
        found = [each for each in table.prompts if each.frame == frame and each.object_id in ids]
        return [
            self.square(each.object_id, *centre_of(each), side) for each in found if not each.gone
        ]

    def quick_preview(self, frame, table, ids):
        return [] if self.rough_side is None else self.preview(frame, table, ids, self.rough_side)

    def refine(self, frame, table, ids):
        self.gate.wait(30)
        return self.preview(frame, table, ids)

    def propagate(self, ids, frame, direction, limits):
        first = {}
        for each in reversed(self.table.prompts):
            if each.object_id in ids and not each.gone:
                first[each.object_id] = each
        step = 1 if direction == "forward" else -1
        stop = limits[1] if step > 0 else limits[0] - 1
        for index in range(frame, stop, step):
            self.gate.wait(30)
            if index == self.fail_on:
                raise RuntimeError("out of memory")
            yield (
                index,
                {
                    key: TrackedFrame(self.square(key, x + index - each.frame, y), False)
                    for key, each in first.items()
                    for x, y in [centre_of(each)]
                    if 0 <= x + index - each.frame < self.size_wh[0]
                },
            )

    def complete(self, both_directions):
        for index in range(3):
            self.gate.wait(30)
            if index == self.fail_on:
                raise RuntimeError("out of memory")
            yield index

    def write(self, output):
        self.written = output

    def square(self, object_id, x, y, side=SIDE):
        width, height = self.size_wh
        mask = np.zeros((height, width), bool)
        half = side // 2
        mask[max(int(y) - half, 0) : int(y) + half, max(int(x) - half, 0) : int(x) + half] = True
        rle = masks.encode(mask)
        return Object("monster", masks.box(mask), 0.9, object_id, rle, "square")


def centre_of(prompt):
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box
        return (x1 + x2) / 2, (y1 + y2) / 2
    return prompt.points_xy[0]


@dataclass
class NoteWriter:
    """Notes what was to be saved."""

    calls: list = field(default_factory=list)

    output = "masks.jsonl"

    def check(self):
        pass

    def message(self, backward):
        self.calls.append(("save", backward))
        return "saved masks.jsonl"

    def items(self):
        return []

    def build_dataset(self, document, seen):
        self.calls.append(("dataset", sorted(document.reviewed)))
        return "built dataset"


@contextmanager
def square_editor(clip, points, **options):
    """Open an editor of squares on a clip."""
    video = reader.probe(clip)
    session = PointSession(
        points, prompts.clip_scope(video), {"clip": video.name, "fingerprint": video.fingerprint}
    )
    engine = SquareEngine((video.width, video.height), options.pop("independent", True))
    editor = Editor(video, session, engine, NoteWriter(), "square", **options)
    try:
        yield editor
    finally:
        engine.gate.set()
        editor.close()
