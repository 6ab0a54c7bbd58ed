"""Put pictures and clips where a Label Studio can show them, as real files of the right way up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from annotate.dataset import place
from annotate.errors import DatasetError
from annotate.labelstudio import Project, Server
from annotate.records import Item

_ORIENTATION = 0x0112  # of EXIF; 1 is upright, 5 to 8 lie on their side


def check_picture(path: Path, item: Item) -> None:
    """Accept a picture that is there and, the right way up, of its item's size.

    Raises:
        DatasetError: missing, unreadable or of another size.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            lying = Image.Image.getexif(image).get(_ORIENTATION, 1) >= 5
            width, height = image.size[::-1] if lying else image.size
    except FileNotFoundError:
        raise DatasetError(f"{path}: the picture of {item.video}#{item.frame} is missing") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{path}: not a picture that can be read: {error}") from None
    if (width, height) != (item.width, item.height):
        raise DatasetError(
            f"{path}: {width}x{height}, but its item says {item.width}x{item.height}; build the "
            "dataset anew"
        )


def stager(server: Server, project: Project) -> Callable[[Path, str], str]:
    """A function that puts the file of a task where the server finds it, and says its address.

    It is told the file and the task's external id. A server of this machine is given the file (a
    second name of it where the disk can link); to any other it is uploaded.
    """
    if server.documents is None:
        return lambda path, ext_id: _upload(server, project, path)
    folder = server.documents / f"project-{project.id}"
    folder.mkdir(parents=True, exist_ok=True)
    _grant(server, project, folder)

    def put(path: Path, ext_id: str) -> str:
        digest = hashlib.sha256(ext_id.encode()).hexdigest()[:8]  # names are of one dataset only
        target = folder / f"{path.stem}-{digest}{path.suffix}"
        draft = folder / f".{target.name}"
        draft.unlink(missing_ok=True)
        _upright(path, draft)
        draft.replace(target)
        return f"/data/local-files/?d={quote(f'{folder.name}/{target.name}')}"

    return put


def _grant(server: Server, project: Project, folder: Path) -> None:
    """Let the project see the folder: a storage row does, without a sync."""
    listed = server.get("/api/storages/localfiles", {"project": project.id})
    if any(each.get("path") == str(folder) for each in listed):
        return
    body = {
        "project": project.id,
        "path": str(folder),
        "title": "annotate",
        "use_blob_urls": True,
        "regex_filter": "never-synced",
    }
    server.send("POST", "/api/storages/localfiles", body)


def _upright(source: Path, target: Path) -> None:
    """Place a picture, turned as its EXIF says: browsers turn it, and percents would be of that."""
    from PIL import Image, ImageOps

    if source.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}:
        with Image.open(source) as image:
            if Image.Image.getexif(image).get(_ORIENTATION, 1) != 1:
                ImageOps.exif_transpose(image).save(target, image.format, quality=95)
                return
    place(source, target)


def _upload(server: Server, project: Project, path: Path) -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        turned = Path(folder) / path.name
        _upright(path, turned)
        files = {"file": (path.name, turned.read_bytes())}
        asked = f"/api/projects/{project.id}/import"
        told = server.send("POST", asked, params={"commit_to_project": "false"}, files=files)
    found = server.get(f"/api/import/file-upload/{told['file_upload_ids'][0]}")
    return f"/data/{quote(found['file'])}"
