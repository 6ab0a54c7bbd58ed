"""Bring tasks to a project: each once, and nothing that a person has touched.

There is no unique key on the server, and an answer that is lost does not mean that nothing was
done. So every task has an external id; before and after anything is sent, the server is asked
which it has.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate import tasks
from annotate.errors import DatasetError, LostAnswer
from annotate.labelstudio import Project, Server
from annotate.regions import Region
from annotate.staging import Stager
from annotate.tasks import Task

_BATCH = 1000  # tasks a request
_FIRST, _GROWTH = 100, 4  # fewer at first: the server has nothing to do until they are made
_BATCH_BYTES = 20 * 2**20
_MOST_BYTES = 200 * 2**20  # that a server takes in one request
_TRIES, _LOOKS, _PAUSE_SECONDS = 3, 20, 1.0  # with a batch of which the answer was lost


@dataclass(frozen=True)
class Wanted:
    """A task to be there: its data, the file that it shows, and what is proposed on it.

    `shows` is the data's key for the file's address: "image" or "video". `turn` says that the file
    is a picture which lies on its side.
    """

    data: Mapping[str, Any]
    shows: str
    file: Path
    regions: Callable[[], list[Region]]
    turn: bool = False

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
    stager = Stager(server, project)
    new = ((each.name, _task(each, stager)) for each in wanted() if each.name not in there)
    _create(server, stager, new, done, progress)
    _refresh(server, project.id, wanted(), there, done, progress)
    if project.model_version != tasks.PREDICTION and done.frames:
        server.send("PATCH", f"/api/projects/{project.id}/", {"model_version": tasks.PREDICTION})


def _task(wanted: Wanted, stager: Stager) -> bytes:
    """A task as it is sent, with its file in place."""
    data = {wanted.shows: stager.put(wanted.file, wanted.name, wanted.turn), **wanted.data}
    told = {"data": data, "predictions": [tasks.prediction(wanted.regions())]}
    return json.dumps(told, allow_nan=False).encode()


@dataclass
class Batch:
    """Tasks of one request: their external ids, and each as it is sent."""

    names: list[str] = field(default_factory=list)
    told: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The request."""
        return b"[" + b",".join(self.told) + b"]"


def batches(new: Iterable[tuple[str, bytes]]) -> Iterator[Batch]:
    """Tasks as a request takes them: not too many, not too large.

    Raises:
        DatasetError: one task alone is more than a server takes.
    """
    batch, most, room = Batch(), _FIRST, _BATCH_BYTES
    for name, told in new:
        size = len(told)
        if size > _MOST_BYTES:
            raise DatasetError(
                f"{name}: {size // 2**20} MB as a task, more than the "
                f"{_MOST_BYTES // 2**20} that Label Studio takes; take objects out, or scale down"
            )
        if batch.names and (len(batch.names) == most or size > room):
            yield batch
            batch, most, room = Batch(), min(most * _GROWTH, _BATCH), _BATCH_BYTES
        batch.names.append(name)
        batch.told.append(told)
        room -= size
    if batch.names:
        yield batch


def _create(
    server: Server,
    stager: Stager,
    new: Iterable[tuple[str, bytes]],
    done: Pushed,
    progress: Callable[[], None],
) -> None:
    def finish(names: list[str], sent: Future[None]) -> None:
        sent.result()
        for _ in names:
            done.frames["new"] += 1
            progress()

    with ThreadPoolExecutor(1) as sender:  # the next batch is made while the server takes this one
        under_way: tuple[list[str], Future[None]] = [], sender.submit(stager.grant)
        for batch in batches(new):
            body = batch.body
            finish(*under_way)
            sent = sender.submit(_arrive, server, done.project.id, batch.names, body, done)
            under_way = batch.names, sent
        finish(*under_way)


def _arrive(server: Server, project: int, names: list[str], body: bytes, done: Pushed) -> None:
    """See to it that a batch is there, and there once."""
    if not _import(server, project, names, body):
        _without_doubles(server, project, tasks.find(server, project, names), done)


def _import(server: Server, project: int, names: list[str], body: bytes) -> bool:
    """Send a batch, which arrives whole or not at all; False when it may have arrived twice.

    When the answer is lost, see what arrived; only when that stays nothing, send it again.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            server.send("POST", f"/api/projects/{project}/import", body)
            return attempt == 1
        except LostAnswer as error:
            lost = error
        for _ in range(_LOOKS):
            time.sleep(_PAUSE_SECONDS)
            if set(names) <= tasks.find(server, project, names).keys():
                return False
    raise LostAnswer(f"{lost}; {len(names)} frames have not arrived: push again to send them")


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
