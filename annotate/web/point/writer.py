"""Know the files of the result of a session: the items, and a dataset of them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from annotate.dataset.build import build_dataset
from annotate.errors import SettingsDiffer
from annotate.files import write_text
from annotate.items import journal
from annotate.items.records import Item
from annotate.propagators.job import Job
from annotate.web.point.document import Document

FRAMES_FILE = "frames.csv"


class ResultWriter(Protocol):
    """Knows the files of the result of a session."""

    @property
    def output(self) -> Path:
        """The file of items."""

    def check(self) -> None:
        """Refuse to write over items that are not of this session."""

    def message(self, backward: bool) -> str:
        """Say what was saved, for the page."""

    def items(self) -> Iterable[Item]:
        """Read the items that were saved."""

    def build_dataset(self, document: Document, seen: Collection[int]) -> str:
        """Build the dataset of the saved items; return a message for the page.

        `seen` are the frames that a person has looked at.
        """


@dataclass(frozen=True)
class PropagatorWriter:
    """The files that `annotate propagate` and `annotate build` write of the same points."""

    job: Job
    points: Path
    output: Path
    dataset: Path

    def check(self) -> None:
        """Refuse to write over items of another clip, engine or range.

        Raises:
            SettingsDiffer: these items are there; other prompts, or one direction more, may differ.
            ItemsError: the file has no items.
        """
        if self.output.exists():
            old, new = journal.read(self.output).header, self.job.header()
            ours = {name: old.settings.get(name) for name in ("prompts", "both")}
            same = replace(new, settings={**new.settings, **ours}, vocabulary=old.vocabulary)
            if differences := old.differences(same):
                what = "; ".join(differences)
                raise SettingsDiffer(f"{self.output}: made with {what}: give another `output`")

    def saved_both_directions(self) -> bool:
        """Return whether the items that are there were tracked backward too."""
        if not self.output.exists():
            return False
        return bool(journal.read(self.output).header.settings.get("both"))

    def message(self, backward: bool) -> str:
        """Say what was saved, and by which command line it is made again."""
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

    def build_dataset(self, document: Document, seen: Collection[int]) -> str:
        """Build a dataset of the saved items; return a message for the page.

        `frames.csv` in the dataset says which frames a person has looked at, prompted, or found
        right.
        """
        dataset = build_dataset([self.output], self.dataset, force=True)
        prompted = {row.frame for row in document.rows}
        rows = [
            f"{frame},{frame in seen:d},{frame in prompted:d},{frame in document.reviewed:d}"
            for frame in (sample.item.frame for sample in dataset)
        ]
        header = "frame,looked_at,prompted,looks_right"
        write_text(self.dataset / FRAMES_FILE, "\n".join([header, *rows, ""]))
        return f"built {self.dataset}: {len(rows)} frames, {FRAMES_FILE} says which were looked at"
