"""What people said of tasks: whose word stands, and what is not certain enough to be taken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from annotate import tasks
from annotate.labelstudio import Server
from annotate.tasks import Task

_ASKED_AT_ONCE = 200  # numbers of tasks that fit into an address


@dataclass(frozen=True)
class Said:
    """What was said of a task: by whom, when, and its regions."""

    who: str
    when: str
    regions: Sequence[Mapping[str, Any]]

    def by(self, region: str) -> dict[str, str]:
        """What an object that a person changed tells of it."""
        return {"who": self.who, "when": self.when, "region": region}


@dataclass
class Hearing:
    """What was said in a project; counts what it hears, and notes what is not certain."""

    server: Server
    project: int
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[tuple[str, str]] = field(default_factory=list)
    _people: dict[int, str] = field(default_factory=dict)

    def full(self, wanted: Iterable[Task]) -> dict[int, dict[str, Any]]:
        """What was said of the tasks on which anybody worked, whole, by their numbers.

        The SDK sends `ids`, which the server does not know, and all tasks come.
        """
        found: dict[int, dict[str, Any]] = {}
        ids = (str(task["id"]) for task in wanted if tasks.touched(task))
        for some in tasks.chunks(ids, _ASKED_AT_ONCE):
            params = {"exportType": "JSON", "download_all_tasks": "true", "ids[]": some}
            listed = self.server.get(f"/api/projects/{self.project}/export", params)
            found |= {task["id"]: task for task in listed}
        return found

    def one(
        self, name: str, there: Sequence[Task], told: Mapping[int, Mapping[str, Any]]
    ) -> Said | None:
        """The one thing that was said of a frame; None, counted or noted, where there is none."""
        written = [
            a for task in there if task["id"] in told for a in told[task["id"]]["annotations"]
        ]
        live = [each for each in written if not each["was_cancelled"]]
        best = [each for each in live if each.get("ground_truth")]
        live = best if len(best) == 1 else live
        draft = any(task["draft_exists"] for task in there)
        if draft:
            self.note(name, "draft" if live else "begun", "a draft is not submitted")
        if len({json.dumps(each["result"], sort_keys=True) for each in live}) > 1:
            people = sorted({self._person(each) for each in live})
            why = f"{len(live)} annotations, by {', '.join(people)}: delete all but one, or star it"
            self.note(name, "several", why)
            return None
        if live:
            newest = max(live, key=lambda each: str(each["updated_at"]))
            regions = [r for r in newest["result"] if r.get("type") != "relation"]
            return Said(self._person(newest), newest["updated_at"], regions)
        if written:
            self.note(name, "skipped", f"by {self._person(written[-1])}")
        elif not draft:
            self.counts["not looked at"] += 1
        return None

    def note(self, name: str, state: str, why: str) -> None:
        """Count and note something that a person should look at."""
        self.counts[state] += 1
        self.notes.append((name, f"{state}: {why}"))

    def _person(self, annotation: Mapping[str, Any]) -> str:
        number = annotation["completed_by"]
        if not self._people:
            self._people = {each["id"]: each["email"] for each in self.server.get("/api/users/")}
        return self._people.get(number, f"user {number}")
