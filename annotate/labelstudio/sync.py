"""Import tasks into a project, each exactly once, without touching a person's work.

The server has no unique key, and a lost response does not mean that nothing was done. So every task
has an external id; before and after each import the server is asked which ids it has. Images and
clips are put where the server can show them: linked or copied into its folder when it runs on this
machine, uploaded otherwise; images are turned upright as their EXIF says.
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
from annotate.errors import DatasetError, LostResponse, VideoError
from annotate.items.records import Item
from annotate.labelstudio.client import Project, StudioClient
from annotate.labelstudio.regions import Region
from annotate.labelstudio.tasks import (
    MODEL_VERSION,
    Task,
    bulk_action,
    chunks,
    find_tasks,
    prediction,
    same_predictions,
    task_status,
)
from annotate.video.images import open_upright, read_header


def check_image(path: Path, item: Item) -> bool:
    """Accept a picture that is there and, the right way up, of its item's size.

    True where it must be turned for that, as its EXIF says.

    Raises:
        DatasetError: missing, unreadable or of another size.
    """
    if not path.exists():
        raise DatasetError(f"{path}: the picture of {item.video}#{item.frame} is missing")
    try:
        (width, height), turned = read_header(path)
    except VideoError as error:
        raise DatasetError(str(error)) from None
    if (width, height) != (item.width, item.height):
        raise DatasetError(
            f"{path}: {width}x{height}, but its item says {item.width}x{item.height}; build the "
            "dataset anew"
        )
    return turned


class FileStore:
    """Puts the files of a project's tasks where its server finds them.

    A server of this machine is given the file (a second name of it where the disk can link); to
    any other it is uploaded.
    """

    def __init__(self, server: StudioClient, project: Project) -> None:
        self._server, self._project = server, project
        self._folder, self._new = None, False
        if server.document_root is not None:
            self._folder = server.document_root / f"project-{project.id}"
            self._new = not self._folder.exists()
            self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: Path, ext_id: str, apply_exif: bool) -> str:
        """Put the file of a task there, turned if it is a picture that lies; say its address."""
        if self._folder is None:
            return _upload_file(self._server, self._project, path, apply_exif)
        digest = hashlib.sha256(ext_id.encode()).hexdigest()[:8]  # names are of one dataset only
        name = f"{path.stem}-{digest}{path.suffix}"
        draft = self._folder / f".{name}"
        draft.unlink(missing_ok=True)
        _place_file(path, draft, apply_exif)
        draft.replace(self._folder / name)
        return f"/data/local-files/?d={quote(f'{self._folder.name}/{name}')}"

    def grant_access(self) -> None:
        """Let the project see the folder: a storage row does, without a sync."""
        if self._folder is None:
            return
        server, path, storages = self._server, str(self._folder), "/api/storages/localfiles"
        if not self._new:  # a push that was killed may have had no time to say so
            listed = server.get(storages, {"project": self._project.id})
            if any(each.get("path") == path for each in listed):
                return
        body = {
            "project": self._project.id,
            "path": path,
            "title": "annotate",
            "use_blob_urls": True,
            "regex_filter": "never-synced",
        }
        server.send("POST", storages, body)


def _place_file(source: Path, target: Path, apply_exif: bool) -> None:
    """Place a file; turned as its EXIF says: browsers turn it, and percents would be of that."""
    if not apply_exif:
        return link_or_copy(source, target)
    with open_upright(source) as image:
        image.save(target, image.format, quality=95)


def _upload_file(server: StudioClient, project: Project, path: Path, apply_exif: bool) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        turned = Path(folder) / path.name
        _place_file(path, turned, apply_exif)
        files = {"file": (path.name, turned.read_bytes())}
        asked = f"/api/projects/{project.id}/import"
        told = server.send("POST", asked, params={"commit_to_project": "false"}, files=files)
    found = server.get(f"/api/import/file-upload/{told['file_upload_ids'][0]}")
    return f"/data/{quote(found['file'])}"


_MAX_BATCH_TASKS = 1000  # tasks a request
_FIRST_BATCH_TASKS, _BATCH_GROWTH = (
    100,
    4,
)  # fewer at first: the server has nothing to do until they are made
_MAX_BATCH_BYTES = 20 * 2**20
_MAX_TASK_BYTES = 200 * 2**20  # that a server takes in one request
_MAX_TRIES, _MAX_CHECKS, _PAUSE_SECONDS = 3, 20, 1.0  # with a batch of which the answer was lost


@dataclass(frozen=True)
class TaskSpec:
    """A task to be there: its data, the file that it shows, and what is proposed on it.

    `shows` is the data's key for the file's address: "image" or "video". `turn` says that the file
    is a picture which lies on its side.
    """

    data: Mapping[str, Any]
    data_key: str
    file: Path
    regions: Callable[[], list[Region]]
    apply_exif: bool = False

    @property
    def external_id(self) -> str:
        """Its external id."""
        return str(self.data["ext_id"])


@dataclass
class PushReport:
    """What a push has done: frames by what became of them, and classes that the project got."""

    project: Project
    url: str
    frame_counts: Counter[str] = field(default_factory=Counter)
    added_classes: tuple[str, ...] = ()

    @property
    def project_url(self) -> str:
        """Where a person corrects them."""
        return f"{self.url}/projects/{self.project.id}/data"


def sync_tasks(
    server: StudioClient,
    list_specs: Callable[[], Iterable[TaskSpec]],
    report: PushReport,
    progress: Callable[[], None],
) -> None:
    """Make the tasks that the project of `done` lacks, and refresh the predictions of others."""
    project = report.project
    names = [each.external_id for each in list_specs()] if project.task_count else []
    there = find_tasks(server, project.id, names)
    there = _delete_duplicates(server, project.id, there, report)
    stager = FileStore(server, project)
    new = (
        (each.external_id, _encode_task(each, stager))
        for each in list_specs()
        if each.external_id not in there
    )
    _create_tasks(server, stager, new, report, progress)
    _refresh_predictions(server, project.id, list_specs(), there, report, progress)
    if project.model_version != MODEL_VERSION and report.frame_counts:
        server.send("PATCH", f"/api/projects/{project.id}/", {"model_version": MODEL_VERSION})


def _encode_task(spec: TaskSpec, store: FileStore) -> bytes:
    """A task as it is sent, with its file in place."""
    data = {spec.data_key: store.put(spec.file, spec.external_id, spec.apply_exif), **spec.data}
    told = {"data": data, "predictions": [prediction(spec.regions())]}
    return json.dumps(told, allow_nan=False).encode()


@dataclass
class TaskBatch:
    """Tasks of one request: their external ids, and each as it is sent."""

    names: list[str] = field(default_factory=list)
    encoded_tasks: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The request."""
        return b"[" + b",".join(self.encoded_tasks) + b"]"


