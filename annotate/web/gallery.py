"""Show search results on a local page, where a person keeps or rejects each hit.

Each decision is on disk before the page gets the confirmation.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from annotate.items import journal
from annotate.sampling.folder import image_name
from annotate.search import results
from annotate.web.server import Response, serve_page
from annotate.web.template import fill_template


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve the gallery of a folder of search results while the context lasts; gives its address.

    Raises:
        ItemsError: `annotate find` has not filled the folder.
        OSError: the port is in use.
    """
    results.read_hits(folder)
    with serve_page(_GalleryPage(folder), port) as address:
        yield address


def render_page(folder: Path) -> str:
    """Render the page as HTML: hits by clip and time, with the decisions so far."""
    decisions = results.read_decisions(folder)
    hits = [
        {
            "name": hit.name,
            "video": hit.video,
            "start": hit.start,
            "stop": hit.stop,
            "seconds": float(hit.seconds),
            "confidence": hit.confidence,
            "keep": decisions.get(hit.name),
            "image": f"{results.FRAMES_FOLDER}/{image_name(hit.video, hit.best_frame, 'png')}",
        }
        for hit in results.read_hits(folder)
    ]
    header = journal.read(folder / results.FOUND_FILE).header
    video = next(iter(header.videos.values()), {"width": 16, "height": 9})
    aspect = f"{int(video['width'])} / {int(video['height'])}"
    title = ", ".join(header.vocabulary.get("labels", ()))
    return fill_template("gallery.html", title, hits, shape=aspect)


class _GalleryPage:
    """The gallery of one folder of search results: the page, its images and its decisions."""

    post_paths: Collection[str] = ("decide",)

    def __init__(self, folder: Path) -> None:
        self._folder, self._write_lock = folder, threading.Lock()

    def get(self, path: str) -> Response | None:
        """Answer with the page, or with an image of the folder of frames."""
        if path == "":
            return Response(render_page(self._folder).encode(), "text/html; charset=utf-8")
        subfolder, _, name = path.partition("/")
        image = self._folder / results.FRAMES_FOLDER / name
        if subfolder == results.FRAMES_FOLDER and Path(name).name == name and image.is_file():
            return Response(image.read_bytes(), "image/png")
        return None

    def post(self, path: str, record: Any) -> None:
        """Record a decision: {"hit": name, "keep": true, false or null}."""
        keep = record["keep"]
        if keep not in (True, False, None):
            raise ValueError("`keep` must be true, false or null")
        with self._write_lock:
            results.record_decision(self._folder, record["hit"], keep)
