"""Pull corrected annotations from Label Studio; untouched objects return unchanged.

Only submitted frames are in the corrected dataset: a frame that was not reviewed is not a negative.
Where annotations disagree or are unclear, the frame is left out, and the report says so.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from annotate.dataset.folder import (
    DATASET_FILE,
    Dataset,
    Sample,
    SplitRange,
    create_dataset,
    external_id,
    link_or_copy,
    load_dataset,
)
from annotate.dataset.split import extend_ranges
from annotate.errors import DatasetError, OutputError, StudioError
from annotate.files import read_json, refuse_existing, refuse_input
from annotate.items import journal
from annotate.items.foreign_records import is_text, shown
from annotate.items.records import Header, Item, item_from_json, item_to_json
from annotate.items.sequences import chunks
from annotate.labelstudio.annotations import AnnotationReader, correct_item, group_notes
from annotate.labelstudio.client import Project, StudioClient
from annotate.labelstudio.push import require_project
from annotate.labelstudio.tasks import STATE_COLUMNS, Task, config_labels, find_tasks

PULL_FILE = "pulled.json"  # in a corrected dataset: server, project, time of the last change, notes
_OWN_FILES = {"images", "items.jsonl", DATASET_FILE, PULL_FILE}
_BATCH_FRAMES = 200  # frames whose annotations are held in memory
_SINCE_OVERLAP = timedelta(seconds=10)  # to get what was saved during the last pull
_MAX_REASONS = 3  # in the error about a pull without a frame


@dataclass
class PullReport:
    """The result of a pull: counts of frames by state, and notes (frame, reason) to look at.

    For clips, `clip_counts` counts the clips by state, and `frame_counts` their written frames.
    """

    frame_counts: Counter[str]
    notes: list[tuple[str, str]]
    added_classes: tuple[str, ...] = ()
    clip_counts: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """List the notes, those of one reason in one line with the first frames and their count."""
        return group_notes(self.notes)


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
        StudioError: no such project, or the server refuses.
        DatasetError: no submitted frame can be used, or `since_last` and `out` was not pulled from
            this project.
        OutputError: `out` exists, is the dataset itself, or cannot be written.
    """
    out = Path(out)
    refuse_existing(out, force or since_last, marker_file=DATASET_FILE)
    refuse_input(out, [dataset.path, dataset.items])
    studio_project = require_project(client, dataset, project)
    identity = _identity(client, studio_project)
    earlier = _read_earlier_pull(out, client, studio_project, identity) if since_last else None
    run = _PullRun(dataset, client, studio_project, identity, out, earlier)
    try:
        with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n") as spool:
            return run.run(spool, force or since_last, progress)
    except OSError as error:
        raise OutputError(f"{error.filename or out}: {error.strerror or error}") from None


def describe_empty(client: StudioClient, project: Project, report: PullReport) -> str:
    """Say what a pull found that has nothing to write: counts, and the first reasons."""
    counts = report.clip_counts or report.frame_counts
    found = {state: count for state, count in counts.items() if state != "not pushed"}
    where = f"{client.url}: nothing of project {project.id} ({project.title})"
    if not found.keys() - {"not looked at"}:
        return f"{where} has been submitted yet"
    listed = ", ".join(f"{count} {state}" for state, count in sorted(found.items()))
    reasons = report.lines()
    more = [f"and {len(reasons) - _MAX_REASONS} more reasons"] * (len(reasons) > _MAX_REASONS)
    return f"{where} can be used: {listed}; {'; '.join(reasons[:_MAX_REASONS] + more)}"


@dataclass(frozen=True)
class _EarlierPull:
    """An earlier pull: the time of its newest change, its dataset, its samples by external id."""

    newest: str
    dataset: Dataset
    samples: Mapping[str, Sample]


def _identity(client: StudioClient, project: Project) -> dict[str, Any]:
    """Return what tells a project from another of the same address and number."""
    created = {"server": client.server_identity(), "created": project.created_at}
    return {"project": project.id, **created}


def _read_earlier_pull(
    out: Path, client: StudioClient, project: Project, identity: Mapping[str, Any]
) -> _EarlierPull:
    record = read_json(out / PULL_FILE) or {}
    newest = record.get("newest")
    if not isinstance(newest, str) or not _is_time(newest):
        raise DatasetError(f"{out}: nothing was pulled there yet; pull all frames first")
    if record.get("identity") != identity:
        raise DatasetError(
            f"{out}: pulled from project {shown(record.get('project'))} of "
            f"{shown(record.get('url'))}, and not from this project {project.id} of {client.url}, "
            f"which was created at {project.created_at}; give another output path"
        )
    pulled = load_dataset(out)
    samples = {external_id(pulled, s.item.video, s.item.frame): s for s in pulled}
    return _EarlierPull(newest, pulled, samples)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return not text
    return True


