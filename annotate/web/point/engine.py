"""Run a propagator for the point page: masks of single frames, and passes that can be stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from annotate.items import detections as item_detections
from annotate.items.records import Object
from annotate.plugins import optional_member
from annotate.prompts import PromptTable
from annotate.propagators.job import Job, PromptedFrame
from annotate.propagators.run import propagate_frames
from annotate.web.pictures import PictureStore
from annotate.web.point.tracks import TrackedFrame


@dataclass
class PropagatorEngine:
    """A propagator on one clip; `job` has the engine, the clip and its range."""

    job: Job
    pictures: PictureStore = field(init=False)

    @property
    def independent(self) -> bool:
        """Whether the masks of an object do not depend on the other objects."""
        return bool(optional_member(self.job.engine, "independent"))

    def set_prompts(self, table: PromptTable) -> None:
        """Take the present prompts of all objects."""
        self.job = replace(self.job, prompts=table)

    def preview(self, frame: int, table: PromptTable, ids: Sequence[int]) -> list[Object]:
        """Return the masks that objects with prompts on a frame have there."""
        prompts = tuple(each for each in table.prompts if each.frame == frame and not each.gone)
        picture = self.pictures.frame(frame)
        session = self.job.engine.begin([PromptedFrame(picture, prompts)])
        found = session.step(picture, prompts)
        item = item_detections.item_from_detections(
            picture, found, dict(table.labels), self.job.source
        )
        return [obj for obj in item.objects if obj.track in ids]

    def propagate(
        self, ids: Sequence[int], frame: int, direction: int, limits: tuple[int, int]
    ) -> Iterator[tuple[int, Mapping[int, TrackedFrame]]]:
        """Track objects from a frame on, up to the limits; yield each frame's results."""
        table = self.job.prompts.of_objects(set(ids))
        job = replace(self.job, prompts=table, start=limits[0], stop=limits[1])
        context = "" if self.independent else self.job.prompts.digest()
        for picture, item in propagate_frames(job):
            results = {
                obj.track: TrackedFrame(obj, False, context)
                for obj in item.objects
                if obj.track is not None
            }
            results |= {key: TrackedFrame(None, False, context) for key in item.lost}
            yield picture.index, results
