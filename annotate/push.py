"""Send the frames of a dataset to Label Studio: a project, its config, and a task a frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from annotate import ls_config, masks, staging, tasks
from annotate.errors import DatasetError, LostAnswer, StudioError
from annotate.folder import Dataset
from annotate.labelstudio import Project, Server
from annotate.regions import PICTURE, to_regions
from annotate.sending import Pushed, Wanted, send

_PAUSE_SECONDS = 1.0
_LEAST_TITLE, _MOST_TITLE = 3, 50


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
    name = project or dataset.path.absolute().name
    with ThreadPoolExecutor(1) as asker:  # only asks: nothing is sent before all is checked
        there = asker.submit(server.find, name)
        lying = check(dataset)
    found, added = set_up(server, name, there.result(), dataset.classes)
    done = Pushed(found, server.url, added_classes=added)

    def wanted() -> Iterator[Wanted]:
        for sample in dataset:
            data, file = tasks.task_data(dataset, sample.item), dataset.images / sample.image
            regions = partial(to_regions, sample.item, polygons=polygons)
            yield Wanted(data, PICTURE, file, regions, turn=sample.image in lying)

    send(server, wanted, done, progress)
    return done


def check(dataset: Dataset) -> set[str]:
    """Accept a dataset that can be sent whole; the pictures of it that must be turned.

    Raises:
        DatasetError: no classes, no frames, two of one name, a picture or a mask that does not fit.
    """
    if not dataset.classes:
        raise DatasetError(f"{dataset.path}: it has no classes, so there is nothing to label with")
    seen, lying = set[str](), set[str]()
    for sample in dataset:
        item = sample.item
        if staging.check_picture(dataset.images / sample.image, item):
            lying.add(sample.image)
        for thing in item.objects:
            if thing.mask is not None:
                masks.check(thing.mask, (item.width, item.height))
        name = tasks.external_id(dataset, item.video, item.frame)
        if name in seen:
            raise DatasetError(f"{dataset.items}: {name} is there twice")
        seen.add(name)
    if not seen:
        raise DatasetError(f"{dataset.path}: it has no frames")
    return lying


def open_project(
    server: Server, name: str, classes: Sequence[str], *, video: bool = False
) -> tuple[Project, tuple[str, ...]]:
    """The project of that name or number, made if there is none, and the classes that it got.

    Raises:
        StudioError: no such number, a name that none can have, or a config edited beyond use.
    """
    return set_up(server, name, server.find(name), classes, video=video)


def set_up(
    server: Server, name: str, found: Project | None, classes: Sequence[str], *, video: bool = False
) -> tuple[Project, tuple[str, ...]]:
    """The project that was found, with all the classes, or a new one; and the classes it got.

    Raises:
        StudioError: a name that none can have, or a config edited beyond use.
    """
    wanted = ls_config.for_video(classes) if video else ls_config.for_pictures(classes)
    if found is None:
        if not _LEAST_TITLE <= len(name) <= _MOST_TITLE:
            raise StudioError(
                f"{name!r}: a project's name has {_LEAST_TITLE} to {_MOST_TITLE} letters; give "
                "another --project"
            )
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
    body["model_version"] = tasks.PREDICTION
    try:
        made = server.send("POST", "/api/projects/", body)
    except LostAnswer:
        time.sleep(_PAUSE_SECONDS)
        found = server.find(name)
        if found is None:
            raise
        return found
    return Project.told(made)
