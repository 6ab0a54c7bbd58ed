"""Run a propagation job into a file of items, resume it, and update it.

A pass runs the propagator over the clip in one direction. Its state is saved beside the file of
items at intervals, so a run that was stopped continues exactly from its last checkpoint. An update
tracks only the objects with changed prompts, and merges them with the items of the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from annotate.errors import ItemsError, PluginError
from annotate.items import detections, journal, records
from annotate.items.journal import Appender
from annotate.items.records import Box, Frame, Item, Prompt, State
from annotate.plugins import optional_member
from annotate.propagators import flags
from annotate.propagators.absence import AbsenceSchedule, AbsenceSession
from annotate.propagators.boxes import BoxAssociator
from annotate.propagators.checkpoint import (
    ItemsByFrame,
    RunFiles,
    open_run_files,
    read_checkpoint,
    write_checkpoint,
)
from annotate.propagators.job import Job, plan_update
from annotate.video import reader

if TYPE_CHECKING:
    import supervision as sv

    from annotate.propagators.job import Session


# A checkpoint is written after so many frames or seconds, whichever is sooner: what a killed run
# computes again, at most. The items do not depend on the clock.
CHECKPOINT_EVERY, CHECKPOINT_SECONDS = 100, 20.0


class PropagationPass:
    """A pass of a job over its clip in one direction."""

    def __init__(self, job: Job, *, backward: bool = False) -> None:
        self._job, self.backward = job, backward
        self._prompts_by_frame = job.starting_prompts() if backward else job.prompts_by_frame()
        self._first_frames = job.backward_starts() if backward else job.first_frames()
        self._absence = AbsenceSchedule(job.prompts.prompts)
        self._flagger = flags.AnomalyFlagger()
        self._associator = (
            None if job.boxes is None else BoxAssociator(job.boxes, job.prompts.labels)
        )

    def begin(self, *, fitted: bool = True) -> AbsenceSession:
        """Open a session of the engine in which objects that are gone have no mask.

        It is fitted to all prompts before the first step, or else, not `fitted`, to none.
        """
        starts = dict(self._first_frames) if self.backward else None
        prompted_frames = self._job.prompted_frames() if fitted else ()
        return AbsenceSession(self._job.engine, prompted_frames, self._absence, starts)

    def run(
        self,
        out: journal.Appender,
        frames_after: Callable[[int], Iterator[Frame]],
        finish_item: Callable[[Item], Item],
        checkpoint_path: Path,
        progress: Callable[[Item], None],
    ) -> None:
        """Write an item for each frame, from the last checkpoint on if there is one.

        `frames_after` yields the frames after an index, -1 for all; `finish_item` is applied to
        each item before it is written. The state is saved to `checkpoint_path` at intervals.
        """
        session = self.begin()
        if (state := read_checkpoint(checkpoint_path, out)) is not None:
            self.restore(session, state)
        else:
            out.rewind_all()
        saved = monotonic()
        for frame in frames_after(-1 if out.last is None else out.last.frame):
            item = finish_item(self.make_item(session, frame))
            out.write(item)
            progress(item)
            if out.count % CHECKPOINT_EVERY == 0 or monotonic() - saved > CHECKPOINT_SECONDS:
                write_checkpoint(checkpoint_path, self.state(session), out)
                saved = monotonic()

    def make_item(self, session: Session, frame: Frame) -> Item:
        """Track onto one frame and make its item; the backward pass leaves out first frames."""
        tracked, prompts = self._step(session, frame)
        ids, phrase = list(_boxes_by_object(tracked)), self._job.phrase
        if phrase:
            self._first_frames = {**dict.fromkeys(ids, frame.index), **self._first_frames}
        started = {
            key for key, first in self._first_frames.items() if self._has_started(frame, first)
        }
        shown = started - (self._associator.unconfirmed() if self._associator else set())
        is_shown = np.array([object_id in shown for object_id in ids], bool)
        labels = {**dict.fromkeys(ids, phrase), **self._job.prompts.labels}
        labels |= self._associator.labels if self._associator else {}
        visible = cast("sv.Detections", tracked[is_shown])
        item = detections.item_from_detections(frame, visible, labels, self._job.source)
        gone = self._absence.gone_at(frame.index)  # known to be absent, not lost
        item = replace(item, lost=tuple(sorted(started - gone - (shown & set(ids)))))
        return self._flagger.flag_item(item, [prompt.object_id for prompt in prompts])

    def _has_started(self, frame: Frame, first_frame: int) -> bool:
        return frame.index < first_frame if self.backward else frame.index >= first_frame

    def _step(self, session: Session, frame: Frame) -> tuple[sv.Detections, list[Prompt]]:
        """Step the engine; returns its detections and the prompts that it was given.

        Boxes of a detector are compared with what the engine sees without them. If they start or
        repair an object, the step is undone and repeated with these boxes as prompts.
        """
        prompts = list(self._prompts_by_frame.get(frame.index, ()))
        if self._associator is None:
            return self._checked_step(session, frame, prompts), prompts
        boxes = self._associator.boxes_at(frame.index)
        before = {key: np.array(array) for key, array in session.state().items()} if boxes else {}
        tracked = self._checked_step(session, frame, prompts)
        if boxes is not None:
            prompted_ids = {prompt.object_id for prompt in prompts}
            prompted_ids |= self._absence.gone_at(frame.index)  # no box brings these back
            box_prompts = self._associator.make_prompts(
                frame.index, boxes, _boxes_by_object(tracked), prompted_ids
            )
            if box_prompts:
                prompts += box_prompts
                session.restore(before)
                tracked = self._checked_step(session, frame, prompts)
                for prompt in box_prompts:
                    self._first_frames.setdefault(prompt.object_id, frame.index)
        self._associator.record(frame.index, _boxes_by_object(tracked))
        return tracked, prompts

    def _checked_step(self, session: Session, frame: Frame, prompts: list[Prompt]) -> sv.Detections:
        """Step the engine, and check that it gives objects that were prompted, and no others."""
        tracked, job = session.step(frame, prompts), self._job
        known = {*job.prompts.labels, *(prompt.object_id for prompt in prompts)}
        known |= set(self._associator.labels) if self._associator else set()
        detections.check_detections(frame, tracked, job.source, None if job.phrase else known)
        if len(tracked) and tracked.tracker_id is None:
            raise PluginError(f"{job.source}: {frame.name}: tracker_id must hold the object's id")
        return tracked

    def state(self, session: Session) -> State:
        """Collect the state of the engine and of the pass itself."""
        firsts = np.array(list(self._first_frames.items()), np.int64).reshape(-1, 2)
        parts = {"engine": session.state(), "watch": self._flagger.state()}
        parts |= {"pass": {"firsts": firsts}}
        parts |= {"keeper": self._associator.state()} if self._associator else {}
        return {f"{part}.{key}": parts[part][key] for part in parts for key in parts[part]}

    def resume(self, session: Session, state: State) -> None:
        """Restore a state of a pass with other prompts; objects start where they do in this one."""
        firsts = dict(self._first_frames)
        self.restore(session, state)
        self._first_frames = firsts

    def restore(self, session: Session, state: State) -> None:
        """Restore what `state` returned."""
        parts: dict[str, dict[str, npt.NDArray[Any]]] = defaultdict(dict)
        for name, array in state.items():
            part, _, key = name.partition(".")
            parts[part][key] = array
        session.restore(parts["engine"])
        self._flagger.restore(parts["watch"])
        self._first_frames = dict(parts["pass"]["firsts"].tolist())
        if self._associator is not None:
            self._associator.restore(parts["keeper"])


def _boxes_by_object(detections: sv.Detections) -> dict[int, Box]:
    """Map object ids to boxes, in the engine's order."""
    ids = [] if detections.tracker_id is None else detections.tracker_id.tolist()
    boxes = [tuple(box) for box in detections.xyxy.tolist()]
    return dict(zip(ids, boxes, strict=True))


