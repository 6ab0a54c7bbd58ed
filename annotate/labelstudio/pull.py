"""Pull corrected annotations from Label Studio; untouched objects return unchanged.

Only submitted frames are in the corrected dataset: a frame that was not reviewed is not a negative.
Where annotations disagree or are unclear, the frame is left out, and the report says so.
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
from annotate.items.sequences import chunks
from annotate.labelstudio.client import Project, StudioClient
from annotate.labelstudio.regions import check_size, to_object
from annotate.labelstudio.tasks import (
    STATE_COLUMNS,
    Task,
    config_labels,
    find_tasks,
    task_status,
)

_IDS_PER_REQUEST = 200  # task ids that fit into a URL
PULL_FILE = "pulled.json"  # in a corrected dataset: server, project and time of the last change
_BATCH_FRAMES = 200  # frames whose annotations are held in memory
_SINCE_OVERLAP = timedelta(seconds=10)  # to get what was saved during the last pull


@dataclass(frozen=True)
class Verdict:
    """The submitted annotation of a task: author, time, and regions."""

    author: str
    updated_at: str
    regions: Sequence[Mapping[str, Any]]

    def provenance(self, region_id: str) -> dict[str, str]:
        """Make the record of who changed an object, when, and in which region."""
        return {"who": self.author, "when": self.updated_at, "region": region_id}


@dataclass
class AnnotationReader:
    """Reads the annotations of a project, counts frames by state, and notes unclear ones."""

    client: StudioClient
    project: int
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[tuple[str, str]] = field(default_factory=list)
    _emails: dict[int, str] = field(default_factory=dict)

    def fetch_annotated(self, task_states: Iterable[Task]) -> dict[int, dict[str, Any]]:
        """Fetch the tasks that a person worked on, with their annotations, by task id.

        The SDK is not used: it sends `ids`, which the server ignores, so that all tasks come.
        """
        annotated: dict[int, dict[str, Any]] = {}
        ids = (str(task["id"]) for task in task_states if task_status(task))
        for batch in chunks(ids, _IDS_PER_REQUEST):
            params = {"exportType": "JSON", "download_all_tasks": "true", "ids[]": batch}
            listed = self.client.get(f"/api/projects/{self.project}/export", params)
            annotated |= {task["id"]: task for task in listed}
        return annotated

    def read_verdict(
        self,
        name: str,
        task_states: Sequence[Task],
        annotated_tasks: Mapping[int, Mapping[str, Any]],
    ) -> Verdict | None:
        """Read the submitted annotation of a frame; None, counted or noted, where there is not one.

        One annotation that is marked as ground truth wins over the others.
        """
        annotations = [
            annotation
            for task in task_states
            if task["id"] in annotated_tasks
            for annotation in annotated_tasks[task["id"]]["annotations"]
        ]
        submitted = [each for each in annotations if not each["was_cancelled"]]
        starred = [each for each in submitted if each.get("ground_truth")]
        submitted = starred if len(starred) == 1 else submitted
        has_draft = any(task["draft_exists"] for task in task_states)
        if has_draft:
            self.note(name, "draft" if submitted else "begun", "a draft is not submitted")
        if len({json.dumps(each["result"], sort_keys=True) for each in submitted}) > 1:
            authors = ", ".join(sorted({self._author(each) for each in submitted}))
            advice = "delete all but one, or star it"
            self.note(name, "several", f"{len(submitted)} annotations, by {authors}: {advice}")
            return None
        if submitted:
            newest = max(submitted, key=lambda each: str(each["updated_at"]))
            regions = [r for r in newest["result"] if r.get("type") != "relation"]
            return Verdict(self._author(newest), newest["updated_at"], regions)
        if annotations:
            self.note(name, "skipped", f"by {self._author(annotations[-1])}")
        elif not has_draft:
            self.counts["not looked at"] += 1
        return None

    def note(self, name: str, state: str, reason: str) -> None:
        """Count a frame, and note it for a person to look at."""
        self.counts[state] += 1
        self.notes.append((name, f"{state}: {reason}"))

    def _author(self, annotation: Mapping[str, Any]) -> str:
        user_id = annotation["completed_by"]
        if not self._emails:
            self._emails = {each["id"]: each["email"] for each in self.client.get("/api/users/")}
        return self._emails.get(user_id, f"user {user_id}")


@dataclass
class PullReport:
    """The result of a pull: counts of frames by state, and notes (frame, reason) to look at."""

    frame_counts: Counter[str]
    notes: list[tuple[str, str]]
    added_classes: tuple[str, ...] = ()


def pull_dataset(
    dataset: Dataset,
    client: StudioClient,
    out: Path | str,
    *,
    project: str | None = None,
    since_last: bool = False,
    force: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> PullReport:
    """Write the submitted frames of `dataset`, which was pushed to `project`, as dataset `out`.

    `since_last` fetches only the changes since `out` was pulled, and keeps its other frames.

    Raises:
        StudioError: no such project, an image has changed its size, or the server refuses.
        DatasetError: no frame has been submitted.
        OutputError: `out` exists, or cannot be written.
    """
    studio_project = client.require_project(project or dataset.path.absolute().name)
    earlier = _read_earlier_pull(Path(out), client, studio_project) if since_last else None
    return _PullRun(dataset, client, studio_project, Path(out), earlier).run(
        force or since_last, progress
    )


@dataclass(frozen=True)
class _EarlierPull:
    """An earlier pull: the time of its newest change, and its samples by external id."""

    newest: str
    samples: Mapping[str, Sample]


def _read_earlier_pull(out: Path, client: StudioClient, project: Project) -> _EarlierPull:
    try:
        record = json.loads((out / PULL_FILE).read_text(encoding="utf-8"))
        origin, newest = (record["url"], record["project"]), record["newest"]
    except (OSError, ValueError, KeyError):
        raise DatasetError(f"{out}: nothing was pulled there yet; pull all frames first") from None
    if origin != (client.url, project.id):
        raise DatasetError(
            f"{out}: pulled from project {origin[1]} of {origin[0]}, not from {project.id} of "
            f"{client.url}; give another output path"
        )
    pulled = load_dataset(out)
    samples = {external_id(pulled, s.item.video, s.item.frame): s for s in pulled}
    return _EarlierPull(newest, samples)


class _PullRun:
    """The state of one pull."""

    def __init__(
        self,
        dataset: Dataset,
        client: StudioClient,
        project: Project,
        out: Path,
        earlier: _EarlierPull | None,
    ) -> None:
        self._dataset, self._client = dataset, client
        self._project, self._earlier = project, earlier
        offered = config_labels(project.config)
        added = tuple(label for label in offered if label not in dataset.classes)
        self._corrected = replace(dataset, path=out, classes=(*dataset.classes, *added))
        self._reader = reader = AnnotationReader(client, project.id)
        self._report = PullReport(reader.counts, reader.notes, added)
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
        with create_dataset(corrected, header, force=force) as writer:
            writer.split_ranges = dataset.split_ranges
            for sample, item in self._corrected_items(states, progress):
                writer.add(sample.image, item)
                link_or_copy(dataset.images / sample.image, writer.images / sample.image)
            if not writer.count:
                raise DatasetError(
                    f"{self._client.url}: nothing of project {self._project.id} "
                    f"({self._project.title}) has been submitted yet"
                )
            origin = {"url": self._client.url, "project": self._project.id, "newest": self._newest}
            pull_file = writer.images.parent / PULL_FILE
            pull_file.write_text(json.dumps(origin) + "\n", encoding="utf-8")
        return self._report

    def _fetch_states(self) -> dict[str, list[Task]]:
        """Fetch the states of the tasks, changed since an earlier pull, by external id."""
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
        states: dict[str, list[Task]] = {}
        for task in self._client.tasks(self._project.id, STATE_COLUMNS, filters):
            states.setdefault(str(task["data"].get("ext_id")), []).append(task)
            self._newest = max(self._newest, task["updated_at"])
        return states

    def _corrected_items(
        self, states: Mapping[str, list[Task]], progress: Callable[[], None]
    ) -> Iterator[tuple[Sample, Item]]:
        """Iterate over the submitted frames, in the order of the dataset."""
        dataset_names, unchanged = set(), self._unchanged_names(states)
        for samples in chunks(self._dataset, _BATCH_FRAMES):
            names = [external_id(self._dataset, s.item.video, s.item.frame) for s in samples]
            tasks = (task for name in names for task in states.get(name, ()))
            annotated = self._reader.fetch_annotated(tasks)
            for name, sample in zip(names, samples, strict=True):
                dataset_names.add(name)
                item = (
                    self._submitted_item(name, sample, states[name], annotated)
                    if name in states
                    else self._earlier_item(name, unchanged)
                )
                if item is not None:
                    yield sample, item
                progress()
        for name in states.keys() - dataset_names:
            self._reader.note(name, "strange", "a task of a frame that this dataset does not have")

    def _unchanged_names(self, states: Mapping[str, list[Task]]) -> set[str]:
        """Find the frames of the earlier pull that are unchanged and still on the server."""
        names = (
            [name for name in self._earlier.samples if name not in states] if self._earlier else []
        )
        return set(find_tasks(self._client, self._project.id, names))

    def _earlier_item(self, name: str, unchanged_names: set[str]) -> Item | None:
        """Return the item of the earlier pull for a frame without changes on the server."""
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
        verdict = self._reader.read_verdict(name, task_states, annotated_tasks)
        if verdict is None:
            return None
        for region in verdict.regions:
            check_size(region, sample.item)
        try:
            item = _corrected_item(sample.item, verdict)
        except StudioError as error:
            self._reader.note(name, "unclear", str(error))
            return None
        self._reader.counts["submitted"] += 1
        return item


def _corrected_item(item: Item, verdict: Verdict) -> Item:
    """Make the item as a person left it; changed objects record who changed them, and when.

    Raises:
        StudioError: a region cannot be converted to an object.
    """
    originals = dict(zip(object_ids(item.objects), item.objects, strict=True))
    order = {name: index for index, name in enumerate(originals)}
    ordered: list[tuple[int, Object]] = []
    for region in verdict.regions:
        name = str(region.get("id"))
        obj = to_object(region, originals.get(name), item)
        if obj is not None and obj is not originals.get(name):
            obj = replace(obj, by=verdict.provenance(name))
        if obj is not None:
            ordered.append((order.get(name, len(order)), obj))
    ordered.sort(key=lambda pair: pair[0])
    return replace(item, objects=tuple(obj for _, obj in ordered))
