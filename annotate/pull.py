"""Fetch what people made of a dataset: what they left alone comes back to the last bit.

Only the frames that somebody has submitted are in a corrected dataset: one that nobody has looked
at is no negative. What cannot be told for certain is left out, and said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from annotate import folder, journal, ls_config, tasks
from annotate.dataset import place
from annotate.errors import DatasetError, StudioError
from annotate.folder import Dataset, Sample
from annotate.labelstudio import Project, Server
from annotate.lines import Header
from annotate.records import Item, Object
from annotate.regions import check_size, region_ids, to_object
from annotate.said import Hearing, Said
from annotate.tasks import Task

PULLED = "pulled.json"  # in a corrected dataset: where it came from, and how new it is
_AT_ONCE = 200  # frames of which all is held in memory
_OVERLAP = timedelta(seconds=10)  # what was saved while the last pull ran is asked for again


@dataclass
class Pulled:
    """What a pull has found: frames by state, and what a person should look at, each with why."""

    frames: Counter[str]
    notes: list[tuple[str, str]]
    added_classes: tuple[str, ...] = ()


def pull(
    dataset: Dataset,
    server: Server,
    out: Path | str,
    *,
    project: str | None = None,
    since_last: bool = False,
    force: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> Pulled:
    """Write what was submitted of `dataset`, which was pushed to `project`, as the dataset `out`.

    `since_last` asks only for what changed since `out` was pulled, and keeps the rest of it.

    Raises:
        StudioError: no such project, another size than was sent, or the server refuses.
        DatasetError: nothing of it has been submitted.
        OutputError: `out` is already there, or nothing can be written there.
    """
    found = server.named(project or dataset.path.absolute().name)
    last = _last(Path(out), server, found) if since_last else None
    return _Pull(dataset, server, found, Path(out), last).run(force or since_last, progress)


@dataclass(frozen=True)
class _Last:
    """What an earlier pull left: how new it is, and its samples by external id."""

    newest: str
    samples: Mapping[str, Sample]


def _last(out: Path, server: Server, project: Project) -> _Last:
    try:
        told = json.loads((out / PULLED).read_text(encoding="utf-8"))
        origin, newest = (told["url"], told["project"]), told["newest"]
    except (OSError, ValueError, KeyError):
        raise DatasetError(f"{out}: nothing was pulled there yet; pull without --since") from None
    if origin != (server.url, project.id):
        raise DatasetError(f"{out}: pulled from project {origin[1]} of {origin[0]}, not this one")
    old = folder.load(out)
    return _Last(newest, {tasks.external_id(old, s.item.video, s.item.frame): s for s in old})


class _Pull:
    """One pull, under way."""

    def __init__(
        self, dataset: Dataset, server: Server, project: Project, out: Path, last: _Last | None
    ) -> None:
        self._dataset, self._server, self._project, self._last = dataset, server, project, last
        offered = ls_config.labels(project.config)
        added = tuple(label for label in offered if label not in dataset.classes)
        corrected = replace(dataset, path=out, classes=(*dataset.classes, *added))
        self._hearing = hearing = Hearing(server, project.id)
        self._corrected = corrected
        self._done = Pulled(hearing.counts, hearing.notes, added)
        self._newest = last.newest if last else ""

    def run(self, force: bool, progress: Callable[[], None]) -> Pulled:
        dataset, corrected = self._dataset, self._corrected
        states = self._states()
        header = Header(
            "pull",
            {"project": self._project.title},
            vocabulary={"labels": list(corrected.classes)},
            videos=journal.read(dataset.items).header.videos,
        )
        with folder.creating(corrected, header, force=force) as draft:
            draft.stretches = dataset.stretches
            for sample, item in self._items(states, progress):
                draft.add(sample.image, item)
                place(dataset.images / sample.image, draft.images / sample.image)
            if not draft.count:
                raise DatasetError(
                    f"{self._server.url}: nothing of project {self._project.id} "
                    f"({self._project.title}) has been submitted yet"
                )
            told = {"url": self._server.url, "project": self._project.id, "newest": self._newest}
            (draft.images.parent / PULLED).write_text(json.dumps(told) + "\n", encoding="utf-8")
        return self._done

    def _states(self) -> dict[str, list[Task]]:
        """External id -> the tasks which have it, and how far they are."""
        filters = []
        if self._last is not None and self._last.newest:
            since = datetime.fromisoformat(self._last.newest) - _OVERLAP
            filters = [
                {
                    "filter": "filter:tasks:updated_at",
                    "operator": "greater",
                    "type": "Datetime",
                    "value": since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                }
            ]
        found: dict[str, list[Task]] = {}
        for task in self._server.tasks(self._project.id, tasks.STATE, filters):
            found.setdefault(str(task["data"].get("ext_id")), []).append(task)
            self._newest = max(self._newest, task["updated_at"])
        return found

    def _items(
        self, states: Mapping[str, list[Task]], progress: Callable[[], None]
    ) -> Iterator[tuple[Sample, Item]]:
        """The frames that somebody has submitted, in the dataset's order."""
        known, there = set(), self._kept(states)
        for samples in tasks.chunks(self._dataset, _AT_ONCE):
            names = [tasks.external_id(self._dataset, s.item.video, s.item.frame) for s in samples]
            told = self._hearing.full(t for name in names for t in states.get(name, ()))
            for name, sample in zip(names, samples, strict=True):
                known.add(name)
                item = (
                    self._item(name, sample, states[name], told)
                    if name in states
                    else self._as_before(name, there)
                )
                if item is not None:
                    yield sample, item
                progress()
        for name in states.keys() - known:
            self._hearing.note(name, "strange", "a task that is of no frame of this dataset")

    def _kept(self, states: Mapping[str, list[Task]]) -> set[str]:
        """Of what the last pull left and nobody has changed: what is still on the server."""
        names = [name for name in self._last.samples if name not in states] if self._last else []
        return set(tasks.find(self._server, self._project.id, names))

    def _as_before(self, name: str, kept: set[str]) -> Item | None:
        """What the last pull left of a frame of which the server has told nothing."""
        if self._last is None:
            self._hearing.counts["not pushed"] += 1
        elif name in kept:
            self._hearing.counts["as before"] += 1
            return self._last.samples[name].item
        elif name in self._last.samples:
            self._hearing.note(name, "deleted", "its task is gone from the project: left out")
        return None

    def _item(
        self,
        name: str,
        sample: Sample,
        there: Sequence[Task],
        told: Mapping[int, Mapping[str, Any]],
    ) -> Item | None:
        said = self._hearing.one(name, there, told)
        if said is None:
            return None
        for region in said.regions:
            check_size(region, sample.item)
        try:
            item = _corrected(sample.item, said)
        except StudioError as error:
            self._hearing.note(name, "unclear", str(error))
            return None
        self._hearing.counts["submitted"] += 1
        return item


def _corrected(item: Item, said: Said) -> Item:
    """The item as a person left it; what changed says who, and when.

    Raises:
        StudioError: a region that is no object.
    """
    was = dict(zip(region_ids(item.objects), item.objects, strict=True))
    order = {name: place for place, name in enumerate(was)}
    found: list[tuple[int, Object]] = []
    for region in said.regions:
        name = str(region.get("id"))
        thing = to_object(region, was.get(name), item)
        if thing is not None and thing is not was.get(name):
            thing = replace(thing, by=said.by(name))
        if thing is not None:
            found.append((order.get(name, len(order)), thing))
    found.sort(key=lambda pair: pair[0])
    return replace(item, objects=tuple(thing for _, thing in found))
