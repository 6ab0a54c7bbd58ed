"""Run a propagator for the point page: masks of single frames, and passes that can be stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from annotate.items import journal
from annotate.items.detections import item_from_detections
from annotate.items.records import Frame, Object, Prompt
from annotate.plugins import optional_member
from annotate.prompts import PromptTable
from annotate.propagators.interactive import Direction, InteractiveSession
from annotate.propagators.job import Job
from annotate.web.pictures import PictureStore
from annotate.web.point.tracking.tracks import TrackedFrame

if TYPE_CHECKING:
    import supervision as sv


class PointEngine(Protocol):
    """What the page asks of an engine; all methods are called in one thread."""

    pictures: PictureStore  # set by the editor

    @property
    def independent(self) -> bool:
        """Whether the masks of an object do not depend on the other objects."""

    def set_prompts(self, table: PromptTable) -> None:
        """Take the present prompts of all objects."""

    def preview(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Object]:
        """Return the masks that objects with prompts on a frame have there, and keep no state."""

    def quick_preview(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Object]:
        """Return rough masks at once, which `refine` replaces; empty: `preview` is quick enough."""

    def refine(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Object]:
        """Return the masks that `preview` would; called in another thread."""

    def propagate(
        self, ids: Sequence[int], frame: int, direction: Direction, limits: tuple[int, int]
    ) -> Iterator[tuple[int, Mapping[int, TrackedFrame]]]:
        """Track objects from a frame on, up to the limits; yield each frame's results."""

    def complete(self, both_directions: bool) -> Iterator[int]:
        """Track all that a run over the whole clip would give otherwise; yield each frame."""

    def write(self, output: Path) -> None:
        """Write the items that `complete` has completed, as the command line does."""


@dataclass
class PropagatorEngine:
    """A propagator on one clip; `job` has the engine, the clip and its range."""

    job: Job
    pictures: PictureStore = field(init=False)

    def __post_init__(self) -> None:
        self._session = InteractiveSession(self.job)

    @property
    def independent(self) -> bool:
        """Whether the masks of an object do not depend on the other objects."""
        return bool(optional_member(self.job.engine, "independent"))

    def set_prompts(self, table: PromptTable) -> None:
        """Take the present prompts of all objects."""
        self._session.set_prompts(table)

    def preview(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Object]:
        """Return the masks that objects with prompts on a frame have there."""
        picture = self.pictures.frame(frame)
        found = self._session.preview(picture, self._prompts(frame, table, ids))
        return self._objects(picture, table, found)

    def quick_preview(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Object]:
        """Return rough masks of clicked objects at once; none where the engine has no such masks.

        `refine` gives the masks that `preview` would give, and may be called in another thread.
        """
        prompts = self._prompts(frame, table, ids)
        if not optional_member(self.job.engine, "quick_previews"):
            return []
        if not all(prompt.is_positive and len(prompt.points_xy) for prompt in prompts):
            return []  # a correction needs what was tracked there; a box is quick enough
        picture = self.pictures.frame(frame)
        session: Any = self.job.engine.begin(())
        return self._objects(picture, table, session.quick_preview(picture, prompts))

    def refine(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Object]:
        """Return the masks that take the place of those of `quick_preview`."""
        picture = self.pictures.frame(frame)
        session: Any = self.job.engine.begin(())
        found = session.preview(picture, self._prompts(frame, table, ids))
        return self._objects(picture, table, found)

    def _prompts(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Prompt]:
        return [each for each in table.prompts if each.frame == frame and each.object_id in ids]

    def _objects(self, picture: Frame, table: PromptTable, found: sv.Detections) -> list[Object]:
        item = item_from_detections(picture, found, dict(table.labels), self.job.source)
        return list(item.objects)

    def propagate(
        self, ids: Sequence[int], frame: int, direction: Direction, limits: tuple[int, int]
    ) -> Iterator[tuple[int, Mapping[int, TrackedFrame]]]:
        """Track objects from a frame on, up to the limits; yield each frame's results.

        From the first backward pass on, objects are tracked both ways, as by `both_directions`.
        """
        if direction == "backward":
            self._track_both_ways()
        context = "" if self.independent else self._session.job.prompts.digest()
        start, stop = limits
        for tracked in self._session.run(ids, frame, direction):
            item = tracked.item
            if not start <= item.frame < stop:
                if (item.frame >= stop) != tracked.backward:
                    return
                continue
            results = {
                obj.track: TrackedFrame(obj, not tracked.exact, context)
                for obj in item.objects
                if obj.track is not None
            }
            results |= {key: TrackedFrame(None, not tracked.exact, context) for key in item.lost}
            yield item.frame, results

    def complete(self, both_directions: bool) -> Iterator[int]:
        """Track all that a run over the whole clip would give otherwise; yield each frame.

        Raises:
            PromptError: no object starts in the range.
            VideoError: see `annotate.errors`.
        """
        if both_directions:
            self._track_both_ways()
        job = self._session.job
        job.first_frame()
        for tracked in self._session.run(direction="both" if job.both_directions else "forward"):
            yield tracked.item.frame

    def write(self, output: Path) -> None:
        """Write the items that `complete` has completed, as the command line does.

        Raises:
            OutputError: nothing can be written there.
        """
        journal.write(output, self._session.job.header(), self._session.items())

    def _track_both_ways(self) -> None:
        if not self._session.job.both_directions:
            job = replace(self._session.job, both_directions=True)
            self._session.close()
            self._session = InteractiveSession(job)
