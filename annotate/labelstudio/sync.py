"""Import tasks into a project, each exactly once, without touching a person's work.

The server has no unique key, and a request without a response may have been carried out. Every task
therefore has an external id, and the server is asked which ids it has before each import and after
a lost response. Images and clips are put where the server can show them: linked or copied into its
folder when it runs on this machine, uploaded otherwise. Images are turned upright as their EXIF tag
says.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from annotate.dataset.folder import link_or_copy
from annotate.errors import DatasetError, LostResponse, OutputError, VideoError
from annotate.files import atomic_file
from annotate.items.records import Item
from annotate.items.sequences import chunks
from annotate.labelstudio.client import Project, StudioClient
from annotate.labelstudio.regions import Region
from annotate.labelstudio.tasks import (
    MODEL_VERSION,
    Task,
    bulk_action,
    find_tasks,
    prediction,
    same_predictions,
    task_status,
)
from annotate.video.images import open_upright, read_header

_MAX_BATCH_TASKS = 1000
_FIRST_BATCH_TASKS, _BATCH_GROWTH = 100, 4  # small at first: the server waits for the first batch
_MAX_BATCH_BYTES = 20 * 2**20
_MAX_TASK_BYTES = 200 * 2**20  # of one request to the server
_MAX_TRIES, _MAX_CHECKS, _PAUSE_SECONDS = 3, 20, 1.0  # for a batch whose response was lost


def check_image(path: Path, item: Item) -> bool:
    """Check that an image is there and, upright, has the size of its item.

    Returns True where the EXIF tag says that the image must be turned.

    Raises:
        DatasetError: the image is missing, unreadable or of another size.
    """
    if not path.exists():
        raise DatasetError(f"{path}: the image of {item.video}#{item.frame} is missing")
    try:
        header = read_header(path)
    except VideoError as error:
        raise DatasetError(str(error)) from None
    width, height = header.size_wh
    if (width, height) != (item.width, item.height):
        raise DatasetError(
            f"{path}: {width}x{height}, but its item says {item.width}x{item.height}; build the "
            "dataset again"
        )
    return header.turned


class FileStore:
    """Puts the files of a project's tasks where its server can serve them.

    For a server on this machine, files are hard-linked or copied into its folder; for any other
    server they are uploaded.
    """

    def __init__(self, client: StudioClient, project: Project) -> None:
        self._client, self._project = client, project
        self._folder, self._new = None, False
        if client.document_root is not None:
            self._folder = client.document_root / f"project-{project.id}"
            self._new = not self._folder.exists()
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{self._folder}: cannot write there: {error.strerror}") from None

    def put(self, path: Path, ext_id: str, apply_exif: bool) -> str:
        """Put the file of a task in place, turned upright on request, and return its URL."""
        if self._folder is None:
            return _upload_file(self._client, self._project, path, apply_exif)
        # a file name alone is unique in one dataset only
        digest = hashlib.sha256(ext_id.encode()).hexdigest()[:8]
        name = f"{path.stem}-{digest}{path.suffix}"
        with atomic_file(self._folder / name, concurrent=True) as draft:
            draft.unlink(missing_ok=True)  # a push that was killed may have left it
            _place_file(path, draft, apply_exif)
        return f"/data/local-files/?d={quote(f'{self._folder.name}/{name}')}"

    def grant_access(self) -> None:
        """Let the project read the folder: a storage record is enough, without a sync."""
        if self._folder is None:
            return
        client, path, storages = self._client, str(self._folder), "/api/storages/localfiles"
        if not self._new:  # a push that was killed may have left a folder without a record
            listed = client.get(storages, {"project": self._project.id})
            if any(each.get("path") == path for each in listed):
                return
        body = {
            "project": self._project.id,
            "path": path,
            "title": "annotate",
            "use_blob_urls": True,
            "regex_filter": "never-synced",
        }
        client.send("POST", storages, body)


def _place_file(source: Path, target: Path, apply_exif: bool) -> None:
    """Link or copy a file, or save it upright: browsers turn images, and regions are in percent."""
    if not apply_exif:
        return link_or_copy(source, target)
    with open_upright(source) as image:
        image.save(target, image.format, quality=95)


def _upload_file(client: StudioClient, project: Project, path: Path, apply_exif: bool) -> str:
    import tempfile

    try:
        with tempfile.TemporaryDirectory() as folder:
            upright = Path(folder) / path.name
            _place_file(path, upright, apply_exif)
            files = {"file": (path.name, upright.read_bytes())}
    except OSError as error:
        raise OutputError(f"{path}: cannot be sent: {error.strerror or error}") from None
    url, params = f"/api/projects/{project.id}/import", {"commit_to_project": "false"}
    response = client.send("POST", url, params=params, files=files)
    upload = client.get(f"/api/import/file-upload/{response['file_upload_ids'][0]}")
    return f"/data/{quote(upload['file'])}"


@dataclass(frozen=True)
class TaskSpec:
    """A task that the project must have: its data, its file, and the proposed regions.

    `data_key` is the key of the file's URL in the data: "image" or "video". `apply_exif` says that
    the file is an image that must be turned upright. `model_version` names what made the regions.
    """

    data: Mapping[str, Any]
    data_key: str
    file: Path
    regions: Callable[[], list[Region]]
    apply_exif: bool = False
    model_version: str = MODEL_VERSION

    def prediction(self) -> dict[str, Any]:
        """Make the prediction of the task."""
        return prediction(self.regions(), self.model_version)

    @property
    def external_id(self) -> str:
        """The external id of the task."""
        return str(self.data["ext_id"])


@dataclass
class PushReport:
    """The result of a push: counts of tasks by outcome, classes added to the project, and notes."""

    project: Project
    url: str
    frame_counts: Counter[str] = field(default_factory=Counter)
    added_classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def project_url(self) -> str:
        """The URL of the project, for the person who corrects the objects."""
        return f"{self.url}/projects/{self.project.id}/data"


def sync_tasks(
    client: StudioClient,
    list_specs: Callable[[], Iterable[TaskSpec]],
    report: PushReport,
    progress: Callable[[], None],
    model_version: str = MODEL_VERSION,
) -> None:
    """Create the tasks that the project of `report` lacks, and refresh predictions of others.

    `model_version` is that of all specs; the project shows no other version afterwards.
    """
    project = report.project
    names = [spec.external_id for spec in list_specs()] if project.task_count else []
    existing = find_tasks(client, project.id, names)
    existing = _delete_duplicates(client, project.id, existing, report)
    store = FileStore(client, project)
    new_tasks = (
        (spec.external_id, _encode_task(spec, store))
        for spec in list_specs()
        if spec.external_id not in existing
    )
    _create_tasks(client, store, new_tasks, report, progress)
    _refresh_predictions(client, project.id, list_specs(), existing, report, progress)
    if project.model_version != model_version and report.frame_counts:
        client.send("PATCH", f"/api/projects/{project.id}/", {"model_version": model_version})


def _encode_task(spec: TaskSpec, store: FileStore) -> bytes:
    """Put the file of a task in place, and encode the task as JSON."""
    data = {spec.data_key: store.put(spec.file, spec.external_id, spec.apply_exif), **spec.data}
    task = {"data": data, "predictions": [spec.prediction()]}
    return json.dumps(task, allow_nan=False).encode()


@dataclass
class TaskBatch:
    """The tasks of one request: external ids, and the encoded tasks."""

    names: list[str] = field(default_factory=list)
    encoded_tasks: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The body of the request."""
        return b"[" + b",".join(self.encoded_tasks) + b"]"


