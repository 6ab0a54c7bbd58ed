"""Pull corrected annotations from Label Studio; untouched objects return unchanged.

Only frames that somebody has submitted are in a corrected dataset: a frame that nobody has looked
at is not a negative. Where annotations disagree or are unclear, the frame is left out and noted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from annotate.dataset.folder import (
    Dataset,
    Sample,
    create_dataset,
    external_id,
    link_or_copy,
    load_dataset,
    object_ids,
)
from annotate.errors import DatasetError, StudioError
from annotate.items import journal
from annotate.items.records import Header, Item, Object
from annotate.labelstudio.client import Project, StudioClient
from annotate.labelstudio.regions import check_size, to_object
from annotate.labelstudio.tasks import (
    STATE_COLUMNS,
    Task,
    chunks,
    config_labels,
    find_tasks,
    task_status,
)

_IDS_PER_REQUEST = 200  # numbers of tasks that fit into an address


@dataclass(frozen=True)
class Verdict:
    """What was said of a task: by whom, when, and its regions."""

    author: str
    updated_at: str
    regions: Sequence[Mapping[str, Any]]

    def provenance(self, region_id: str) -> dict[str, str]:
        """What an object that a person changed tells of it."""
        return {"who": self.author, "when": self.updated_at, "region": region_id}


@dataclass
class AnnotationReader:
    """What was said in a project; counts what it hears, and notes what is not certain."""

    server: StudioClient
    project: int
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[tuple[str, str]] = field(default_factory=list)
    _emails: dict[int, str] = field(default_factory=dict)

    def fetch_annotated(self, task_states: Iterable[Task]) -> dict[int, dict[str, Any]]:
        """What was said of the tasks on which anybody worked, whole, by their numbers.

        The SDK sends `ids`, which the server does not know, and all tasks come.
        """
        found: dict[int, dict[str, Any]] = {}
        ids = (str(task["id"]) for task in task_states if task_status(task))
        for some in chunks(ids, _IDS_PER_REQUEST):
            params = {"exportType": "JSON", "download_all_tasks": "true", "ids[]": some}
            listed = self.server.get(f"/api/projects/{self.project}/export", params)
            found |= {task["id"]: task for task in listed}
        return found

    def read_verdict(
        self,
        name: str,
        task_states: Sequence[Task],
        annotated_tasks: Mapping[int, Mapping[str, Any]],
    ) -> Verdict | None:
        """The one thing that was said of a frame; None, counted or noted, where there is none."""
        written = [
            a
            for task in task_states
            if task["id"] in annotated_tasks
            for a in annotated_tasks[task["id"]]["annotations"]
        ]
        live = [each for each in written if not each["was_cancelled"]]
        best = [each for each in live if each.get("ground_truth")]
        live = best if len(best) == 1 else live
        draft = any(task["draft_exists"] for task in task_states)
        if draft:
            self.note(name, "draft" if live else "begun", "a draft is not submitted")
        if len({json.dumps(each["result"], sort_keys=True) for each in live}) > 1:
            people = sorted({self._author(each) for each in live})
            why = f"{len(live)} annotations, by {', '.join(people)}: delete all but one, or star it"
            self.note(name, "several", why)
            return None
        if live:
            newest = max(live, key=lambda each: str(each["updated_at"]))
            regions = [r for r in newest["result"] if r.get("type") != "relation"]
            return Verdict(self._author(newest), newest["updated_at"], regions)
        if written:
            self.note(name, "skipped", f"by {self._author(written[-1])}")
        elif not draft:
            self.counts["not looked at"] += 1
        return None

    def note(self, name: str, state: str, reason: str) -> None:
        """Count and note something that a person should look at."""
        self.counts[state] += 1
        self.notes.append((name, f"{state}: {reason}"))

    def _author(self, annotation: Mapping[str, Any]) -> str:
        number = annotation["completed_by"]
        if not self._emails:
            self._emails = {each["id"]: each["email"] for each in self.server.get("/api/users/")}
        return self._emails.get(number, f"user {number}")


PULL_FILE = "pulled.json"  # in a corrected dataset: where it came from, and how new it is
_BATCH_FRAMES = 200  # frames of which all is held in memory
_SINCE_OVERLAP = timedelta(seconds=10)  # what was saved while the last pull ran is asked for again


@dataclass
class PullReport:
    """What a pull has found: frames by state, and what a person should look at, each with why."""

    frame_counts: Counter[str]
    notes: list[tuple[str, str]]
    added_classes: tuple[str, ...] = ()


def pull_dataset(
    dataset: Dataset,
    server: StudioClient,
    out: Path | str,
    *,
    project: str | None = None,
    since_last: bool = False,
    force: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> PullReport:
    """Write what was submitted of `dataset`, which was pushed to `project`, as the dataset `out`.

    `since_last` asks only for what changed since `out` was pulled, and keeps the rest of it.

    Raises:
        StudioError: no such project, another size than was sent, or the server refuses.
        DatasetError: nothing of it has been submitted.
        OutputError: `out` is already there, or nothing can be written there.
    """
    found = server.require_project(project or dataset.path.absolute().name)
    last = _read_earlier_pull(Path(out), server, found) if since_last else None
    return _PullRun(dataset, server, found, Path(out), last).run(force or since_last, progress)


@dataclass(frozen=True)
class _EarlierPull:
    """What an earlier pull left: how new it is, and its samples by external id."""

    newest: str
    samples: Mapping[str, Sample]


def _read_earlier_pull(out: Path, server: StudioClient, project: Project) -> _EarlierPull:
    try:
        told = json.loads((out / PULL_FILE).read_text(encoding="utf-8"))
        origin, newest = (told["url"], told["project"]), told["newest"]
    except (OSError, ValueError, KeyError):
        raise DatasetError(f"{out}: nothing was pulled there yet; pull without --since") from None
    if origin != (server.url, project.id):
        raise DatasetError(f"{out}: pulled from project {origin[1]} of {origin[0]}, not this one")
    old = load_dataset(out)
    return _EarlierPull(newest, {external_id(old, s.item.video, s.item.frame): s for s in old})


class _PullRun:
    """One pull, under way."""

    def __init__(
        self,
        dataset: Dataset,
        server: StudioClient,
        project: Project,
        out: Path,
        earlier: _EarlierPull | None,
    ) -> None:
        self._dataset, self._server, self._project, self._earlier = (
            dataset,
            server,
            project,
            earlier,
        )
        offered = config_labels(project.config)
        added = tuple(label for label in offered if label not in dataset.classes)
        corrected = replace(dataset, path=out, classes=(*dataset.classes, *added))
        self._reader = hearing = AnnotationReader(server, project.id)
        self._corrected = corrected
        self._report = PullReport(hearing.counts, hearing.notes, added)
        self._newest = earlier.newest if earlier else ""

    def run(self, force: bool, progress: Callable[[], None]) -> PullReport:
        dataset, corrected = self._dataset, self._corrected
        states = self._fetch_states()
        header = Header(
            "pull",
            {"project": self._project.title},
            vocabulary={"labels": list(corrected.classes)},
            videos=journal.read(dataset.items).header.videos,
        )
        with create_dataset(corrected, header, force=force) as draft:
            draft.split_ranges = dataset.split_ranges
            for sample, item in self._corrected_items(states, progress):
                draft.add(sample.image, item)
                link_or_copy(dataset.images / sample.image, draft.images / sample.image)
            if not draft.count:
                raise DatasetError(
                    f"{self._server.url}: nothing of project {self._project.id} "
                    f"({self._project.title}) has been submitted yet"
                )
            told = {"url": self._server.url, "project": self._project.id, "newest": self._newest}
            (draft.images.parent / PULL_FILE).write_text(json.dumps(told) + "\n", encoding="utf-8")
        return self._report

    def _fetch_states(self) -> dict[str, list[Task]]:
        """External id -> the tasks which have it, and how far they are."""
        filters = []
        if self._earlier is not None and self._earlier.newest:
            since = datetime.fromisoformat(self._earlier.newest) - _SINCE_OVERLAP
            filters = [
                {
                    "filter": "filter:tasks:updated_at",
                    "operator": "greater",
                    "type": "Datetime",
                    "value": since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                }
            ]
        found: dict[str, list[Task]] = {}
        for task in self._server.tasks(self._project.id, STATE_COLUMNS, filters):
            found.setdefault(str(task["data"].get("ext_id")), []).append(task)
            self._newest = max(self._newest, task["updated_at"])
        return found

    def _corrected_items(
        self, states: Mapping[str, list[Task]], progress: Callable[[], None]
    ) -> Iterator[tuple[Sample, Item]]:
        """The frames that somebody has submitted, in the dataset's order."""
        known, there = set(), self._unchanged_names(states)
        for samples in chunks(self._dataset, _BATCH_FRAMES):
            names = [external_id(self._dataset, s.item.video, s.item.frame) for s in samples]
            told = self._reader.fetch_annotated(t for name in names for t in states.get(name, ()))
            for name, sample in zip(names, samples, strict=True):
                known.add(name)
                item = (
                    self._submitted_item(name, sample, states[name], told)
                    if name in states
                    else self._earlier_item(name, there)
                )
                if item is not None:
                    yield sample, item
                progress()
        for name in states.keys() - known:
            self._reader.note(name, "strange", "a task that is of no frame of this dataset")

    def _unchanged_names(self, states: Mapping[str, list[Task]]) -> set[str]:
        """Of what the last pull left and nobody has changed: what is still on the server."""
        names = (
            [name for name in self._earlier.samples if name not in states] if self._earlier else []
        )
        return set(find_tasks(self._server, self._project.id, names))

    def _earlier_item(self, name: str, unchanged_names: set[str]) -> Item | None:
        """What the last pull left of a frame of which the server has told nothing."""
        if self._earlier is None:
            self._reader.counts["not pushed"] += 1
        elif name in unchanged_names:
            self._reader.counts["as before"] += 1
            return self._earlier.samples[name].item
        elif name in self._earlier.samples:
            self._reader.note(name, "deleted", "its task is gone from the project: left out")
        return None

    def _submitted_item(
        self,
        name: str,
        sample: Sample,
        task_states: Sequence[Task],
        annotated_tasks: Mapping[int, Mapping[str, Any]],
    ) -> Item | None:
        said = self._reader.read_verdict(name, task_states, annotated_tasks)
        if said is None:
            return None
        for region in said.regions:
            check_size(region, sample.item)
        try:
            item = _corrected_item(sample.item, said)
        except StudioError as error:
            self._reader.note(name, "unclear", str(error))
            return None
        self._reader.counts["submitted"] += 1
        return item


def _corrected_item(item: Item, verdict: Verdict) -> Item:
    """The item as a person left it; what changed says who, and when.

    Raises:
        StudioError: a region that is no object.
    """
    was = dict(zip(object_ids(item.objects), item.objects, strict=True))
    order = {name: place for place, name in enumerate(was)}
    found: list[tuple[int, Object]] = []
    for region in verdict.regions:
        name = str(region.get("id"))
        thing = to_object(region, was.get(name), item)
        if thing is not None and thing is not was.get(name):
            thing = replace(thing, by=verdict.provenance(name))
        if thing is not None:
            found.append((order.get(name, len(order)), thing))
    found.sort(key=lambda pair: pair[0])
    return replace(item, objects=tuple(thing for _, thing in found))
