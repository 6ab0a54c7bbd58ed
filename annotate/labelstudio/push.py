"""Push the frames of a dataset to Label Studio: a project, its config, a task per frame.

Folders of different datasets may have the same name. A project therefore counts as a dataset's only
if it has tasks of the dataset's frames, or no tasks at all. The dataset of each push is recorded on
this machine, so that a pull can find it again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from annotate.dataset.folder import Dataset, external_id
from annotate.errors import DatasetError, LostResponse, OutputError, StudioError, UnknownName
from annotate.files import read_json, user_data_dir, write_json
from annotate.items import masks
from annotate.items.sequences import chunks
from annotate.labelstudio.client import Project, StudioClient
from annotate.labelstudio.regions import IMAGE_TAG, to_regions
from annotate.labelstudio.sync import PushReport, TaskSpec, check_image, sync_tasks
from annotate.labelstudio.tasks import (
    MODEL_VERSION,
    RANK_KEYS,
    PushPart,
    complete_config,
    config_labels,
    create_rank_tab,
    image_config,
    same_config,
    task_data,
    update_ranks,
    video_config,
)
from annotate.progress import counted

_PAUSE_SECONDS = 1.0
_MIN_TITLE_CHARS, _MAX_TITLE_CHARS = 3, 50
_MAX_STEM_CHARS = _MAX_TITLE_CHARS - 5  # of a title with a number after it
_FILTERS_PER_REQUEST = 20  # so that a URL stays short
_TAB_TITLE = "Lowest score"


def _registry_file() -> Path:
    return user_data_dir() / "pushed.json"


def _registry_key(project: Project) -> str:
    """Name a project wherever its server listens: the time of its creation is to a microsecond."""
    return f"{project.created_at} {project.id}"


def record_push(project: Project, dataset: Path) -> Path | None:
    """Record which dataset was pushed to a project; return the one that was pushed before it."""
    registry, key = read_json(_registry_file()) or {}, _registry_key(project)
    before, now = registry.get(key), str(dataset.absolute())
    write_json(_registry_file(), registry | {key: now})
    return None if before in (None, now) else Path(before)


def find_pushed_dataset(project: Project) -> Path:
    """Find the dataset that a project was made from.

    Raises:
        StudioError: the project was not pushed from this machine.
    """
    dataset = (read_json(_registry_file()) or {}).get(_registry_key(project))
    if dataset is None:
        raise StudioError(
            f"project {project.id} ({project.title}) was not pushed from this machine; give its "
            "`dataset`"
        )
    return Path(dataset)


_WHOLE = PushPart()


def push_dataset(
    dataset: Dataset,
    client: StudioClient,
    *,
    project: str | int | None = None,
    polygons: bool = False,
    part: PushPart = _WHOLE,
    model_version: str = MODEL_VERSION,
    progress: Callable[[], None] = lambda: None,
) -> PushReport:
    """Create the missing tasks of a dataset's frames, and refresh untouched predictions.

    `project` is a title or an id; see `find_project` for the default. With `polygons`,
    masks of one part without holes are sent as polygons. `model_version` names the predictions:
    the project shows those of this version only. Frames with ranks are listed in a tab, by rank.

    Raises:
        DatasetError: an image is missing, of another size, or too large, or the part is empty:
            nothing was sent.
        StudioError: the server refuses, or another push to the project runs.
    """
    for label in part.labels or ():
        if label not in dataset.classes:
            raise UnknownName("class", label, dataset.classes)
    with push_lock(client, project or default_title(dataset)):
        with ThreadPoolExecutor(1) as pool:  # it only reads: nothing is sent before the checks
            project_search = pool.submit(find_project, client, dataset, project)
            turned_images = check_dataset(dataset, part)
        prepared, added = prepare_project(client, dataset, project, project_search.result())
        report = PushReport(prepared, client.url, added_classes=added)

        def list_specs() -> Iterator[TaskSpec]:
            for sample in part.samples(dataset):
                item, file = sample.item, dataset.images / sample.image
                data = task_data(dataset, item, (part.ranks or {}).get((item.video, item.frame)))
                regions = partial(to_regions, item, polygons=polygons)
                turned = sample.image in turned_images
                yield TaskSpec(data, IMAGE_TAG, file, regions, turned, model_version)

        sync_tasks(client, list_specs, report, progress, model_version)
        if part.ranks is not None:
            ranks = {
                spec.external_id: {key: spec.data[key] for key in RANK_KEYS if key in spec.data}
                for spec in list_specs()
            }
            update_ranks(client, prepared.id, ranks)
            create_rank_tab(client, prepared.id)
            report.notes += _missing_frames(part, ranks)
    return report


def _missing_frames(part: PushPart, pushed: Collection[str]) -> Iterator[str]:
    missing = len(part.ranks or ()) - len(pushed)
    if missing:
        yield f"{counted(missing, 'frame')} of the list are not in this part of the dataset"


def check_dataset(dataset: Dataset, part: PushPart = _WHOLE) -> set[str]:
    """Check that the part of a dataset can be sent; return images that must be turned upright.

    Raises:
        DatasetError: no classes, no frames, a frame twice, or an image that does not fit its item.
        ItemsError: a mask does not fit its frame.
    """
    if not dataset.classes:
        raise DatasetError(f"{dataset.path}: it has no classes, so there is nothing to label with")
    names, turned_images = set[str](), set[str]()
    for sample in part.samples(dataset):
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
        what = "no frames" if part == _WHOLE else "no frame of this list or with such an object"
        raise DatasetError(f"{dataset.path}: it has {what}")
    return turned_images


def default_title(dataset: Dataset, *, video: bool = False) -> str:
    """Return the title of a dataset's project: the name of its folder; clips have another project.

    A name that is too short for a title gets a word before it, and a long one is cut.
    """
    name, end = dataset.path.absolute().name, " video" if video else ""
    if len(name + end) < _MIN_TITLE_CHARS:
        name = f"dataset {name}"
    return name[: _MAX_TITLE_CHARS - len(end)] + end


def find_project(
    client: StudioClient, dataset: Dataset, project: str | int | None = None, *, video: bool = False
) -> Project | None:
    """Find the project of a dataset; None where there is none.

    `project` is a title or an id. Without it, the project is the one with the default title, or
    with a number after it, that has tasks of the dataset.

    Raises:
        StudioError: several projects fit, or there is no such id.
    """
    if project is not None:
        return client.find_project(project)
    candidates = _numbered_projects(client, default_title(dataset, video=video))
    own = [each for each in candidates if each.task_count and _has_tasks_of(client, each, dataset)]
    if len(own) > 1:
        raise StudioError(
            f"{client.url}: projects {', '.join(str(each.id) for each in own)} all have frames of "
            f"{dataset.path}; give the number as `project`, such as {own[0].id}"
        )
    return own[0] if own else None


def require_project(
    client: StudioClient, dataset: Dataset, project: str | int | None = None, *, video: bool = False
) -> Project:
    """Find the project of a dataset, which must be there; see `find_project`.

    Raises:
        StudioError: there is none, or several fit.
    """
    if project is not None:
        return client.require_project(project)
    found = find_project(client, dataset, video=video)
    if found is None:
        title, kind = default_title(dataset, video=video), "clips" if video else "frames"
        client.require_project(f"title:{title}")
        raise StudioError(
            f"{client.url}: no project called {title!r} has {kind} of {dataset.path}; push it "
            "first, or give its `project`"
        )
    return found


def open_project(
    client: StudioClient, dataset: Dataset, project: str | int | None = None, *, video: bool = False
) -> tuple[Project, tuple[str, ...]]:
    """Find the project of a dataset, or create it; return it and the classes added to it.

    Raises:
        StudioError: several projects fit, there is no such id, the title is not allowed, or the
            config lacks a control.
    """
    found = find_project(client, dataset, project, video=video)
    return prepare_project(client, dataset, project, found, video=video)


def prepare_project(
    client: StudioClient,
    dataset: Dataset,
    project: str | int | None,
    found: Project | None,
    *,
    video: bool = False,
) -> tuple[Project, tuple[str, ...]]:
    """Add the missing classes to the project that `find_project` found, or create it.

    Returns the project and the classes added to it. Without `project`, it has the first title that
    no other project has: the default title, or the default title and a number.

    Raises:
        StudioError: the title is not allowed, or the config lacks a control.
    """
    classes = dataset.classes
    template = video_config(classes) if video else image_config(classes)
    if found is None:
        title = str(project or default_title(dataset, video=video)).removeprefix("title:")
        if project is None:
            taken = {each.title: each for each in _numbered_projects(client, title)}
            found = taken.get(title)
            if found is not None and (found.task_count or not _is_usable(found, template)):
                found = None
                title = next(t for t in _numbered_titles(title) if t not in taken)
    if found is None:
        return _create_project(client, title, template), ()
    try:
        config = complete_config(found.config, classes, template)
    except StudioError as error:
        raise StudioError(f"{client.url}: project {found.id} ({found.title}): {error}") from None
    existing = config_labels(found.config)
    added = tuple(label for label in classes if label not in existing) if existing else ()
    if same_config(config, found.config):
        return found, ()
    client.send("PATCH", f"/api/projects/{found.id}/", {"label_config": config})
    return client.get_project(found.id), added


def _is_usable(project: Project, template: str) -> bool:
    try:
        complete_config(project.config, (), template)
    except StudioError:
        return False
    return True


def _numbered_titles(title: str) -> Iterator[str]:
    """Yield the title, then the title with the numbers from 2 on."""
    yield title
    yield from (f"{title[:_MAX_STEM_CHARS]} {number}" for number in count(2))


def _numbered_projects(client: StudioClient, title: str) -> list[Project]:
    """Find the projects with a title, or with the title and a number after it, oldest first."""
    stem = title[:_MAX_STEM_CHARS]
    numbered = re.compile(re.escape(stem) + r" \d+")
    listed = client.list_titles(stem)
    ids = [id_ for id_, each in listed if each == title or numbered.fullmatch(each)]
    return [client.get_project(id_) for id_ in sorted(ids)]


def _has_tasks_of(client: StudioClient, project: Project, dataset: Dataset) -> bool:
    """Return whether a project has tasks of the clips or images of a dataset."""
    for names in _content_names(dataset):
        column = {"filter": "filter:tasks:data.ext_id", "operator": "contains", "type": "String"}
        filters = [{**column, "value": name} for name in names]
        query = json.dumps({"filters": {"conjunction": "or", "items": filters}})
        params = {"project": project.id, "page_size": 1, "include": "id", "query": query}
        if client.get("/api/tasks", params)["total"]:
            return True
    return False


def _content_names(dataset: Dataset) -> Iterator[list[str]]:
    """Yield, in batches, parts of external ids that no frame of another content has."""
    names = (external_id(dataset, clip) for clip in dataset.clips)
    ends = [f"@{name.rpartition('@')[2]}" for name in names if "@" in name]
    yield from chunks(ends, _FILTERS_PER_REQUEST)
    yield from chunks(dataset.image_ids.values(), _FILTERS_PER_REQUEST)  # reads all images


def _create_project(client: StudioClient, title: str, config: str) -> Project:
    if not _MIN_TITLE_CHARS <= len(title) <= _MAX_TITLE_CHARS:
        raise StudioError(
            f"{title!r}: a project's title has {_MIN_TITLE_CHARS} to {_MAX_TITLE_CHARS} "
            "characters; give another `project`"
        )
    body = {"title": title, "label_config": config, "show_collab_predictions": True}
    body["model_version"] = MODEL_VERSION
    try:
        project = Project.from_response(client.send("POST", "/api/projects/", body))
    except LostResponse:
        time.sleep(_PAUSE_SECONDS)
        found = client.find_project(f"title:{title}")
        if found is None:
            raise
        project = found
    _create_tab(client, project)
    return project


def _create_tab(client: StudioClient, project: Project) -> None:
    """Create the first tab of a project: tasks with the lowest scores come first.

    Without a tab, the editor shows no predictions when a task is opened by its address.
    """
    data = {
        "title": _TAB_TITLE,
        "type": "list",
        "target": "tasks",
        "ordering": ["tasks:predictions_score"],
    }
    client.send("POST", "/api/dm/views/", {"project": project.id, "data": data})


@contextmanager
def push_lock(client: StudioClient, title: str | int) -> Iterator[None]:
    """Refuse a second push to the project `title` from this machine while the block runs.

    Raises:
        StudioError: another push is under way.
        OutputError: the lock file cannot be written.
    """
    from filelock import FileLock, Timeout

    name = hashlib.sha256(f"{client.url} {title}".encode()).hexdigest()[:16]
    file = user_data_dir("locks") / f"push-{name}.lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, timeout=0)
        lock.acquire()
    except Timeout:
        raise StudioError(
            f"{client.url}: another push to {title!r} runs on this machine; push again when it ends"
        ) from None
    except OSError as error:
        raise OutputError(f"{file}: cannot write there: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()
