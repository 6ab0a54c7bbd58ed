"""Check a Label Studio server before a push, and suggest a cure for each problem."""

from __future__ import annotations

import io
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from annotate.dataset.folder import Dataset
from annotate.errors import StudioError
from annotate.labelstudio.client import Project, StudioClient
from annotate.labelstudio.install import LABEL_STUDIO_VERSION
from annotate.labelstudio.push import default_title, find_project
from annotate.labelstudio.tasks import complete_config, config_labels, image_config, video_config

_MAX_CLOCK_OFFSET_SECONDS = 60


@dataclass(frozen=True)
class DoctorCheck:
    """One check: its subject, the finding, and the cure; an empty cure where all is well."""

    subject: str
    finding: str
    cure: str = ""


def run_checks(
    client: StudioClient, dataset: Dataset | None = None, project: str | None = None
) -> list[DoctorCheck]:
    """Check the server, and the project of a dataset where one is given.

    Raises:
        StudioError: the server does not answer, or refuses the token: the error names the cure.
    """
    user = client.current_user()
    checks = [
        DoctorCheck("address", client.url),
        _check_version(client),
        _check_token(client, user),
    ]
    checks += [_check_permissions(client), _check_clock(client), _check_document_root(client)]
    if project or dataset:
        checks += _check_project(client, project, dataset)
    return checks


def _check_version(client: StudioClient) -> DoctorCheck:
    version = str(client.get("/api/version").get("release", "unknown"))
    tested = LABEL_STUDIO_VERSION
    cure = "" if version == tested else f"tested with {tested} only; or use `annotate studio up`"
    return DoctorCheck("version", version, cure)


def _check_token(client: StudioClient, user: dict[str, object]) -> DoctorCheck:
    return DoctorCheck("token", f"{client.token_kind}, of {user['email']}")


def _check_permissions(client: StudioClient) -> DoctorCheck:
    try:
        count = client.get("/api/projects", {"page_size": 1, "include": "id"})["count"]
    except StudioError as error:
        return DoctorCheck("rights", str(error), "use a token that may list and create projects")
    return DoctorCheck("rights", f"sees {count} projects")


def _check_clock(client: StudioClient) -> DoctorCheck:
    headers, _ = client.fetch("/health")
    offset = abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time())
    wrong = offset >= _MAX_CLOCK_OFFSET_SECONDS
    cure = (
        "set the clocks: a pull of the changes since the last pull compares both" if wrong else ""
    )
    return DoctorCheck("clock", f"{offset:.0f} s apart", cure)


def _check_document_root(client: StudioClient) -> DoctorCheck:
    root = client.document_root
    if root is None:
        return DoctorCheck("document root", "not on this machine: images are uploaded")
    mode = stat.S_IMODE(root.parent.stat().st_mode)
    if links := [path for path in root.rglob("*") if path.is_symlink()]:
        cure = f"remove {links[0]}: the server follows symbolic links out of its root"
        return DoctorCheck("document root", str(root), cure)
    cure = f"chmod 700 {root.parent}" if mode & 0o077 else ""
    return DoctorCheck("document root", f"{root}, folder mode {mode:o}", cure)


def _check_project(
    client: StudioClient, name: str | None, dataset: Dataset | None
) -> Iterator[DoctorCheck]:
    project = find_project(client, dataset, name) if dataset else client.find_project(name or "")
    if project is None:
        name = name or (default_title(dataset) if dataset else "")
        yield DoctorCheck("project", f"none called {name!r}", "`annotate push` creates it")
        return
    yield DoctorCheck("project", f"{project.id}: {project.title}")
    if dataset is not None:
        yield _check_config(project, dataset)
    yield _check_first_task(client, project)


def _check_config(project: Project, dataset: Dataset) -> DoctorCheck:
    offered = config_labels(project.config)
    missing = [label for label in dataset.classes if label not in offered]
    make_config = video_config if "<VideoRectangle" in project.config else image_config
    try:
        complete_config(project.config, dataset.classes, make_config(dataset.classes))
    except StudioError as error:
        return DoctorCheck("labelling config", ", ".join(offered), str(error))
    cure = f"`annotate push` adds {', '.join(missing)}" if missing else ""
    return DoctorCheck("labelling config", ", ".join(offered), cure)


def _check_first_task(client: StudioClient, project: Project) -> DoctorCheck:
    """Fetch the image or video of the first task, as the editor would."""
    listed = client.get("/api/tasks", {"project": project.id, "page_size": 1, "fields": "all"})
    if not listed["tasks"]:
        return DoctorCheck("first task", "no tasks yet", "`annotate push` creates them")
    data = listed["tasks"][0]["data"]
    address = str(data.get("image") or data.get("video") or "")
    cure = "put the file back into the folder of the server, or push to a new project"
    try:
        _, content = client.fetch(address)
    except StudioError as error:
        return DoctorCheck("first task", f"cannot be shown: {error}", cure)
    if "image" in data:
        from PIL import Image

        try:
            Image.open(io.BytesIO(content)).load()
        except OSError as error:
            return DoctorCheck("first task", f"{address} is not an image: {error}", cure)
    return DoctorCheck("first task", f"{Path(address).name} is shown, {len(content)} bytes")
