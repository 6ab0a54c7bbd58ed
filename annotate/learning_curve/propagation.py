"""Propagate the clicks of the simulated person through a sequence of frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from annotate import prompts
from annotate.dataset.frame_sources import FrameKey
from annotate.files import json_digest
from annotate.items import journal
from annotate.items.records import Item
from annotate.learning_curve.footage import Footage
from annotate.learning_curve.person import TrackedSequence
from annotate.propagators.job import Job, Propagator
from annotate.propagators.run import run_to_file
from annotate.video import reader

_COLUMNS = ("frame_id", "object_id", "x", "y", "label", "class")


@dataclass(frozen=True)
class Propagation:
    """An engine, given by name, that tracks what the person clicks, and where its items are kept.

    A sequence that was propagated before is read from the folder.
    """

    footage: Footage
    engine: Propagator
    name: str
    folder: Path

    def run(self, sequence: TrackedSequence) -> Path:
        """Click the middle of each object where it first appears; return the file of items."""
        import pandas as pd

        clip = self.footage.clips[sequence.clip]
        rows = [
            (frame, track, (o.box[0] + o.box[2]) / 2, (o.box[1] + o.box[3]) / 2, 1, o.label)
            for track, (frame, o) in sequence.first.items()
        ]
        scope = prompts.clip_scope(reader.probe(clip.path))
        points = prompts.read_points(pd.DataFrame(rows, columns=list(_COLUMNS)), scope)
        table = prompts.prompt_table(points, scope=scope)
        job = Job(
            self.engine, self.name, clip.path, table, start=sequence.start, stop=sequence.stop
        )
        self.folder.mkdir(exist_ok=True)
        digest = json_digest({"clip": sequence.clip, "prompts": table.digest()})[:12]
        path = self.folder / f"{digest}-{sequence.start:06d}.jsonl"
        run_to_file(job, path)
        return path

    def frames(self, sequence: TrackedSequence, path: Path) -> dict[FrameKey, Item]:
        """Read the propagated items of a sequence; frames before the first click are empty."""
        truth = self.footage.truth[sequence.clip]
        items = {
            (sequence.clip, frame): replace(item, objects=())
            for frame, item in truth.items()
            if sequence.start <= frame < sequence.stop
        }
        for item in journal.read(path):
            if (sequence.clip, item.frame) in items:
                items[sequence.clip, item.frame] = replace(item, video=sequence.clip)
        return items
