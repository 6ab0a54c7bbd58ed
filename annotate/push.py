"""Send a dataset to Label Studio: each frame once, and nothing that a person has touched.

There is no unique key on the server, and an answer that is lost does not mean that nothing was
done. So every frame has an external id; before and after anything is sent, the server is asked
which it has.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate import ls_config, masks, staging, tasks
from annotate.errors import DatasetError, LostAnswer, StudioError
from annotate.folder import Dataset, Sample
from annotate.labelstudio import Project, Server
from annotate.regions import to_regions
from annotate.tasks import Task

_BATCH = 250  # tasks a request
_BATCH_BYTES = 20 * 2**20
_MOST_BYTES = 200 * 2**20  # that a server takes in one request
_TRIES, _LOOKS, _PAUSE_SECONDS = 3, 20, 1.0  # with a batch of which the answer was lost
_LEAST_TITLE = 3


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


def push(
    dataset: Dataset,
    server: Server,
    *,
    project: str | None = None,
    polygons: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> Pushed:
    """Make tasks of the frames that `project` lacks, and refresh the predictions of untouched ones.

    `project` is a name or a number; without, the dataset's folder names it. With `polygons`, masks
    of one part without holes are sent as outlines to drag.

    Raises:
        DatasetError: a picture is missing, of another size, or too large: nothing was sent.
        StudioError: the server refuses.
    """
    check(dataset)
    found = open_project(server, project or dataset.path.absolute().name, dataset.classes)
    done = Pushed(found[0], server.url, added_classes=found[1])
    put = staging.stager(server, found[0])
    ext_ids = [tasks.external_id(dataset, s.item.video, s.item.frame) for s in dataset]
    there = tasks.find(server, found[0].id, ext_ids)
    there = _without_doubles(server, found[0].id, there, done)
    _create(server, found[0].id, _new(dataset, there, put, polygons), done, progress)
    _refresh(server, found[0].id, dataset, there, polygons, done, progress)
    if found[0].model_version != tasks.PREDICTION and ext_ids:
        body = {"model_version": tasks.PREDICTION}
        server.send("PATCH", f"/api/projects/{found[0].id}/", body)
    return done


def check(dataset: Dataset) -> None:
    """Accept a dataset that can be sent whole.

    Raises:
        DatasetError: no classes, no frames, two of one name, a picture or a mask that does not fit.
    """
    if not dataset.classes:
        raise DatasetError(f"{dataset.path}: it has no classes, so there is nothing to label with")
    seen: set[str] = set()
    for sample in dataset:
        item = sample.item
        staging.check_picture(dataset.images / sample.image, item)
        for thing in item.objects:
            if thing.mask is not None:
                masks.check(thing.mask, (item.width, item.height))
        name = tasks.external_id(dataset, item.video, item.frame)
        if name in seen:
            raise DatasetError(f"{dataset.items}: {name} is there twice")
        seen.add(name)
    if not seen:
        raise DatasetError(f"{dataset.path}: it has no frames")


def open_project(
    server: Server, name: str, classes: Sequence[str], *, video: bool = False
) -> tuple[Project, tuple[str, ...]]:
    """The project of that name or number, made if there is none, and the classes that it got.

    Raises:
        StudioError: no such number, too short a name, or its config was edited beyond use.
    """
    wanted = ls_config.for_video(classes) if video else ls_config.for_pictures(classes)
    found = server.find(name)
    if found is None:
        if len(name) < _LEAST_TITLE:
            raise StudioError(f"{name!r}: a project's name has three letters or more: --project")
        return _new_project(server, name, wanted), ()
    try:
        config = ls_config.completed(found.config, classes, wanted)
    except StudioError as error:
        raise StudioError(f"{server.url}: project {found.id} ({found.title}): {error}") from None
    known = ls_config.labels(found.config)
    added = tuple(label for label in classes if label not in known)
    if ls_config.same(config, found.config):
        return found, ()
    server.send("PATCH", f"/api/projects/{found.id}/", {"label_config": config})
    return server.project(found.id), added


def _new_project(server: Server, name: str, config: str) -> Project:
    body = {"title": name, "label_config": config, "show_collab_predictions": True}
    try:
        made = server.send("POST", "/api/projects/", body)
    except LostAnswer:
        time.sleep(_PAUSE_SECONDS)
        found = server.find(name)
        if found is None:
            raise
        return found
    return server.project(made["id"])


def _new(
    dataset: Dataset,
    there: dict[str, list[Task]],
    put: Callable[[Path], str],
    polygons: bool,
) -> Iterator[dict[str, Any]]:
    """The tasks that the server lacks, each with its picture in place."""
    for sample in dataset:
        data = tasks.task_data(dataset, sample.item)
        if data["ext_id"] in there:
            continue
        image = put(dataset.images / sample.image)
        told = tasks.prediction(to_regions(sample.item, polygons=polygons))
        yield {"data": {"image": image, **data}, "predictions": [told]}


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
    for batch in batches(new):
        names = [task["data"]["ext_id"] for task in batch]
        if not _import(server, project, batch, names):
            _without_doubles(server, project, tasks.find(server, project, names), done)
        done.frames["new"] += len(batch)
        for _ in batch:
            progress()


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
    dataset: Dataset,
    there: dict[str, list[Task]],
    polygons: bool,
    done: Pushed,
    progress: Callable[[], None],
) -> None:
    """Replace the predictions of untouched tasks where they differ from the dataset's."""
    if not there:
        return
    known: dict[int, list[Any]] = {}
    for each in server.get("/api/predictions", {"project": project}):
        known.setdefault(each["task"], []).append(each)
    stale: list[tuple[int, Sample]] = []
    for sample in dataset:
        name = tasks.external_id(dataset, sample.item.video, sample.item.frame)
        for task in there.get(name, ()):
            state = tasks.touched(task)
            regions = [] if state else to_regions(sample.item, polygons=polygons)
            if not state and not tasks.same(known.get(task["id"], ()), regions):
                stale.append((task["id"], sample))
                state = "refreshed"
            done.frames[state or "unchanged"] += 1
            progress()
    _replace(server, project, stale, polygons)


def _replace(
    server: Server, project: int, stale: Sequence[tuple[int, Sample]], polygons: bool
) -> None:
    """Delete, then send: the next push mends a task that one left without predictions."""
    tasks.act(server, project, "delete_tasks_predictions", [number for number, _ in stale])
    for some in tasks.chunks(stale, _BATCH):
        told = [
            {"task": number, **tasks.prediction(to_regions(sample.item, polygons=polygons))}
            for number, sample in some
        ]
        server.send("POST", f"/api/projects/{project}/import/predictions", told)