class _PullRun:
    """The state of one pull."""

    def __init__(
        self,
        dataset: Dataset,
        client: StudioClient,
        project: Project,
        identity: Mapping[str, Any],
        out: Path,
        earlier: _EarlierPull | None,
    ) -> None:
        self._dataset, self._client, self._identity, self._out = dataset, client, identity, out
        self._project, self._earlier = project, earlier
        offered = [*(earlier.dataset.classes if earlier else ()), *config_labels(project.config)]
        self._classes = dict.fromkeys([*dataset.classes, *filter(is_text, offered)])
        self._reader = reader = AnnotationReader(client, project.id)
        self._report = PullReport(reader.counts, reader.notes)
        self._newest = earlier.newest if earlier else ""

    def run(self, spool: IO[str], force: bool, progress: Callable[[], None]) -> PullReport:
        """Pull into `spool` until all classes are known, then write the dataset."""
        dataset, report = self._dataset, self._report
        count = 0
        for sample, item in self._corrected_items(self._fetch_states(), progress):
            spool.write(f"{json.dumps(sample.image)}\n{item_to_json(item)}\n")
            self._classes |= dict.fromkeys(obj.label for obj in item.objects)
            count += 1
        if not count:
            raise DatasetError(describe_empty(self._client, self._project, report))
        classes = tuple(self._classes)
        report.added_classes = tuple(name for name in classes if name not in dataset.classes)
        header = Header(
            "pull",
            {"project": self._project.title},
            vocabulary={"labels": list(classes)},
            videos=journal.read(dataset.items).header.videos,
        )
        corrected = replace(dataset, path=self._out, classes=classes)
        with create_dataset(corrected, header, force=force) as writer:
            frames: list[tuple[str, int]] = []
            spool.seek(0)
            for image, line in zip(spool, spool, strict=True):
                name, item = json.loads(image), item_from_json(line, str(self._out))
                writer.add(name, item)
                link_or_copy(dataset.images / name, writer.images / name)
                frames.append((item.video, item.frame))
            writer.split_ranges = self._split_ranges(frames)
            folder = writer.images.parent
            self._write_origin(folder / PULL_FILE)
            if self._earlier is not None:
                own = {sample.image for sample in self._earlier.samples.values()}
                _keep_foreign_files(self._out, folder, own)
        return report

    def _write_origin(self, file: Path) -> None:
        origin = {"url": self._client.url, "project": self._project.id, "newest": self._newest}
        origin |= {"identity": self._identity, "notes": self._report.notes}
        file.write_text(json.dumps(origin) + "\n", encoding="utf-8")

    def _split_ranges(self, frames: Sequence[tuple[str, int]]) -> tuple[SplitRange, ...]:
        """Keep the split of an earlier pull; a frame between shots gets that of the nearest."""
        if self._earlier is None or not self._earlier.dataset.split_ranges:
            return self._dataset.split_ranges
        return extend_ranges(self._earlier.dataset.split_ranges, frames)

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
            data = task.get("data")
            name = data.get("ext_id") if isinstance(data, dict) else None
            states.setdefault(name if is_text(name) else f"task {task['id']}", []).append(task)
            self._newest = max(self._newest, str(task.get("updated_at") or ""))
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
        for name in sorted(states.keys() - dataset_names):
            self._reader.note(
                shown(name), "strange", "a task of a frame that this dataset does not have"
            )

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
        try:
            item = correct_item(sample.item, verdict)
        except StudioError as error:
            self._reader.note(name, "unclear", str(error))
            return None
        for remark in verdict.remarks:
            self._reader.remark(name, remark)
        self._reader.counts["submitted"] += 1
        return item


def _keep_foreign_files(old: Path, new: Path, own_images: Iterable[str]) -> None:
    """Link the files of a folder that no pull has written into the folder that replaces it."""
    own = {f"images/{name}" for name in own_images}
    for path in sorted(old.rglob("*")):
        name = path.relative_to(old)
        is_own = str(name) in _OWN_FILES or name.as_posix() in own
        if is_own or (path.is_dir() and not path.is_symlink()):
            continue
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            continue
        try:
            os.link(path, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(path, target, follow_symlinks=False)
