"""Show search results on a local page, where a person keeps or rejects each hit.

Each decision is on disk before the page gets the confirmation.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from annotate.errors import AnnotateError
from annotate.items import journal
from annotate.sampling.folder import image_name
from annotate.search import results
from annotate.web.server import serve

_FILES = Path(__file__).parent


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve the gallery of a folder of search results while the context lasts; gives its address.

    Raises:
        ItemsError: `annotate find` has not filled the folder.
        OSError: the port is in use.
    """
    results.read_hits(folder)
    gallery = _Gallery(folder)
    routes = [
        Route("/hits", gallery.get_hits),
        Route("/image/{name}", gallery.get_image),
        Route("/decide", gallery.post_decision, methods=["POST"]),
    ]
    files = [_FILES / name for name in ("gallery.css", "gallery.js", "local.js")]
    with serve(_FILES / "gallery.html", routes, port=port, files=files) as address:
        yield address


def read_gallery(folder: Path) -> dict[str, Any]:
    """Return what the page shows: the title and the hits by clip and time, with the decisions."""
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
            "image": f"image/{image_name(hit.video, hit.best_frame, 'png')}",
        }
        for hit in results.read_hits(folder)
    ]
    header = journal.read(folder / results.FOUND_FILE).header
    video = next(iter(header.videos.values()), {"width": 16, "height": 9})
    return {
        "title": ", ".join(header.vocabulary.get("labels", ())),
        "aspect": f"{int(video['width'])} / {int(video['height'])}",
        "hits": hits,
    }


class _Gallery:
    """The answers to the requests of the page of one folder of search results."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._write_lock = folder, threading.Lock()

    def get_hits(self, request: Request) -> Response:
        return JSONResponse(read_gallery(self._folder))

    def get_image(self, request: Request) -> Response:
        name = request.path_params["name"]
        path = self._folder / results.FRAMES_FOLDER / name
        if Path(name).name != name or not path.is_file():
            return PlainTextResponse("not here", 404)
        return FileResponse(path, media_type="image/png")

    async def post_decision(self, request: Request) -> Response:
        """Record a decision: {"hit": name, "keep": true, false or null}."""
        try:
            record = await request.json()
            await run_in_threadpool(self._record, record["hit"], record["keep"])
        except (ValueError, KeyError, TypeError, AnnotateError) as error:
            return PlainTextResponse(str(error), 400)
        return JSONResponse({})

    def _record(self, hit: str, keep: Any) -> None:
        if keep not in (True, False, None):
            raise ValueError("`keep` must be true, false or null")
        with self._write_lock:
            results.record_decision(self._folder, hit, keep)
