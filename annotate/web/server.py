"""Serve pages to the browser of this machine only.

The server binds 127.0.0.1. It answers only under a secret path, and only requests whose Host is
127.0.0.1. A page may write only by a POST of JSON whose Origin is the page itself.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import unquote

from annotate.errors import AnnotateError

_HOST = "127.0.0.1"
_MAX_BODY_BYTES = 4096  # of a POST
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Response:
    """The body of an answer, and its type."""

    body: bytes
    content_type: str


class LocalPage(Protocol):
    """A page: what is below the secret path. Methods are called from several threads."""

    post_paths: Collection[str]

    def get(self, path: str) -> Response | None:
        """Answer a GET; `path` is "" for the page itself. None if there is no such path."""

    def post(self, path: str, record: Any) -> None:
        """Take the JSON of a POST to one of `post_paths`.

        Raises:
            ValueError, KeyError, TypeError, AnnotateError: the record cannot be used; the page
                gets the message.
        """


@contextmanager
def serve_page(page: LocalPage, port: int = 0) -> Iterator[str]:
    """Serve a page while the context lasts; gives its address. Port 0 is any free port.

    Raises:
        OSError: the port is in use.
    """
    served_page, secret = page, secrets.token_urlsafe(16)

    class Handler(_PageHandler):
        page, url_secret = served_page, secret

    server = ThreadingHTTPServer((_HOST, port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://{_HOST}:{server.server_port}/{secret}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _PageHandler(BaseHTTPRequestHandler):
    page: LocalPage
    url_secret: str

    def do_GET(self) -> None:
        path = self._path_after_secret()
        response = None if path is None else self.page.get(path)
        if response is None:
            self._send(404, "text/plain", b"not here")
        else:
            self._send(200, response.content_type, response.body)

    def do_POST(self) -> None:
        path = self._path_after_secret()
        same_origin = self.headers.get("Origin", "") == f"http://{self.headers.get('Host')}"
        is_json = self.headers.get("Content-Type") == "application/json"
        if path is None or path not in self.page.post_paths or not same_origin or not is_json:
            self._send(403, "text/plain", b"refused")
            return
        try:
            length = int(self.headers.get("Content-Length") or 0)
            self.page.post(path, json.loads(self.rfile.read(min(length, _MAX_BODY_BYTES))))
        except (ValueError, KeyError, TypeError, AnnotateError) as error:
            self._send(400, "text/plain; charset=utf-8", str(error).encode())
            return
        self._send(200, "application/json", b"{}")

    def _path_after_secret(self) -> str | None:
        """Return the path below the secret; None if the Host or the secret is wrong."""
        host = self.headers.get("Host", "").partition(":")[0]
        secret, slash, rest = unquote(self.path.partition("?")[0])[1:].partition("/")
        secret_matches = secrets.compare_digest(secret.encode(), self.url_secret.encode())
        return rest if host == _HOST and secret_matches and slash else None

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        headers = {"Content-Type": content_type, "Content-Length": str(len(body)), **_HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Log nothing: the page shows what matters."""
