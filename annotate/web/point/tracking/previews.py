"""Make the masks that prompts give on their own frame, before anything is propagated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from annotate.errors import PluginError
from annotate.items.records import Object
from annotate.prompts import PromptTable
from annotate.web.point.tracking.engine import PointEngine
from annotate.web.point.tracking.engine_thread import EngineThread, give_way
from annotate.web.point.tracking.tracks import PromptMask

CLICK, HOVER = 1, 2  # priorities; a job's steps come after both
_REFINE_AFTER_SECONDS = 0.3  # without a further click
_Found = TypeVar("_Found")
_WAIT_SECONDS = 60.0  # for a mask: the first one may have to load an engine


class Previews:
    """The masks of prompts on single frames, for the present prompts of each object.

    Where the engine has rough masks, they come at once; the better ones replace them when no
    further click follows. Methods may be called from several threads.
    """

    def __init__(
        self,
        engine: PointEngine,
        thread: EngineThread,
        on_refined: Callable[[int], None],
        on_failure: Callable[[str], None],
    ) -> None:
        """Begin without masks.

        `on_refined` gets the frame whose rough masks were replaced, `on_failure` the reason why
        they could not be.
        """
        self._engine, self._thread = engine, thread
        self._on_refined, self._on_failure = on_refined, on_failure
        self._lock = threading.Lock()
        self._found: dict[tuple[int, int, str], PromptMask] = {}  # by object, frame, digest
        self._digests: Mapping[int, str] = {}
        self._hover: Future[list[Object]] | None = None
        self._refining = ThreadPoolExecutor(1, "annotate-refine", give_way)
        self._closing = threading.Event()

    def close(self) -> None:
        """Stop making masks."""
        self._closing.set()
        self._refining.shutdown(cancel_futures=True)

    def take_digests(self, digests: Mapping[int, str]) -> None:
        """Forget the masks of prompts that are not the present ones."""
        with self._lock:
            self._digests = dict(digests)
            self._found = {
                key: value for key, value in self._found.items() if digests.get(key[0]) == key[2]
            }

    def get(self, object_id: int, frame: int, digest: str) -> PromptMask | None:
        """Return the mask of an object's prompts on a frame; None where it was not made."""
        return self._found.get((object_id, frame, digest))

    def make(
        self, frame: int, table: PromptTable, ids: Sequence[int], digests: Mapping[int, str]
    ) -> None:
        """Make the masks of objects on a frame: rough ones at once, and better ones to follow.

        Raises:
            AnnotateError: the engine fails.
        """

        def find() -> tuple[list[Object], bool]:
            if rough := self._engine.quick_preview(frame, table, ids):
                return rough, True
            return self._engine.preview(frame, table, ids), False

        found, is_rough = _result(self._thread.call(find, CLICK))
        self._keep(frame, ids, digests, found, is_rough)
        if is_rough:
            self._refining.submit(self._refine, frame, table, ids, digests)

    def hover(self, frame: int, table: PromptTable, object_id: int) -> Object | None:
        """Return the mask that a table's prompts give an object; a later call ends this one."""

        def find() -> list[Object]:
            rough = self._engine.quick_preview(frame, table, [object_id])
            return rough or self._engine.preview(frame, table, [object_id])

        with self._lock:
            if self._hover is not None:
                self._hover.cancel()
            self._hover = future = self._thread.call(find, HOVER)
        try:
            found = _result(future)
        except BaseException as error:
            if future.cancelled():
                return None
            raise error
        return found[0] if found else None

    def _refine(
        self, frame: int, table: PromptTable, ids: Sequence[int], digests: Mapping[int, str]
    ) -> None:
        """Replace rough masks, unless their prompts are changed meanwhile, as by a next click."""
        self._closing.wait(_REFINE_AFTER_SECONDS)
        if self._are_changed(ids, digests):
            return
        try:
            found = self._engine.refine(frame, table, ids)
        except Exception as error:  # the rough masks stay
            self._on_failure(f"the engine failed: {error}")
            return
        if self._are_changed(ids, digests):
            return
        self._keep(frame, ids, digests, found, is_rough=False)
        self._on_refined(frame)

    def _are_changed(self, ids: Sequence[int], digests: Mapping[int, str]) -> bool:
        return any(self._digests.get(key) != digests[key] for key in ids)

    def _keep(
        self,
        frame: int,
        ids: Sequence[int],
        digests: Mapping[int, str],
        found: Sequence[Object],
        is_rough: bool,
    ) -> None:
        by_id = {obj.track: obj for obj in found}
        with self._lock:
            for object_id in ids:
                key = object_id, frame, digests[object_id]
                self._found[key] = PromptMask(by_id.get(object_id), is_rough)


def _result(future: Future[_Found]) -> _Found:
    """Wait for a mask; an engine that takes too long is reported, and goes on."""
    try:
        return future.result(_WAIT_SECONDS)
    except TimeoutError:
        if future.done():  # the engine's own error
            raise
        raise PluginError(
            f"the engine has given no mask for {_WAIT_SECONDS:g} seconds: it is still busy; "
            "what was clicked is kept, and its mask is made when the frame is shown again"
        ) from None
