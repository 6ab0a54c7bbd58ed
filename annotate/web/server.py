"""Serve pages to the browser of this machine only.

The server binds 127.0.0.1. Every request must name this address in `Host`, and, where a browser
states it, in `Origin`: a page of another site cannot read or write, nor can one whose name was
pointed at 127.0.0.1 (DNS rebinding). What is served under `/` and `/static/` holds no data. All
else needs the token, which stands in the fragment of the address: a browser never sends a fragment,
so the token is in no log and in no `Referer`. The page sends it back in the header TOKEN_HEADER.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
TOKEN_HEADER = "X-Annotate-Token"
MAX_BODY_BYTES = 2**20  # of a request
_OPEN_PATHS = ("/", "/favicon.ico")
_OPEN_PREFIX = "/static/"
_RESPONSE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@contextmanager
def serve(
    page: Path, routes: Sequence[BaseRoute] = (), *, port: int = 0, files: Sequence[Path] = ()
) -> Iterator[str]:
    """Serve a page while the context lasts; gives its address, with the token in the fragment.

    `page` is the HTML file that `/` answers with; `files` are served under `/static/`, by their
    names. `routes` answer requests with the token. Port 0 is any free port.

    Raises:
        OSError: the port is in use.
    """
    token = secrets.token_urlsafe(32)
    listener = socket.create_server((HOST, port))  # here, so that a port in use is an error here
    port = listener.getsockname()[1]
    app = Starlette(routes=[*_file_routes(page, files), *routes])
    config = uvicorn.Config(
        LocalGuard(app, port, token),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{port}/#t={token}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _file_routes(page: Path, files: Sequence[Path]) -> list[Route]:
    """Make a route for each file; a path that comes from a browser never reaches the disk."""
    return [Route("/", _file_endpoint(page))] + [
        Route(f"{_OPEN_PREFIX}{path.name}", _file_endpoint(path)) for path in files
    ]


def _file_endpoint(path: Path) -> Callable[[Request], Awaitable[Response]]:
    body, media_type = path.read_bytes(), _MEDIA_TYPES[path.suffix]

    async def answer(request: Request) -> Response:
        return Response(body, media_type=media_type)

    return answer


class LocalGuard:
    """Refuse requests that do not come from the page of this server on this machine."""

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app, self._token = app, token
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it before its body is read."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        app = self._app if refusal is None else refusal
        await app(scope, _limited(receive), _with_headers(send))

    def _refusal(self, method: str, path: str, headers: Headers) -> Response | None:
        host = headers.get("Host", "")
        if host not in self._hosts:
            return PlainTextResponse("refused", 403)
        if headers.get("Origin", f"http://{host}") != f"http://{host}":
            return PlainTextResponse("refused", 403)
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return PlainTextResponse("refused", 403)
        is_open = path in _OPEN_PATHS or path.startswith(_OPEN_PREFIX)
        token = headers.get(TOKEN_HEADER, "")
        if not is_open and not hmac.compare_digest(token.encode(), self._token.encode()):
            return PlainTextResponse("the token is not the one of this server", 401)
        if method == "POST" and headers.get("Content-Type") != "application/json":
            return PlainTextResponse("refused", 415)
        length = headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return PlainTextResponse("too large", 413)
        return None


def _limited(receive: Receive) -> Receive:
    """Count the bytes of a body, which a chunked request does not state."""
    count = 0

    async def counted() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > MAX_BODY_BYTES:
            raise HTTPException(413, "too large")
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _RESPONSE_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
