"""Run a propagator for the point page: masks of single frames, and passes that can be stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from annotate.items.detections import item_from_detections
from annotate.items.records import Object
from annotate.plugins import optional_member
from annotate.prompts import PromptTable
from annotate.propagators.interactive import Direction, InteractiveSession
from annotate.propagators.job import Job
from annotate.web.pictures import PictureStore
from annotate.web.point.tracks import TrackedFrame


@dataclass
class PropagatorEngine:
    """A propagator on one clip; `job` has the engine, the clip and its range."""

    job: Job
    pictures: PictureStore = field(init=False)

    def __post_init__(self) -> None:
        self._session = InteractiveSession(replace(self.job, both_directions=True))

    @property
    def independent(self) -> bool:
        """Whether the masks of an object do not depend on the other objects."""
        return bool(optional_member(self.job.engine, "independent"))

    def set_prompts(self, table: PromptTable) -> None:
        """Take the present prompts of all objects."""
        self._session.set_prompts(table)

    def preview(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Object]:
        """Return the masks that objects with prompts on a frame have there."""
        prompts = [each for each in table.prompts if each.frame == frame and each.object_id in ids]
        picture = self.pictures.frame(frame)
        found = self._session.preview(picture, prompts)
        item = item_from_detections(picture, found, dict(table.labels), self.job.source)
        return list(item.objects)

    def propagate(
        self, ids: Sequence[int], frame: int, direction: Direction, limits: tuple[int, int]
    ) -> Iterator[tuple[int, Mapping[int, TrackedFrame]]]:
        """Track objects from a frame on, up to the limits; yield each frame's results."""
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
