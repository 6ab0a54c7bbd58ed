"""Push the frames of a dataset to Label Studio: a project, its config, a task per frame.

The dataset of each push is recorded on this machine, so that a pull can find it again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from annotate.dataset.folder import Dataset, external_id
from annotate.errors import DatasetError, LostResponse, StudioError
from annotate.files import atomic_file, user_data_dir
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

_PAUSE_SECONDS = 1.0
_MIN_TITLE_CHARS, _MAX_TITLE_CHARS = 3, 50


def _registry_file() -> Path:
    return user_data_dir() / "pushed.json"


def _read_registry() -> dict[str, str]:
    try:
        registry: dict[str, str] = json.loads(_registry_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return registry


def record_push(url: str, project: int, dataset: Path) -> None:
    """Record which dataset a project was made from."""
    registry = _read_registry() | {f"{url} {project}": str(dataset.absolute())}
    with atomic_file(_registry_file(), parents=True, concurrent=True) as draft:
        draft.write_text(json.dumps(registry, indent=1) + "\n", encoding="utf-8")


def find_pushed_dataset(url: str, project: int) -> Path:
    """Find the dataset that a project was made from.

    Raises:
        StudioError: the project was not pushed from this machine.
    """
    dataset = _read_registry().get(f"{url} {project}")
    if dataset is None:
        raise StudioError(
            f"{url}: project {project} was not pushed from this machine; give its `dataset`"
        )
    return Path(dataset)


def push_dataset(
    dataset: Dataset,
    client: StudioClient,
    *,
    project: str | None = None,
    polygons: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> PushReport:
    """Create the missing tasks of a dataset's frames, and refresh untouched predictions.

    `project` is a title or an id; without it, the project has the name of the dataset's folder.
    With `polygons`, masks of one part without holes are sent as polygons.

    Raises:
        DatasetError: an image is missing, of another size, or too large: nothing was sent.
        StudioError: the server refuses.
    """
    name = project or dataset.path.absolute().name
    with ThreadPoolExecutor(1) as pool:  # a read-only request: nothing is sent before the checks
        project_search = pool.submit(client.find_project, name)
        turned_images = check_dataset(dataset)
    prepared, added = prepare_project(client, name, project_search.result(), dataset.classes)
    report = PushReport(prepared, client.url, added_classes=added)

    def list_specs() -> Iterator[TaskSpec]:
        for sample in dataset:
            data, file = task_data(dataset, sample.item), dataset.images / sample.image
            regions = partial(to_regions, sample.item, polygons=polygons)
            turned = sample.image in turned_images
            yield TaskSpec(data, IMAGE_TAG, file, regions, apply_exif=turned)

    sync_tasks(client, list_specs, report, progress)
    return report


def check_dataset(dataset: Dataset) -> set[str]:
    """Check that all of a dataset can be sent; return the images that must be turned upright.

    Raises:
        DatasetError: no classes, no frames, a frame twice, or an image that does not fit its item.
        ItemsError: a mask does not fit its frame.
    """
    if not dataset.classes:
        raise DatasetError(f"{dataset.path}: it has no classes, so there is nothing to label with")
    names, turned_images = set[str](), set[str]()
    for sample in dataset:
        item = sample.item
        if check_image(dataset.images / sample.image, item):
            turned_images.add(sample.image)
        for obj in item.objects:
            if obj.mask is not None:
                masks.check(obj.mask, (item.width, item.height))
        name = external_id(dataset, item.video, item.frame)
        if name in names:
            raise DatasetError(f"{dataset.items}: {name} is there twice")
        names.add(name)
    if not names:
        raise DatasetError(f"{dataset.path}: it has no frames")
    return turned_images


def open_project(
    client: StudioClient, name: str, classes: Sequence[str], *, video: bool = False
) -> tuple[Project, tuple[str, ...]]:
    """Find a project by title or id, or create it; return it and the classes added to it.

    Raises:
        StudioError: there is no such id, the title is not allowed, or the config lacks a control.
    """
    return prepare_project(client, name, client.find_project(name), classes, video=video)


def prepare_project(
    client: StudioClient,
    name: str,
    project: Project | None,
    classes: Sequence[str],
    *,
    video: bool = False,
) -> tuple[Project, tuple[str, ...]]:
    """Add missing classes to `project`, or create it; return it and the classes added to it.

    Raises:
        StudioError: the title is not allowed, or the config lacks a control.
    """
    template = video_config(classes) if video else image_config(classes)
    if project is None:
        if not _MIN_TITLE_CHARS <= len(name) <= _MAX_TITLE_CHARS:
            raise StudioError(
                f"{name!r}: a project's title has {_MIN_TITLE_CHARS} to {_MAX_TITLE_CHARS} "
                "characters; give another `project`"
            )
        return _create_project(client, name, template), ()
    try:
        config = complete_config(project.config, classes, template)
    except StudioError as error:
        raise StudioError(
            f"{client.url}: project {project.id} ({project.title}): {error}"
        ) from None
    existing = config_labels(project.config)
    added = tuple(label for label in classes if label not in existing)
    if same_config(config, project.config):
        return project, ()
    client.send("PATCH", f"/api/projects/{project.id}/", {"label_config": config})
    return client.get_project(project.id), added


def _create_project(client: StudioClient, name: str, config: str) -> Project:
    body = {"title": name, "label_config": config, "show_collab_predictions": True}
    body["model_version"] = MODEL_VERSION
    try:
        response = client.send("POST", "/api/projects/", body)
    except LostResponse:
        time.sleep(_PAUSE_SECONDS)
        project = client.find_project(name)
        if project is None:
            raise
        return project
    return Project.from_response(response)
