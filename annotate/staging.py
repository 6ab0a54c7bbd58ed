"""Put pictures and clips where a Label Studio can show them, as real files of the right way up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

from annotate.dataset import place
from annotate.errors import DatasetError
from annotate.labelstudio import Project, Server
from annotate.records import Item

_ORIENTATION = 0x0112  # of EXIF; 1 is upright, 5 to 8 lie on their side


def check_picture(path: Path, item: Item) -> bool:
    """Accept a picture that is there and, the right way up, of its item's size.

    True where it must be turned for that, as its EXIF says.

    Raises:
        DatasetError: missing, unreadable or of another size.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
            width, height = image.size[::-1] if orientation >= 5 else image.size
    except FileNotFoundError:
        raise DatasetError(f"{path}: the picture of {item.video}#{item.frame} is missing") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{path}: not a picture that can be read: {error}") from None
    if (width, height) != (item.width, item.height):
        raise DatasetError(
            f"{path}: {width}x{height}, but its item says {item.width}x{item.height}; build the "
            "dataset anew"
        )
    return bool(orientation != 1)


class Stager:
    """Puts the files of a project's tasks where its server finds them.

    A server of this machine is given the file (a second name of it where the disk can link); to
    any other it is uploaded.
    """

    def __init__(self, server: Server, project: Project) -> None:
        self._server, self._project = server, project
        self._folder, self._new = None, False
        if server.documents is not None:
            self._folder = server.documents / f"project-{project.id}"
            self._new = not self._folder.exists()
            self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: Path, ext_id: str, turn: bool) -> str:
        """Put the file of a task there, turned if it is a picture that lies; say its address."""
        if self._folder is None:
            return _upload(self._server, self._project, path, turn)
        digest = hashlib.sha256(ext_id.encode()).hexdigest()[:8]  # names are of one dataset only
        name = f"{path.stem}-{digest}{path.suffix}"
        draft = self._folder / f".{name}"
        draft.unlink(missing_ok=True)
        _put(path, draft, turn)
        draft.replace(self._folder / name)
        return f"/data/local-files/?d={quote(f'{self._folder.name}/{name}')}"

    def grant(self) -> None:
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


def _put(source: Path, target: Path, turn: bool) -> None:
    """Place a file; turned as its EXIF says: browsers turn it, and percents would be of that."""
    if not turn:
        return place(source, target)
    from PIL import Image, ImageOps

    with Image.open(source) as image:
        ImageOps.exif_transpose(image).save(target, image.format, quality=95)


def _upload(server: Server, project: Project, path: Path, turn: bool) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        turned = Path(folder) / path.name
        _put(path, turned, turn)
        files = {"file": (path.name, turned.read_bytes())}
        asked = f"/api/projects/{project.id}/import"
        told = server.send("POST", asked, params={"commit_to_project": "false"}, files=files)
    found = server.get(f"/api/import/file-upload/{told['file_upload_ids'][0]}")
    return f"/data/{quote(found['file'])}"
