"""Write the result of a session: items by the run of the command line, and a dataset of them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from annotate import prompts
from annotate.dataset.build import build_dataset
from annotate.files import write_text
from annotate.items import journal
from annotate.items.points import PromptScope
from annotate.items.records import Item
from annotate.propagators.job import Job
from annotate.propagators.run import update
from annotate.web.point.document import Document

FRAMES_FILE = "frames.csv"


class ResultWriter(Protocol):
    """Writes the result of a session, as the command line does."""

    def save(self, backward: bool) -> str:
        """Write the items by the run of the command line; return a message for the page."""

    def items(self) -> Iterable[Item]:
        """Read the items that were saved."""

    def build_dataset(self, document: Document, seen: Collection[int], backward: bool) -> str:
        """Build the dataset; return a message for the page.

        `seen` are the frames that a person has looked at.
        """


@dataclass(frozen=True)
class PropagatorWriter:
    """Writes what `annotate propagate` writes of the same points."""

    job: Job
    points: Path
    scope: PromptScope
    output: Path
    dataset: Path

    def save(self, backward: bool) -> str:
        """Write the items by the run of the command line; return a message for the page."""
        table = prompts.prompt_table(prompts.read_points(self.points, self.scope), scope=self.scope)
        job = replace(self.job, prompts=table, both_directions=backward)
        update(job, self.output)
        return f"saved {self.output}; the same bytes: {self.command(backward)}"

    def items(self) -> Iterable[Item]:
        """Read the items that were saved."""
        return journal.read(self.output)

    def command(self, backward: bool) -> str:
        """Return the command line that writes the same items."""
        words = ["annotate", "propagate", str(self.job.clip), "-p", str(self.points)]
        words += ["--engine", self.job.source] if self.job.source != "light" else []
        words += ["--both"] if backward else []
        words += ["--start", str(self.job.start)] if self.job.start else []
        words += ["--stop", str(self.job.stop)] if self.job.stop is not None else []
        return shlex.join([*words, "-o", str(self.output)])

    def build_dataset(self, document: Document, seen: Collection[int], backward: bool) -> str:
        """Save the items and build a dataset of them; return a message for the page.

        `frames.csv` in the dataset says which frames a person has looked at, prompted, or found
        right.
        """
        self.save(backward)
        dataset = build_dataset([self.output], self.dataset, force=True)
        prompted = {row.frame for row in document.rows}
        rows = [
            f"{frame},{frame in seen:d},{frame in prompted:d},{frame in document.reviewed:d}"
            for frame in (sample.item.frame for sample in dataset)
        ]
        header = "frame,looked_at,prompted,looks_right"
        write_text(self.dataset / FRAMES_FILE, "\n".join([header, *rows, ""]))
        return f"built {self.dataset}: {len(rows)} frames, {FRAMES_FILE} says which were looked at"