def batch_tasks(new_tasks: Iterable[tuple[str, bytes]]) -> Iterator[TaskBatch]:
    """Batch encoded tasks by number and size; each comes with its external id.

    Raises:
        DatasetError: one task is larger than the server accepts.
    """
    batch, max_tasks, free_bytes = TaskBatch(), _FIRST_BATCH_TASKS, _MAX_BATCH_BYTES
    for name, encoded in new_tasks:
        size = len(encoded)
        if size > _MAX_TASK_BYTES:
            raise DatasetError(
                f"{name}: a task of {size // 2**20} MB, but Label Studio accepts at most "
                f"{_MAX_TASK_BYTES // 2**20}; remove objects, or scale the images down"
            )
        if batch.names and (len(batch.names) == max_tasks or size > free_bytes):
            yield batch
            max_tasks = min(max_tasks * _BATCH_GROWTH, _MAX_BATCH_TASKS)
            batch, free_bytes = TaskBatch(), _MAX_BATCH_BYTES
        batch.names.append(name)
        batch.encoded_tasks.append(encoded)
        free_bytes -= size
    if batch.names:
        yield batch


def _create_tasks(
    client: StudioClient,
    store: FileStore,
    new_tasks: Iterable[tuple[str, bytes]],
    report: PushReport,
    progress: Callable[[], None],
) -> None:
    def finish(names: list[str], sent: Future[None]) -> None:
        sent.result()
        for _ in names:
            report.frame_counts["new"] += 1
            progress()

    with ThreadPoolExecutor(1) as sender:  # makes the next batch while the server imports one
        under_way: tuple[list[str], Future[None]] = [], sender.submit(store.grant_access)
        for batch in batch_tasks(new_tasks):
            body = batch.body
            finish(*under_way)
            sent = sender.submit(
                _ensure_imported, client, report.project.id, batch.names, body, report
            )
            under_way = batch.names, sent
        finish(*under_way)


