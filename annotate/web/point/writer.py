"""Write the result of a session: items by the run of the command line, and a dataset of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from annotate import prompts
from annotate.dataset.build import build_dataset
from annotate.items.points import PromptScope
from annotate.items.records import Item
from annotate.propagators.job import Job
from annotate.propagators.run import update
from annotate.web.point.document import Document


class ResultWriter(Protocol):
    """Writes the result of a session, as the command line does."""

    def save(self, backward: bool) -> str:
        """Write the items by the run of the command line; return a message for the page."""

    def build_dataset(self, document: Document, backward: bool) -> str:
        """Build the dataset; return a message for the page."""


@dataclass(frozen=True)
class PropagatorWriter:
    """Writes what `annotate propagate` writes of the same points."""

    job: Job
    points: Path
    scope: PromptScope
    output: Path
    dataset: Path
    progress: Callable[[Item], None] = lambda item: None

    def save(self, backward: bool) -> str:
        """Write the items by the run of the command line; return a message for the page."""
        table = prompts.prompt_table(prompts.read_points(self.points, self.scope), scope=self.scope)
        job = replace(self.job, prompts=table, both_directions=backward)
        update(job, self.output, progress=self.progress)
        return f"saved {self.output}; the same bytes: {self.command(backward)}"

    def command(self, backward: bool) -> str:
        """Return the command line that writes the same items."""
        words = ["annotate", "propagate", str(self.job.clip), "-p", str(self.points)]
        words += ["--engine", self.job.source] if self.job.source != "light" else []
        words += ["--both"] if backward else []
        words += ["--start", str(self.job.start)] if self.job.start else []
        words += ["--stop", str(self.job.stop)] if self.job.stop is not None else []
        return shlex.join([*words, "-o", str(self.output)])

    def build_dataset(self, document: Document, backward: bool) -> str:
        """Save the items and build a dataset of them; return a message for the page."""
        self.save(backward)
        build_dataset([self.output], self.dataset, force=True)
        return f"built {self.dataset}"
