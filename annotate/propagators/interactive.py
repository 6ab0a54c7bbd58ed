"""Prompt objects while their masks are watched: preview a click, track on, stop, correct, go on.

A page uses it like this, from one thread:

    session = InteractiveSession(Job(engine, "light", clip, table, both_directions=True))
    session.prepare(75)                        # the person has gone to frame 75
    session.preview(frame, prompts)            # a click: the mask, and nothing is changed
    session.set_prompts(table)                 # the click is kept, or taken back, moved, undone
    for tracked in session.run(start=75):      # from here on, a frame at a time
        draw(tracked.item, tracked.exact)      # break to stop: what was done is kept
        ...                                    # `preview` may be called between two frames
    session.spans(3)                           # what the lane of object 3 looks like
    session.save(Path("masks.jsonl"))          # the bytes of `annotate propagate` with these points

**Exact and provisional.** An item is exact if a run of the command line over the whole clip with
the same prompts would write it. `run()` makes exact items: it goes on from the latest state that
the last change of prompts cannot have affected. `run(start=n)` shows frame n at once. If the items
before it are stale, it goes on from a state of earlier prompts, and its items are provisional: they
are shown, and replaced later by exact ones. `save` makes all items exact, then writes them.

**What a change makes stale.** With an engine whose objects are `independent` only the lane of the
changed object; with one that is `causal` only the frames from the changed prompt on. `sam2`,
`transformers` and `edgetam` are both. `light` is neither: it learns from all prompts before the
first frame, and its objects compete for pixels, so that a change makes everything stale.

A run ends by itself when the prompts are changed; start another one. An error of the engine or of
the clip ends the run and leaves what was done before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from annotate.errors import PromptError
from annotate.items import journal
from annotate.items.records import Frame, Item, Prompt
from annotate.plugins import optional_member
from annotate.prompts import PromptTable
from annotate.propagators.absence import AbsenceSchedule
from annotate.propagators.job import Job
from annotate.propagators.lanes import Lane, LaneKey, SideSession, StateCache
from annotate.propagators.run import merge_items
from annotate.video import reader

if TYPE_CHECKING:
    import supervision as sv

STATE_INTERVAL = 30  # frames from one kept state to the next
STATE_BYTES = 256 << 20  # of all kept states together

Direction = Literal["forward", "backward", "both"]
Status = Literal["exact", "stale", "provisional", "lost", "gone", "missing"]


@dataclass(frozen=True)
class TrackedItem:
    """What one step of a run has made: an item of the objects that were tracked onto a frame.

    `item.objects` have their id in `track`, a mask as run-length code, a score and flags; in
    `item.lost` are the objects that were looked for and not seen. `exact` is False if a run over
    the whole clip might give other masks.
    """

    item: Item
    exact: bool
    backward: bool = False


@dataclass(frozen=True)
class Span:
    """Frames `first` to `last`, both included, on which an object has one status.

    `exact`, `provisional` and `stale` have a mask, `stale` one of earlier prompts; `lost` and
    `gone` have none; `missing` has not been tracked yet.
    """

    first: int
    last: int
    status: Status


class InteractiveSession:
    """A job that is run in pieces, while its prompts change."""

    def __init__(
        self, job: Job, *, state_interval: int = STATE_INTERVAL, state_bytes: int = STATE_BYTES
    ) -> None:
        """Open a session; nothing is computed yet.

        Args:
            job: Engine, clip, range and the first prompts, of which there may be none.
            state_interval: A state is kept every so many frames.
            state_bytes: The kept states of all objects take at most so many bytes.

        Raises:
            PromptError: the engine finds objects by itself, or the job has boxes of a detector.
        """
        if job.boxes is not None or optional_member(job.engine, "phrase") is not None:
            raise PromptError("an interactive session takes prompts only: leave out `boxes`")
        self._independent = bool(optional_member(job.engine, "independent"))
        self._job = job
        self._clip = reader.probe(job.clip)
        self._states, self._interval = StateCache(state_bytes), state_interval
        self._lanes: dict[LaneKey, Lane] = {}
        self._revision = 0
        self._prepared: dict[LaneKey, SideSession] = {}
        self.set_prompts(job.prompts)

    @property
    def job(self) -> Job:
        """The job as `annotate propagate` would run it now."""
        return self._job

    def set_prompts(self, prompts: PromptTable) -> None:
        """Replace all prompts; what the change can affect is stale from now on.

        An object that is only known to be gone is left out until it has a positive prompt.
        """
        positive = {each.object_id for each in prompts.prompts if each.is_positive}
        kept = tuple(each for each in prompts.prompts if each.object_id in positive)
        labels = {key: label for key, label in prompts.labels.items() if key in positive}
        self._job = replace(self._job, prompts=PromptTable(kept, labels))
        self._schedule = AbsenceSchedule(kept)
        self._revision += 1
        wanted = self._wanted_lanes(positive)
        for key in set(self._lanes) - set(wanted):
            self._lanes.pop(key).close()
        for key in wanted:
            ids = positive if key.object_id is None else {key.object_id}
            if (lane := self._lanes.get(key)) is None:
                lane = self._lanes[key] = Lane(key, self._states, self._interval)
            changed = lane.set_job(replace(self._job, prompts=self._job.prompts.of_objects(ids)))
            self._keep_prepared(lane, changed)
        self._prepared = {key: each for key, each in self._prepared.items() if key in self._lanes}

    def _wanted_lanes(self, object_ids: Collection[int]) -> list[LaneKey]:
        directions = (False, True) if self._job.both_directions else (False,)
        ids = sorted(object_ids) if self._independent else [None] * bool(object_ids)
        return [LaneKey(each, backward) for backward in directions for each in ids]

    def _keep_prepared(self, lane: Lane, changed: int | None) -> None:
        """Move what was prepared to a session with the new prompts, unless they change it."""
        if (old := self._prepared.pop(lane.key, None)) is None or lane.first is None:
            return
        if changed is None or lane.step_of(changed) >= lane.step_of(old.next_frame):
            assert lane.job is not None
            new = SideSession.begin(lane.job, old.next_frame)
            new.propagation.resume(new.session, old.propagation.state(old.session))
            self._prepared[lane.key] = new

    def prepare(self, frame_index: int) -> None:
        """Track every object onto the frame before this one, so that a preview on it is fast.

        Frames are skipped if no state is kept within `state_interval` frames.
        """
        for lane in self._lanes.values():
            if not lane.key.backward:
                self._prepare(lane, frame_index)

    def _prepare(self, lane: Lane, frame_index: int) -> SideSession:
        if lane.first is None or lane.step_of(frame_index) < 0:
            assert lane.job is not None
            return SideSession.begin(lane.job, frame_index)
        ready = self._prepared.get(lane.key)
        if ready is None or not 0 <= frame_index - ready.next_frame <= self._interval:
            ready = self._prepared[lane.key] = lane.open_near(frame_index, self._interval)
        if ready.next_frame < frame_index:
            for frame in reader.frames(self._job.clip, start=ready.next_frame, stop=frame_index):
                ready.step(frame)
        return ready

    def preview(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Predict the masks that these prompts would give on their frame; changes nothing.

        Args:
            frame: The picture that was clicked on.
            prompts: All prompts on this frame of the objects to predict.

        Returns:
            The masks of these objects, with `mask`, `confidence` and `tracker_id` = object_id; an
            object that has no pixel, or is gone, has no row.
        """
        import supervision as sv

        by_lane: dict[LaneKey, list[Prompt]] = {}
        for prompt in prompts:
            if not prompt.gone:
                key = LaneKey(prompt.object_id if self._independent else None, False)
                by_lane.setdefault(key, []).append(prompt)
        found = []
        for key, group in by_lane.items():
            if (lane := self._lanes.get(key)) is not None:
                ready = self._prepare(lane, frame.index)
            else:  # the object has no prompts yet
                ready = SideSession.begin(
                    replace(self._job, prompts=PromptTable((), {})), frame.index
                )
            found.append(ready.session.preview(frame, group))
        return sv.Detections.merge([each for each in found if len(each)])

    def run(
        self,
        object_ids: Collection[int] | None = None,
        start: int | None = None,
        direction: Direction = "forward",
    ) -> Iterator[TrackedItem]:
        """Track on, and yield what each step has made; stop after any of them.

        Args:
            object_ids: Track these objects, None for all; with an engine whose objects depend on
                each other all are tracked.
            start: Begin on this frame, provisionally if what lies before it is stale; None: where
                the exact items end.
            direction: `backward` tracks from the first prompt of each object towards the start of
                the clip, if the job has `both_directions`; `both` does that first.

        Raises:
            PromptError: the job does not track backward.
            VideoError: see `annotate.errors`; what was made before is kept.
        """
        if direction != "forward" and not self._job.both_directions:
            raise PromptError("the job tracks forward only: give it `both_directions`")
        ids = None if object_ids is None or not self._independent else set(object_ids)
        for backward in (True, False):
            if direction == "both" or backward == (direction == "backward"):
                lanes = [
                    lane
                    for lane in self._lanes.values()
                    if lane.key.backward is backward and lane.first is not None
                    if ids is None or lane.key.object_id in ids
                ]
                yield from self._run_lanes(lanes, start, backward)

    def _run_lanes(
        self, lanes: Sequence[Lane], start: int | None, backward: bool
    ) -> Iterator[TrackedItem]:
        """Step all lanes over the same frames, each from its own state on."""
        revision, previews, positions = self._revision, dict[LaneKey, SideSession](), []
        for lane in lanes:
            if start is not None and lane.step_of(start) > lane.exact_steps:
                previews[lane.key] = lane.open_near(start, self._interval)
                positions.append(previews[lane.key].next_frame)
            else:
                positions.append(lane.next_frame)
        for frame in self._frames(positions, backward):
            made = []
            for lane in lanes:
                if (preview := previews.get(lane.key)) is None:
                    item = lane.step(frame) if lane.next_frame == frame.index else None
                    made += [item] if item is not None else []
                elif preview.next_frame == frame.index:
                    if start is not None and lane.step_of(frame.index) >= lane.step_of(start):
                        made.append(lane.step_preview(preview, frame))
                    else:
                        preview.step(frame)
            if made:
                yield TrackedItem(self._merge(made), not previews, backward)
            if self._revision != revision:
                return

    def _frames(self, positions: Sequence[int], backward: bool) -> Iterator[Frame]:
        """Read the frames of a run from the first position of its lanes on."""
        job, count = self._job, self._clip.frame_count
        if not positions:
            return
        if backward:
            if max(positions) >= job.start:
                yield from reader.backward(job.clip, max(positions), job.start)
        elif count is None or min(positions) < min(count, job.stop or count):
            yield from reader.frames(job.clip, start=min(positions), stop=job.stop)

    def _merge(self, items: Sequence[Item]) -> Item:
        """Merge the items of lanes on one frame, with the present classes."""
        merged = merge_items(items[0], None)
        for item in items[1:]:
            merged = merge_items(merged, item)
        labels = self._job.prompts.labels
        objects = tuple(
            replace(obj, label=labels[obj.track])
            for obj in merged.objects
            if obj.track is not None and obj.track in labels
        )
        lost = tuple(track for track in merged.lost if track in labels)
        return replace(merged, objects=objects, lost=lost)

    def items(self) -> Iterator[Item]:
        """Yield the best known item of every frame that was tracked, in order."""
        lanes = self._lanes.values()
        for frame in sorted({n for lane in lanes for n in (*lane.items, *lane.provisional)}):
            spools = [spool for lane in lanes if (spool := lane.best_items(frame)[0]) is not None]
            yield self._merge([spool[frame] for spool in spools])

    def spans(self, object_id: int) -> list[Span]:
        """Summarise what is known of an object, over all frames of the job's range."""
        job, spans = self._job, list[Span]()
        start_frame = job.first_frames().get(object_id)
        last = max((n for lane in self._lanes.values() for n in lane.items), default=job.start)
        stop = self._clip.frame_count or last + 1
        for frame in range(job.start, min(stop, job.stop or stop)):
            status = self._status(object_id, start_frame, frame)
            if spans and spans[-1].status == status:
                spans[-1] = replace(spans[-1], last=frame)
            else:
                spans.append(Span(frame, frame, status))
        return spans

    def _status(self, object_id: int, first: int | None, frame: int) -> Status:
        if self._schedule.is_gone(object_id, frame):
            return "gone"
        backward = first is not None and frame < first
        lane = self._lanes.get(LaneKey(object_id if self._independent else None, backward))
        spool, exact = (None, False) if lane is None or first is None else lane.best_items(frame)
        if lane is None or spool is None:
            return "missing"
        if spool is lane.items and not exact:
            return "stale"
        if not spool.sees(frame, object_id):
            return "lost"
        return "exact" if exact else "provisional"

    def save(self, out: Path) -> None:
        """Make all items exact and write them: the file that `annotate propagate` would write.

        Raises:
            PromptError: no object starts in the range.
            OutputError, VideoError: see `annotate.errors`.
        """
        self._job.first_frame()
        for _ in self.run(direction="both" if self._job.both_directions else "forward"):
            pass
        journal.write(out, self._job.header(), self.items())

    def close(self) -> None:
        """Drop all states and items."""
        while self._lanes:
            self._lanes.popitem()[1].close()
        self._prepared.clear()
