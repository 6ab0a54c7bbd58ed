"""Answer the requests of the point page: states, pictures, masks, actions, runs.

Blocking work runs in threads, never in the event loop. Everything that another tab could need to
know goes through one stream of events, `/watch`, so that a page that is closed stops nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from annotate.errors import AnnotateError, PromptError
from annotate.web.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from annotate.web.point.editor import Editor

_STATIC = Path(__file__).parent / "static"
_WEB = Path(__file__).parents[1]
_IDLE_SECONDS = 15.0  # after so long without an event, the stream sends an empty line
Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[[Mapping[str, Any]], dict[str, Any] | str]  # gives the state, or a message


@contextmanager
def serving(editor: Editor, port: int = 0) -> Iterator[str]:
    """Serve the point page of an editor while the context lasts; gives its address.

    Raises:
        OSError: the port is in use.
    """
    files = [path for path in sorted(_STATIC.iterdir()) if path.suffix in (".css", ".js")]
    app = PointApp(editor)
    with serve(
        _STATIC / "point.html", app.routes(), port=port, files=[*files, _WEB / "local.js"]
    ) as address:
        try:
            yield address
        finally:
            editor.events.close()


class PointApp:
    """The routes of the point page of one clip."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    def routes(self) -> list[Route]:
        """Return the routes."""
        posts: dict[str, Handler] = {
            "act": self._act,
            "run": self._run,
            "stop": lambda record: self._editor.stop(),
            "range": self._range,
            "seen": lambda record: self._editor.see(record["frames"]),
            "outside": self._outside,
            "take-over": lambda record: self._editor.take_over(record["client"]),
            "leave": lambda record: self._editor.leave(record["client"]),
            "propose": lambda record: self._editor.propose(record["frame"], record["detector"]),
            "save": lambda record: self._editor.save(),
            "dataset": lambda record: self._editor.build_dataset(),
        }
        return [
            Route("/state", self.state),
            Route("/frame/{index:int}", self.frame),
            Route("/times", self.times),
            Route("/masks/{index:int}", self.masks),
            Route("/preview", self.preview, methods=["POST"]),
            Route("/watch", self.watch),
            *(
                Route(f"/{name}", _post(self._editor, handler), methods=["POST"])
                for name, handler in posts.items()
            ),
        ]

    async def state(self, request: Request) -> Response:
        """Answer with the state of the session; the first client may edit."""
        client = request.query_params.get("client", "")
        return JSONResponse(await run_in_threadpool(self._editor.open, client))

    async def frame(self, request: Request) -> Response:
        """Answer with a frame as JPEG."""
        try:
            picture = await run_in_threadpool(
                self._editor.pictures.jpeg, request.path_params["index"]
            )
        except AnnotateError as error:
            return PlainTextResponse(str(error), 404)
        headers = {
            "Cache-Control": "private, max-age=86400, immutable",
            "X-Frame": str(picture.index),
            "X-Seconds": picture.seconds,
        }
        return Response(picture.jpeg, media_type="image/jpeg", headers=headers)

    async def times(self, request: Request) -> Response:
        """Answer with the seconds of all frames, for playing at a variable rate."""
        return JSONResponse(await run_in_threadpool(self._editor.pictures.times))

    async def masks(self, request: Request) -> Response:
        """Answer with the masks of a frame, made now where its prompts have changed."""
        try:
            masks = await run_in_threadpool(self._editor.masks, request.path_params["index"])
        except AnnotateError as error:
            return PlainTextResponse(str(error), 400)
        return JSONResponse(masks)

    async def preview(self, request: Request) -> Response:
        """Answer with the mask that one more point would give; the newest request wins."""
        try:
            record = _record(await request.json())
            return JSONResponse(await run_in_threadpool(self._editor.preview, record))
        except (ValueError, KeyError, TypeError, AnnotateError) as error:
            return PlainTextResponse(_message(error), 400)

    async def watch(self, request: Request) -> Response:
        """Stream events as lines of JSON, from the one after `after` on."""
        after = request.query_params.get("after", "0")
        start = int(after) if after.isdecimal() else 0
        return StreamingResponse(self._lines(start), media_type="application/x-ndjson")

    async def _lines(self, after: int) -> AsyncIterator[str]:
        events = self._editor.events
        yield json.dumps({"online": True}) + "\n"
        while not events.closed:
            waiting = asyncio.wrap_future(events.next_after(after))
            try:
                batch = await asyncio.wait_for(waiting, _IDLE_SECONDS)
            except TimeoutError:
                yield "\n"  # the server finds out that the page is gone
                continue
            for after, event in batch:  # the number of the last one is kept
                yield json.dumps({"event": after, **event}) + "\n"

    def _act(self, record: Mapping[str, Any]) -> dict[str, Any]:
        action = _record(record["action"])
        return self._editor.act(action, str(record.get("client", "")))

    def _run(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return self._editor.run(record["frame"], record["direction"], record.get("objects"))

    def _range(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return self._editor.set_range(record["start"], record["stop"])

    def _outside(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return self._editor.settle_outside_edit(take=bool(record["take"]))


def _post(editor: Editor, handler: Handler) -> Endpoint:
    """Make the endpoint of a POST: its handler returns the state, or a message for the page."""

    def handle(record: Mapping[str, Any]) -> dict[str, Any]:
        answer = handler(record)
        return {**editor.state(), "message": answer} if isinstance(answer, str) else answer

    async def answer(request: Request) -> Response:
        try:
            record = _record(await request.json())
            return JSONResponse(await run_in_threadpool(handle, record))
        except (ValueError, KeyError, TypeError, AnnotateError) as error:
            return PlainTextResponse(_message(error), 400)

    return answer


def _record(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PromptError("expected a JSON object")
    return value


def _message(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the request has no {error}"
    return str(error)
