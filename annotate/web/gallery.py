"""Serve search results as a local web page, where a person keeps or rejects each hit.

The server binds 127.0.0.1 and answers only under a secret path. Requests with another Host or
Origin are refused. Each decision is written to disk before the page is told that it was saved.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import unquote

from annotate.errors import AnnotateError
from annotate.items import journal
from annotate.sampling.folder import image_name
from annotate.search import results
from annotate.web.map import escape_html, json_for_script

_MAX_BODY_BYTES = 4096  # bytes of a decision
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[str]:
    """The gallery's address, for as long as the context lasts.

    Raises:
        ItemsError: `annotate find` has not filled the folder.
        OSError: the port is taken.
    """
    results.read_hits(folder)
    secret, lock = secrets.token_urlsafe(16), threading.Lock()

    class Handler(_GalleryHandler):
        place, path_secret, writing = folder, secret, lock

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{secret}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def render_page(folder: Path) -> str:
    """The page, as HTML: hits by clip and time, and what was decided of each before."""
    known, said = results.read_hits(folder), results.read_decisions(folder)
    told = [
        {
            "name": hit.name,
            "video": hit.video,
            "start": hit.start,
            "stop": hit.stop,
            "seconds": float(hit.seconds),
            "confidence": hit.confidence,
            "keep": said.get(hit.name),
            "image": f"{results.FRAMES_FOLDER}/{image_name(hit.video, hit.best_frame, 'png')}",
        }
        for hit in known
    ]
    header = journal.read(folder / results.FOUND_FILE).header
    first = next(iter(header.videos.values()), {"width": 16, "height": 9})
    text = Template(Path(__file__).with_name("gallery.html").read_text(encoding="utf-8"))
    title = escape_html(", ".join(header.vocabulary.get("labels", ())))
    shape = f"{int(first['width'])} / {int(first['height'])}"
    return text.substitute(title=title, shape=shape, data=json_for_script(told))


class _GalleryHandler(BaseHTTPRequestHandler):
    results_folder: Path
    url_secret: str
    write_lock: threading.Lock

    def do_GET(self) -> None:
        """The page, or a picture of `frames/`."""
        inside = self._path_after_secret()
        if inside == "":
            self._send(200, "text/html; charset=utf-8", render_page(self.results_folder).encode())
            return
        folder, _, name = (inside or "").partition("/")
        path = self.results_folder / results.FRAMES_FOLDER / name
        if folder == results.FRAMES_FOLDER and Path(name).name == name and path.is_file():
            self._send(200, "image/png", path.read_bytes())
        else:
            self._send(404, "text/plain", b"not here")

    def do_POST(self) -> None:
        """A decision: {"hit": name, "keep": true, false or null}."""
        origin = self.headers.get("Origin", "")
        ours = origin == f"http://{self.headers.get('Host')}"
        json_sent = self.headers.get("Content-Type") == "application/json"
        if self._path_after_secret() != "decide" or not ours or not json_sent:
            self._send(403, "text/plain", b"refused")
            return
        try:
            length = int(self.headers.get("Content-Length") or 0)
            record = json.loads(self.rfile.read(min(length, _MAX_BODY_BYTES)))
            keep = record["keep"]
            if keep not in (True, False, None):
                raise ValueError("keep must be true, false or null")
            with self.write_lock:
                results.record_decision(self.results_folder, record["hit"], keep)
        except (ValueError, KeyError, TypeError, AnnotateError) as error:
            self._send(400, "text/plain; charset=utf-8", str(error).encode())
            return
        self._send(200, "application/json", b"{}")

    def _path_after_secret(self) -> str | None:
        """The path behind the secret; None for who does not know it, or means another server."""
        host = self.headers.get("Host", "").partition(":")[0]
        secret, slash, rest = unquote(self.path.partition("?")[0])[1:].partition("/")
        known = secrets.compare_digest(secret.encode(), self.url_secret.encode())
        return rest if host == "127.0.0.1" and known and slash else None

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
        }
        headers |= {
            "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in (headers | {"Referrer-Policy": "no-referrer"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing: the page shows what matters."""