def _ensure_imported(
    client: StudioClient, project: int, names: list[str], body: bytes, report: PushReport
) -> None:
    """Import a batch, and make sure that each task is there exactly once."""
    if not _import_batch(client, project, names, body):
        _delete_duplicates(client, project, find_tasks(client, project, names), report)


def _import_batch(client: StudioClient, project: int, names: list[str], body: bytes) -> bool:
    """Send a batch, which is imported as a whole or not at all; False if perhaps twice.

    When the response is lost, the server is asked for the tasks; the batch is sent again only when
    they do not appear.
    """
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            client.send("POST", f"/api/projects/{project}/import", body)
            return attempt == 1
        except LostResponse as error:
            lost = error
        for _ in range(_MAX_CHECKS):
            time.sleep(_PAUSE_SECONDS)
            if set(names) <= find_tasks(client, project, names).keys():
                return False
    raise LostResponse(f"{lost}; {len(names)} tasks did not arrive; push again to send them")


def _delete_duplicates(
    client: StudioClient, project: int, existing: dict[str, list[Task]], report: PushReport
) -> dict[str, list[Task]]:
    """Delete surplus tasks of the same external id, but none that a person worked on."""
    kept, surplus = {}, list[int]()
    for name, tasks in existing.items():
        worked_on = [task for task in tasks if task_status(task)]
        kept[name] = worked_on or [min(tasks, key=lambda task: int(task["id"]))]
        ids = {task["id"] for task in kept[name]}
        surplus += [task["id"] for task in tasks if task["id"] not in ids]
    if surplus:
        bulk_action(client, project, "delete_tasks", surplus)
        report.frame_counts["doubles deleted"] += len(surplus)
    return kept


def _refresh_predictions(
    client: StudioClient,
    project: int,
    specs: Iterable[TaskSpec],
    existing: Mapping[str, list[Task]],
    report: PushReport,
    progress: Callable[[], None],
) -> None:
    """Replace the predictions of untouched tasks where they differ from the specs."""
    if not existing:
        return
    predictions: dict[int, list[Any]] = {}
    for each in client.get("/api/predictions", {"project": project}):
        predictions.setdefault(each["task"], []).append(each)
    stale: list[tuple[int, TaskSpec]] = []
    for spec in specs:
        for task in existing.get(spec.external_id, ()):
            status = task_status(task)
            current = predictions.get(task["id"], ())
            if not status and not same_predictions(current, spec.regions(), spec.model_version):
                stale.append((task["id"], spec))
                status = "refreshed"
            report.frame_counts[status or "unchanged"] += 1
            progress()
    _replace_predictions(client, project, stale)


def _replace_predictions(
    client: StudioClient, project: int, stale: Sequence[tuple[int, TaskSpec]]
) -> None:
    """Delete the predictions of tasks, and send the new ones.

    If this is interrupted in between, the next push sends the missing predictions.
    """
    bulk_action(client, project, "delete_tasks_predictions", [task_id for task_id, _ in stale])
    for batch in chunks(stale, _MAX_BATCH_TASKS):
        body = [{"task": task_id, **spec.prediction()} for task_id, spec in batch]
        client.send("POST", f"/api/projects/{project}/import/predictions", body)
