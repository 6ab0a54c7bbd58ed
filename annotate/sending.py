"""Bring tasks to a project: each once, and nothing that a person has touched.

There is no unique key on the server, and an answer that is lost does not mean that nothing was
done. So every task has an external id; before and after anything is sent, the server is asked
which it has.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate import staging, tasks
from annotate.errors import DatasetError, LostAnswer
from annotate.labelstudio import Project, Server
from annotate.regions import Region
from annotate.tasks import Task

_BATCH = 500  # tasks a request
_BATCH_BYTES = 20 * 2**20
_MOST_BYTES = 200 * 2**20  # that a server takes in one request
_TRIES, _LOOKS, _PAUSE_SECONDS = 3, 20, 1.0  # with a batch of which the answer was lost


@dataclass(frozen=True)
class Wanted:
    """A task to be there: its data, the file that it shows, and what is proposed on it.

    `shows` is the data's key for the file's address: "image" or "video".
    """

    data: Mapping[str, Any]
    shows: str
    file: Path
    regions: Callable[[], list[Region]]

    @property
    def name(self) -> str:
        """Its external id."""
        return str(self.data["ext_id"])


@dataclass
class Pushed:
    """What a push has done: frames by what became of them, and classes that the project got."""

    project: Project
    url: str
    frames: Counter[str] = field(default_factory=Counter)
    added_classes: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Where a person corrects them."""
        return f"{self.url}/projects/{self.project.id}/data"


def send(
    server: Server,
    wanted: Callable[[], Iterable[Wanted]],
    done: Pushed,
    progress: Callable[[], None],
) -> None:
    """Make the tasks that the project of `done` lacks, and refresh the predictions of others."""
    project = done.project
    names = [each.name for each in wanted()] if project.tasks else []
    there = tasks.find(server, project.id, names)
    there = _without_doubles(server, project.id, there, done)
    put = staging.stager(server, project)
    new = (_task(each, put) for each in wanted() if each.name not in there)
    _create(server, project.id, new, done, progress)
    _refresh(server, project.id, wanted(), there, done, progress)
    if project.model_version != tasks.PREDICTION and done.frames:
        server.send("PATCH", f"/api/projects/{project.id}/", {"model_version": tasks.PREDICTION})


def _task(wanted: Wanted, put: Callable[[Path, str], str]) -> dict[str, Any]:
    """A task as it is sent, with its file in place."""
    data = {wanted.shows: put(wanted.file, wanted.name), **wanted.data}
    return {"data": data, "predictions": [tasks.prediction(wanted.regions())]}


def batches(new: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Tasks as a request takes them: not too many, not too large.

    Raises:
        DatasetError: one task alone is more than a server takes.
    """
    batch: list[dict[str, Any]] = []
    room = _BATCH_BYTES
    for task in new:
        size = _size(task)
        if size > _MOST_BYTES:
            raise DatasetError(
                f"{task['data']['ext_id']}: {size // 2**20} MB as a task, more than the "
                f"{_MOST_BYTES // 2**20} that Label Studio takes; take objects out, or scale down"
            )
        if batch and (len(batch) == _BATCH or size > room):
            yield batch
            batch, room = [], _BATCH_BYTES
        batch.append(task)
        room -= size
    if batch:
        yield batch


def _size(task: dict[str, Any]) -> int:
    """About as many bytes as a task has in JSON; numbers of a brush count for five."""
    bulk = sum(5 * len(r["value"].get("rle", ())) for r in task["predictions"][0]["result"])
    return bulk + 600 * len(task["predictions"][0]["result"]) + 400


def _create(
    server: Server,
    project: int,
    new: Iterable[dict[str, Any]],
    done: Pushed,
    progress: Callable[[], None],
) -> None:
    def finish(batch: list[dict[str, Any]], sent: Future[None]) -> None:
        sent.result()
        done.frames["new"] += len(batch)
        for _ in batch:
            progress()

    with ThreadPoolExecutor(1) as sender:  # the next batch is made while the server takes this one
        under_way: tuple[list[dict[str, Any]], Future[None]] | None = None
        for batch in batches(new):
            if under_way is not None:
                finish(*under_way)
            under_way = batch, sender.submit(_arrive, server, project, batch, done)
        if under_way is not None:
            finish(*under_way)


def _arrive(server: Server, project: int, batch: list[dict[str, Any]], done: Pushed) -> None:
    """See to it that a batch is there, and there once."""
    names = [task["data"]["ext_id"] for task in batch]
    if not _import(server, project, batch, names):
        _without_doubles(server, project, tasks.find(server, project, names), done)


def _import(server: Server, project: int, batch: list[dict[str, Any]], names: list[str]) -> bool:
    """Send a batch, which arrives whole or not at all; False when it may have arrived twice.

    When the answer is lost, see what arrived; only when that stays nothing, send it again.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            server.send("POST", f"/api/projects/{project}/import", batch)
            return attempt == 1
        except LostAnswer as error:
            lost = error
        for _ in range(_LOOKS):
            time.sleep(_PAUSE_SECONDS)
            if set(names) <= tasks.find(server, project, names).keys():
                return False
    raise LostAnswer(f"{lost}; {len(batch)} frames have not arrived: push again to send them")


def _without_doubles(
    server: Server, project: int, there: dict[str, list[Task]], done: Pushed
) -> dict[str, list[Task]]:
    """What is left when the surplus of frames that came twice is deleted; never what is touched."""
    kept, surplus = {}, list[int]()
    for name, same in there.items():
        worked_on = [task for task in same if tasks.touched(task)]
        kept[name] = worked_on or [min(same, key=lambda task: int(task["id"]))]
        ids = {task["id"] for task in kept[name]}
        surplus += [task["id"] for task in same if task["id"] not in ids]
    if surplus:
        tasks.act(server, project, "delete_tasks", surplus)
        done.frames["doubles deleted"] += len(surplus)
    return kept


def _refresh(
    server: Server,
    project: int,
    wanted: Iterable[Wanted],
    there: Mapping[str, list[Task]],
    done: Pushed,
    progress: Callable[[], None],
) -> None:
    """Replace the predictions of untouched tasks where they differ from what is wanted."""
    if not there:
        return
    known: dict[int, list[Any]] = {}
    for each in server.get("/api/predictions", {"project": project}):
        known.setdefault(each["task"], []).append(each)
    stale: list[tuple[int, Wanted]] = []
    for want in wanted:
        for task in there.get(want.name, ()):
            state = tasks.touched(task)
            if not state and not tasks.same(known.get(task["id"], ()), want.regions()):
                stale.append((task["id"], want))
                state = "refreshed"
            done.frames[state or "unchanged"] += 1
            progress()
    _replace(server, project, stale)


def _replace(server: Server, project: int, stale: Sequence[tuple[int, Wanted]]) -> None:
    """Delete, then send: the next push mends a task that one left without predictions."""
    tasks.act(server, project, "delete_tasks_predictions", [number for number, _ in stale])
    for some in tasks.chunks(stale, _BATCH):
        told = [{"task": number, **tasks.prediction(want.regions())} for number, want in some]
        server.send("POST", f"/api/projects/{project}/import/predictions", told)