def merge_items(item: Item, other: Item | None) -> Item:
    """Merge the items of two passes on one frame: objects in the order of their tracks."""
    objects, lost = item.objects, item.lost
    if other is not None:
        objects, lost = (*objects, *other.objects), (*lost, *other.lost)
    ordered = sorted(objects, key=lambda obj: -1 if obj.track is None else obj.track)
    return flags.flag_overlaps(replace(item, objects=tuple(ordered), lost=tuple(sorted(lost))))


def run_to_file(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> bool:
    """Propagate the prompts of a job into a file of items, or continue an equal run.

    The file has a line for each frame from the first prompt on (with `both_directions`: from
    `job.start` on), objects in the order of their tracks. The checkpoint of an unfinished run lies
    beside `out`. Returns False if the file was complete already.

    Raises:
        PromptError, SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    first, header = job.first_frame(), job.header()
    optional_member(job.engine, "ready")()
    with open_run_files(out) as run_files:

        def run_forward(forward: Appender) -> None:
            if force:
                run_files.clear()
            before = _run_backward(job, run_files, header, progress) if job.both_directions else {}
            PropagationPass(job).run(
                forward,
                lambda after: reader.frames(job.clip, start=max(first, after + 1), stop=job.stop),
                lambda item: merge_items(item, before.get(item.frame)),
                run_files.forward_state,
                progress,
            )

        has_run = journal.resume(out, header, run_forward, force=force)
        if has_run:
            run_files.clear()
    return has_run


def _run_backward(
    job: Job, run_files: RunFiles, header: records.Header, progress: Callable[[Item], None]
) -> Mapping[int, Item]:
    """Track each object backward from its first prompt, into a file; returns items by frame."""
    starts = job.backward_starts()
    if not starts:
        return {}
    last = max(starts.values())

    def run(backward: Appender) -> None:
        PropagationPass(job, backward=True).run(
            backward,
            lambda after: reader.backward(job.clip, last if after < 0 else after - 1, job.start),
            lambda item: item,
            run_files.backward_state,
            progress,
        )

    journal.resume(run_files.backward_items, header, run)
    return ItemsByFrame(run_files.backward_items)


def update(job: Job, out: Path, *, progress: Callable[[Item], None] = lambda item: None) -> bool:
    """Update a file of items that was made with other prompts to those of a job.

    Objects whose prompts did not change stay as they are; the others are tracked again, alone, from
    their own first prompt. Returns False if there was nothing to do.

    Raises:
        SettingsDiffer, ItemsError, PromptError: see `plan_update`.
        AnnotateError: see `run_to_file`.
    """
    # a file of its own, with which a stopped update continues
    update_path = RunFiles(out.parent, out.name).update_items
    plan = plan_update(job, out) if out.exists() else None
    if plan is None:
        update_path.unlink(missing_ok=True)
        return run_to_file(job, out, progress=progress)
    updated: Mapping[int, Item] = {}
    if plan.update_job is not None:
        run_to_file(
            plan.update_job,
            update_path,
            force=_is_stale(update_path, plan.update_job),
            progress=progress,
        )
        updated = ItemsByFrame(update_path)
    merged = _merge_update(job, ItemsByFrame(out), plan.kept_ids, updated)
    journal.write(out, job.header(), merged)
    update_path.unlink(missing_ok=True)
    return True


def _is_stale(update_path: Path, job: Job) -> bool:
    """True if the file of a stopped update was made with other prompts than this one."""
    if not update_path.exists():
        return False
    try:
        return bool(journal.read(update_path).header.differences(job.header()))
    except ItemsError:  # stopped before its header was whole
        return True


def _merge_update(
    job: Job,
    old_items: Mapping[int, Item],
    kept_ids: Collection[int],
    updated_items: Mapping[int, Item],
) -> Iterator[Item]:
    """Merge, frame by frame, the objects of old items that stay with the updated ones."""
    first = job.first_frame()
    for frame in sorted({*old_items, *updated_items}):
        if frame >= first:
            yield (
                merge_items(_keep_objects(old_items[frame], kept_ids), updated_items.get(frame))
                if frame in old_items
                else updated_items[frame]
            )


def _keep_objects(item: Item, kept_ids: Collection[int]) -> Item:
    objects = tuple(obj for obj in item.objects if obj.track in kept_ids)
    lost = tuple(track for track in item.lost if track in kept_ids)
    return replace(item, objects=objects, lost=lost)


def propagate_frames(job: Job) -> Iterator[tuple[Frame, Item]]:
    """Propagate the prompts of a job without a file; yields each frame and its item.

    A backward pass, if the job has one, runs first, into a temporary folder.

    Raises:
        PromptError, VideoError: see `annotate.errors`.
    """
    first, header = job.first_frame(), job.header()
    with TemporaryDirectory() as folder:
        run_files = RunFiles(Path(folder), "items")
        before: Mapping[int, Item] = {}
        if job.both_directions:
            before = _run_backward(job, run_files, header, lambda item: None)
        forward = PropagationPass(job)
        session = forward.begin()
        for frame in reader.frames(job.clip, start=first, stop=job.stop):
            item = forward.make_item(session, frame)
            yield frame, merge_items(item, before.get(frame.index))
