"""Look at a Label Studio as a push would find it, and say how to put right what is not."""

from __future__ import annotations

import io
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from annotate import ls_config, studio_env
from annotate.errors import StudioError
from annotate.folder import Dataset
from annotate.labelstudio import Project, Server

_MOST_SECONDS_OFF = 60


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, what was found, and its cure; "" where all is well."""

    what: str
    found: str
    cure: str = ""


def examine(
    server: Server, dataset: Dataset | None = None, project: str | None = None
) -> list[Check]:
    """All that can be looked at; with a dataset or a project, that as well.

    Raises:
        StudioError: the server does not answer, or refuses the token: the error says the cure.
    """
    who = server.who()
    checks = [Check("address", server.url), _version(server), _token(server, who)]
    checks += [_rights(server), _clock(server), _documents(server)]
    name = project or (dataset and dataset.path.absolute().name)
    if name:
        checks += _project(server, name, dataset)
    return checks


def _version(server: Server) -> Check:
    told = server.get("/api/version")
    version = str(told.get("release", "unknown"))
    ours = studio_env.VERSION
    cure = "" if version == ours else f"tested with {ours}; look twice, or use `annotate studio up`"
    return Check("version", version, cure)


def _token(server: Server, who: dict[str, object]) -> Check:
    return Check("token", f"{server.token_kind}, of {who['email']}")


def _rights(server: Server) -> Check:
    try:
        count = server.get("/api/projects", {"page_size": 1, "include": "id"})["count"]
    except StudioError as error:
        return Check("rights", str(error), "ask for a user who may see and make projects")
    return Check("rights", f"sees {count} projects")


def _clock(server: Server) -> Check:
    headers, _ = server.fetch("/health")
    off = abs(parsedate_to_datetime(headers["date"]).timestamp() - time.time())
    cure = "" if off < _MOST_SECONDS_OFF else "set the clocks: `--since last` goes by the server's"
    return Check("clock", f"{off:.0f} s apart", cure)


def _documents(server: Server) -> Check:
    root = server.documents
    if root is None:
        return Check("document root", "not of this machine: pictures are uploaded")
    mode = stat.S_IMODE(root.parent.stat().st_mode)
    if links := [path for path in root.rglob("*") if path.is_symlink()]:
        cure = f"remove {links[0]}: the server follows links out of its root"
        return Check("document root", str(root), cure)
    cure = f"chmod 700 {root.parent}" if mode & 0o077 else ""
    return Check("document root", f"{root}, mode of its folder {mode:o}", cure)


def _project(server: Server, name: str, dataset: Dataset | None) -> Iterator[Check]:
    found = server.find(name)
    if found is None:
        yield Check("project", f"none called {name!r}", "`annotate push` makes it")
        return
    yield Check("project", f"{found.id}: {found.title}")
    if dataset is not None:
        yield _config(found, dataset)
    yield _picture(server, found)


def _config(project: Project, dataset: Dataset) -> Check:
    offered = ls_config.labels(project.config)
    missing = [label for label in dataset.classes if label not in offered]
    make = ls_config.for_video if "<VideoRectangle" in project.config else ls_config.for_pictures
    try:
        ls_config.completed(project.config, dataset.classes, make(dataset.classes))
    except StudioError as error:
        return Check("labelling config", ", ".join(offered), str(error))
    cure = f"`annotate push` adds {', '.join(missing)}" if missing else ""
    return Check("labelling config", ", ".join(offered), cure)


def _picture(server: Server, project: Project) -> Check:
    """Fetch what the editor would show of the first task."""
    listed = server.get("/api/tasks", {"project": project.id, "page_size": 1, "fields": "all"})
    if not listed["tasks"]:
        return Check("a picture", "no tasks yet", "`annotate push` makes them")
    data = listed["tasks"][0]["data"]
    address = str(data.get("image") or data.get("video") or "")
    cure = "put the file back where the server serves it from, or push to a new project"
    try:
        _, content = server.fetch(address)
    except StudioError as error:
        return Check("a picture", f"does not show: {error}", cure)
    if "image" in data:
        from PIL import Image

        try:
            Image.open(io.BytesIO(content)).load()
        except OSError as error:
            return Check("a picture", f"{address} is no picture: {error}", cure)
    return Check("a picture", f"{Path(address).name} shows, {len(content)} bytes")