def batch_tasks(new_tasks: Iterable[tuple[str, bytes]]) -> Iterator[TaskBatch]:
    """Tasks as a request takes them: not too many, not too large.

    Raises:
        DatasetError: one task alone is more than a server takes.
    """
    batch, most, room = TaskBatch(), _FIRST_BATCH_TASKS, _MAX_BATCH_BYTES
    for name, told in new_tasks:
        size = len(told)
        if size > _MAX_TASK_BYTES:
            raise DatasetError(
                f"{name}: {size // 2**20} MB as a task, more than the "
                f"{_MAX_TASK_BYTES // 2**20} that Label Studio takes; take objects out, or scale down"
            )
        if batch.names and (len(batch.names) == most or size > room):
            yield batch
            batch, most, room = (
                TaskBatch(),
                min(most * _BATCH_GROWTH, _MAX_BATCH_TASKS),
                _MAX_BATCH_BYTES,
            )
        batch.names.append(name)
        batch.encoded_tasks.append(told)
        room -= size
    if batch.names:
        yield batch


def _create_tasks(
    server: StudioClient,
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

    with ThreadPoolExecutor(1) as sender:  # the next batch is made while the server takes this one
        under_way: tuple[list[str], Future[None]] = [], sender.submit(store.grant_access)
        for batch in batch_tasks(new_tasks):
            body = batch.body
            finish(*under_way)
            sent = sender.submit(
                _ensure_imported, server, report.project.id, batch.names, body, report
            )
            under_way = batch.names, sent
        finish(*under_way)


def _ensure_imported(
    server: StudioClient, project: int, names: list[str], body: bytes, report: PushReport
) -> None:
    """See to it that a batch is there, and there once."""
    if not _import_batch(server, project, names, body):
        _delete_duplicates(server, project, find_tasks(server, project, names), report)


def _import_batch(server: StudioClient, project: int, names: list[str], body: bytes) -> bool:
    """Send a batch, which arrives whole or not at all; False when it may have arrived twice.

    When the answer is lost, see what arrived; only when that stays nothing, send it again.
    """
    for attempt in range(1, _MAX_TRIES + 1):
        try:
            server.send("POST", f"/api/projects/{project}/import", body)
            return attempt == 1
        except LostResponse as error:
            lost = error
        for _ in range(_MAX_CHECKS):
            time.sleep(_PAUSE_SECONDS)
            if set(names) <= find_tasks(server, project, names).keys():
                return False
    raise LostResponse(f"{lost}; {len(names)} frames have not arrived: push again to send them")


def _delete_duplicates(
    server: StudioClient, project: int, existing: dict[str, list[Task]], report: PushReport
) -> dict[str, list[Task]]:
    """What is left when the surplus of frames that came twice is deleted; never what is touched."""
    kept, surplus = {}, list[int]()
    for name, same in existing.items():
        worked_on = [task for task in same if task_status(task)]
        kept[name] = worked_on or [min(same, key=lambda task: int(task["id"]))]
        ids = {task["id"] for task in kept[name]}
        surplus += [task["id"] for task in same if task["id"] not in ids]
    if surplus:
        bulk_action(server, project, "delete_tasks", surplus)
        report.frame_counts["doubles deleted"] += len(surplus)
    return kept


def _refresh_predictions(
    server: StudioClient,
    project: int,
    specs: Iterable[TaskSpec],
    existing: Mapping[str, list[Task]],
    report: PushReport,
    progress: Callable[[], None],
) -> None:
    """Replace the predictions of untouched tasks where they differ from what is wanted."""
    if not existing:
        return
    known: dict[int, list[Any]] = {}
    for each in server.get("/api/predictions", {"project": project}):
        known.setdefault(each["task"], []).append(each)
    stale: list[tuple[int, TaskSpec]] = []
    for want in specs:
        for task in existing.get(want.external_id, ()):
            state = task_status(task)
            if not state and not same_predictions(known.get(task["id"], ()), want.regions()):
                stale.append((task["id"], want))
                state = "refreshed"
            report.frame_counts[state or "unchanged"] += 1
            progress()
    _replace_predictions(server, project, stale)


def _replace_predictions(
    server: StudioClient, project: int, stale: Sequence[tuple[int, TaskSpec]]
) -> None:
    """Delete, then send: the next push mends a task that one left without predictions."""
    bulk_action(server, project, "delete_tasks_predictions", [number for number, _ in stale])
    for some in chunks(stale, _MAX_BATCH_TASKS):
        told = [{"task": number, **prediction(want.regions())} for number, want in some]
        server.send("POST", f"/api/projects/{project}/import/predictions", told)
