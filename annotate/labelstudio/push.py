"""Push the frames of a dataset to Label Studio: a project, its config, a task per frame.

The dataset of each push is recorded on this machine, so that a pull can find it again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from annotate.dataset.folder import Dataset, external_id
from annotate.errors import DatasetError, LostResponse, StudioError
from annotate.files import user_data_dir
from annotate.items import masks
from annotate.labelstudio.client import Project, StudioClient
from annotate.labelstudio.regions import IMAGE_TAG, to_regions
from annotate.labelstudio.sync import PushReport, TaskSpec, check_image, sync_tasks
from annotate.labelstudio.tasks import (
    MODEL_VERSION,
    complete_config,
    config_labels,
    image_config,
    same_config,
    task_data,
    video_config,
)


def _registry_file() -> Path:
    return user_data_dir() / "pushed.json"


def _read_registry() -> dict[str, str]:
    try:
        told: dict[str, str] = json.loads(_registry_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told


def record_push(url: str, project: int, dataset: Path) -> None:
    """Note what a project was made of."""
    file = _registry_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.part")
    told = _read_registry() | {f"{url} {project}": str(dataset.absolute())}
    draft.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    draft.replace(file)


def find_pushed_dataset(url: str, project: int) -> Path:
    """The dataset that a project was made of.

    Raises:
        StudioError: it was not pushed from this machine.
    """
    found = _read_registry().get(f"{url} {project}")
    if found is None:
        raise StudioError(
            f"{url}: project {project} was not pushed from this machine; name its dataset: "
            "annotate pull DATASET --project ..."
        )
    return Path(found)


_PAUSE_SECONDS = 1.0
_MIN_TITLE_CHARS, _MAX_TITLE_CHARS = 3, 50


def push_dataset(
    dataset: Dataset,
    server: StudioClient,
    *,
    project: str | None = None,
    polygons: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> PushReport:
    """Make tasks of the frames that `project` lacks, and refresh the predictions of untouched ones.

    `project` is a name or a number; without, the dataset's folder names it. With `polygons`, masks
    of one part without holes are sent as outlines to drag.

    Raises:
        DatasetError: a picture is missing, of another size, or too large: nothing was sent.
        StudioError: the server refuses.
    """
    name = project or dataset.path.absolute().name
    with ThreadPoolExecutor(1) as asker:  # only asks: nothing is sent before all is checked
        there = asker.submit(server.find_project, name)
        lying = check_dataset(dataset)
    found, added = prepare_project(server, name, there.result(), dataset.classes)
    done = PushReport(found, server.url, added_classes=added)

    def wanted() -> Iterator[TaskSpec]:
        for sample in dataset:
            data, file = task_data(dataset, sample.item), dataset.images / sample.image
            regions = partial(to_regions, sample.item, polygons=polygons)
            yield TaskSpec(data, IMAGE_TAG, file, regions, apply_exif=sample.image in lying)

    sync_tasks(server, wanted, done, progress)
    return done


def check_dataset(dataset: Dataset) -> set[str]:
    """Accept a dataset that can be sent whole; the pictures of it that must be turned.

    Raises:
        DatasetError: no classes, no frames, two of one name, a picture or a mask that does not fit.
    """
    if not dataset.classes:
        raise DatasetError(f"{dataset.path}: it has no classes, so there is nothing to label with")
    seen, lying = set[str](), set[str]()
    for sample in dataset:
        item = sample.item
        if check_image(dataset.images / sample.image, item):
            lying.add(sample.image)
        for thing in item.objects:
            if thing.mask is not None:
                masks.check(thing.mask, (item.width, item.height))
        name = external_id(dataset, item.video, item.frame)
        if name in seen:
            raise DatasetError(f"{dataset.items}: {name} is there twice")
        seen.add(name)
    if not seen:
        raise DatasetError(f"{dataset.path}: it has no frames")
    return lying


def open_project(
    server: StudioClient, name: str, classes: Sequence[str], *, video: bool = False
) -> tuple[Project, tuple[str, ...]]:
    """The project of that name or number, made if there is none, and the classes that it got.

    Raises:
        StudioError: no such number, a name that none can have, or a config edited beyond use.
    """
    return prepare_project(server, name, server.find_project(name), classes, video=video)


def prepare_project(
    server: StudioClient,
    name: str,
    project: Project | None,
    classes: Sequence[str],
    *,
    video: bool = False,
) -> tuple[Project, tuple[str, ...]]:
    """The project that was found, with all the classes, or a new one; and the classes it got.

    Raises:
        StudioError: a name that none can have, or a config edited beyond use.
    """
    wanted = video_config(classes) if video else image_config(classes)
    if project is None:
        if not _MIN_TITLE_CHARS <= len(name) <= _MAX_TITLE_CHARS:
            raise StudioError(
                f"{name!r}: a project's name has {_MIN_TITLE_CHARS} to {_MAX_TITLE_CHARS} letters; give "
                "another --project"
            )
        return _create_project(server, name, wanted), ()
    try:
        config = complete_config(project.config, classes, wanted)
    except StudioError as error:
        raise StudioError(
            f"{server.url}: project {project.id} ({project.title}): {error}"
        ) from None
    known = config_labels(project.config)
    added = tuple(label for label in classes if label not in known)
    if same_config(config, project.config):
        return project, ()
    server.send("PATCH", f"/api/projects/{project.id}/", {"label_config": config})
    return server.get_project(project.id), added


def _create_project(server: StudioClient, name: str, config: str) -> Project:
    body = {"title": name, "label_config": config, "show_collab_predictions": True}
    body["model_version"] = MODEL_VERSION
    try:
        made = server.send("POST", "/api/projects/", body)
    except LostResponse:
        time.sleep(_PAUSE_SECONDS)
        found = server.find_project(name)
        if found is None:
            raise
        return found
    return Project.from_response(made)
