"""The gallery of what was found: a page on this machine alone, where a person keeps and rejects.

It is served at 127.0.0.1 under a path that nobody can guess; what another page in the same browser
sends there is refused. Each decision is on the disk before the page is told that it was saved.
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

from annotate import chosen, hits, journal
from annotate.atlas_page import in_script, in_text
from annotate.errors import AnnotateError

_LONGEST = 4096  # bytes of a decision
_POLICY = (
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
    hits.read(folder)
    secret, lock = secrets.token_urlsafe(16), threading.Lock()

    class Handler(_Handler):
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


def page(folder: Path) -> str:
    """The page, as HTML: hits by clip and time, and what was decided of each before."""
    known, said = hits.read(folder), hits.decisions(folder)
    told = [
        {
            "name": hit.name,
            "video": hit.video,
            "start": hit.start,
            "stop": hit.stop,
            "seconds": float(hit.seconds),
            "confidence": hit.confidence,
            "keep": said.get(hit.name),
            "image": f"{hits.FRAMES}/{chosen.name(hit.video, hit.surest, 'png')}",
        }
        for hit in known
    ]
    header = journal.read(folder / hits.FOUND).header
    first = next(iter(header.videos.values()), {"width": 16, "height": 9})
    text = Template(Path(__file__).with_name("gallery.html").read_text(encoding="utf-8"))
    title = in_text(", ".join(header.vocabulary.get("labels", ())))
    shape = f"{int(first['width'])} / {int(first['height'])}"
    return text.substitute(title=title, shape=shape, data=in_script(told))


class _Handler(BaseHTTPRequestHandler):
    place: Path
    path_secret: str
    writing: threading.Lock

    def do_GET(self) -> None:
        """The page, or a picture of `frames/`."""
        inside = self._inside()
        if inside == "":
            self._send(200, "text/html; charset=utf-8", page(self.place).encode())
            return
        folder, _, name = (inside or "").partition("/")
        path = self.place / hits.FRAMES / name
        if folder == hits.FRAMES and Path(name).name == name and path.is_file():
            self._send(200, "image/png", path.read_bytes())
        else:
            self._send(404, "text/plain", b"not here")

    def do_POST(self) -> None:
        """A decision: {"hit": name, "keep": true, false or null}."""
        origin = self.headers.get("Origin", "")
        ours = origin == f"http://{self.headers.get('Host')}"
        json_sent = self.headers.get("Content-Type") == "application/json"
        if self._inside() != "decide" or not ours or not json_sent:
            self._send(403, "text/plain", b"refused")
            return
        try:
            length = int(self.headers.get("Content-Length") or 0)
            record = json.loads(self.rfile.read(min(length, _LONGEST)))
            keep = record["keep"]
            if keep not in (True, False, None):
                raise ValueError("keep must be true, false or null")
            with self.writing:
                hits.decide(self.place, record["hit"], keep)
        except (ValueError, KeyError, TypeError, AnnotateError) as error:
            self._send(400, "text/plain; charset=utf-8", str(error).encode())
            return
        self._send(200, "application/json", b"{}")

    def _inside(self) -> str | None:
        """The path behind the secret; None for who does not know it, or means another server."""
        host = self.headers.get("Host", "").partition(":")[0]
        secret, slash, rest = unquote(self.path.partition("?")[0])[1:].partition("/")
        known = secrets.compare_digest(secret.encode(), self.path_secret.encode())
        return rest if host == "127.0.0.1" and known and slash else None

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
        }
        headers |= {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        for name, value in (headers | {"Referrer-Policy": "no-referrer"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing: the page shows what matters."""
