"""Join what the point page needs: the session of points, the engine, the masks and the pictures."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from annotate.active_learning.frame_list import ListedFrame
from annotate.errors import OutputError, PromptError
from annotate.items import boxes
from annotate.items.records import Object
from annotate.propagators import boxes as boxes_of_detectors
from annotate.propagators.absence import AbsenceSchedule
from annotate.propagators.interactive import Direction
from annotate.video.reader import Video
from annotate.web.events import EventStream
from annotate.web.pictures import PictureStore
from annotate.web.point.detectors import FrameDetectors
from annotate.web.point.session import PointSession
from annotate.web.point.state import Progress, StateBuilder, open_proposals, prompt_table_of
from annotate.web.point.tracking.engine import PointEngine
from annotate.web.point.tracking.engine_thread import EngineThread
from annotate.web.point.tracking.previews import CLICK, Previews
from annotate.web.point.tracking.runs import RunProgress, SaveJob
from annotate.web.point.tracking.tracks import Tracks, mask_record
from annotate.web.point.writer import ResultWriter

DIRECTIONS: Mapping[str, tuple[Direction, ...]] = {
    "forward": ("forward",),
    "backward": ("backward",),
    "both": ("forward", "backward"),  # what a person looks at is mostly ahead
}


@dataclass
class Editor:
    """The point page of one clip; methods may be called from several threads.

    `bounds` are the first frame that a save writes, and the one after the last; None: all frames.
    `listed` are frames to label, in their order.
    """

    video: Video
    session: PointSession
    engine: PointEngine
    writer: ResultWriter
    engine_name: str
    proposals: dict[int, Sequence[Object]] = field(default_factory=dict)
    detectors: FrameDetectors = field(default_factory=FrameDetectors)
    bounds: tuple[int, int] | None = None
    listed: Sequence[ListedFrame] = ()

    def __post_init__(self) -> None:
        frame_count = self.video.frame_count or 0
        self.pictures = PictureStore(self.video.path, frame_count)
        self.engine.pictures = self.pictures
        self.tracks, self.events = Tracks(), EventStream()
        self._bounds = self.limits = self.bounds or (0, frame_count)
        self.backward = False  # whether the result is tracked backward too
        self._lock = threading.RLock()
        self._thread = EngineThread(self._job_failed)
        self._run: RunProgress | None = None
        self._writer_client: str | None = None  # the page that may edit
        self._previews = Previews(self.engine, self._thread, self._tell_masks, self._tell_failure)
        self._builder = StateBuilder(
            self.video, self.session, self.engine_name, self.proposals, self._bounds, self.listed
        )
        self._take_prompts()

    def close(self) -> None:
        """Stop the engine and the decoder, and close the log."""
        self.events.close()
        self._thread.close()
        self._previews.close()
        self.detectors.close()
        self.pictures.close()
        self.session.close()

    # --- what the page reads

    def open(self, client: str) -> dict[str, Any]:
        """Return the state for a page that begins; the first page may edit."""
        with self._lock:
            self._writer_client = self._writer_client or client
        return self.state()

    def state(self) -> dict[str, Any]:
        """Return the state of the session."""
        with self._lock:
            run = None if self._run is None else self._run.describe()
            progress = Progress(
                self.tracks, self.absence, self.digests, self.context, self.limits, run
            )
            state = self._builder.build(progress)
            return state | {
                "writer": self._writer_client,
                "event": self.events.last,
                "detectors": self.detectors.texts,
            }

    def masks(self, frame: int) -> dict[str, Any]:
        """Return the masks of a frame; those of prompts that changed are made now.

        Raises:
            AnnotateError: the engine fails, or there is no such frame.
        """
        with self._lock:
            revision, table, digests = self.session.revision, self.table, dict(self.digests)
            wanted = [
                prompt.object_id
                for prompt in table.prompts
                if prompt.frame == frame
                and not prompt.gone
                and not self._previews.get(prompt.object_id, frame, digests[prompt.object_id])
                and frame not in self.tracks.frames(prompt.object_id, digests[prompt.object_id])
            ]
        if wanted:
            self._previews.make(frame, table, wanted, digests)
        return self._masks(frame, revision, digests)

    def preview(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mask that one more point would give; a later call ends this one.

        Raises:
            PromptError: the point cannot be set.
        """
        with self._lock:
            document = self.session.preview({"kind": "point", **record})
            table = prompt_table_of(document, self.session.scope)
        found = self._previews.hover(int(record["frame"]), table, int(record["object"]))
        return {"mask": None} if found is None else mask_record(found)

    # --- what a person does; each answers with the state that all pages get

    def act(self, action: Mapping[str, Any], client: str = "") -> dict[str, Any]:
        """Do an action of a page.

        Raises:
            PromptError: it cannot be done, or another page edits.
            OutputError: it cannot be saved.
        """
        with self._lock:
            if client and client != self._writer_client:
                raise PromptError("another tab edits this session: take it over first")
            kind = action.get("kind")
            if kind == "undo":
                self.session.undo()
            elif kind == "redo":
                self.session.redo()
            else:
                self.session.act(self._expanded(action))
            self._take_prompts()
        return self._tell_all()

    def take_over(self, client: str) -> dict[str, Any]:
        """Let another page edit."""
        with self._lock:
            self._writer_client = client
        return self._tell_all()

    def leave(self, client: str) -> dict[str, Any]:
        """Let the next page edit: this one is closed."""
        with self._lock:
            if client == self._writer_client:
                self._writer_client = None
        return self.state()

    def see(self, frames: Sequence[int]) -> dict[str, Any]:
        """Note that a person has looked at frames."""
        with self._lock:
            end = self.video.frame_count or 0
            self.session.note_seen(int(each) for each in frames if 0 <= int(each) < end)
        return self.state()

    def set_range(self, start: int, stop: int) -> dict[str, Any]:
        """Choose the frames that are propagated: from `start` up to, not including, `stop`.

        Raises:
            PromptError: these frames are not a part of those that a save writes.
        """
        first, end = self._bounds
        if not first <= int(start) < int(stop) <= end:
            raise PromptError(
                f"frames {start} to {int(stop) - 1} are not a part of the frames {first} to "
                f"{end - 1} of this session"
            )
        with self._lock:
            self.limits = int(start), int(stop)
        return self.state()

    def settle_outside_edit(self, *, take: bool) -> dict[str, Any]:
        """Take the points file as another program left it, or write it again."""
        with self._lock:
            if take:
                self.session.take_outside_edit()
            else:
                self.session.keep_own_rows()
            self._take_prompts()
        return self._tell_all()

    def run(self, frame: int, direction: str, ids: Sequence[int] | None) -> dict[str, Any]:
        """Begin to propagate from a frame: all objects, or some.

        Raises:
            PromptError: no object has a prompt, or no frame is left.
        """
        if direction not in DIRECTIONS:
            raise PromptError(f"direction: expected one of {', '.join(DIRECTIONS)}")
        with self._lock:
            known = sorted(self.digests)
            chosen = known if ids is None else [each for each in known if each in set(ids)]
            if not chosen:
                raise PromptError("no object has a point yet: click inside one first")
            self.backward |= "backward" in DIRECTIONS[direction]
            first = min(max(int(frame), self.limits[0]), self.limits[1] - 1)
            run = RunProgress(direction, {key: self.digests[key] for key in chosen}, first)
            self._run = run
        self._thread.start_job(self._propagate(run))
        return self._tell_all()

    def stop(self) -> dict[str, Any]:
        """Stop propagating; what is done stays."""
        self._thread.stop_job()  # after the step that runs
        with self._lock:
            self._run = None
        return self._tell_all()

    def propose(self, frame: int, detector: str) -> str:
        """Let a detector propose boxes on a frame; returns a message for the page.

        Raises:
            AnnotateError: it is not offered, not ready, or fails; or there is no such frame.
        """
        found = self.detectors.propose(detector, self.pictures.frame(int(frame)))
        with self._lock:
            self.proposals[int(frame)] = found
        self._tell_all()
        count_of_boxes = f"{len(found)} box{'es' * (len(found) > 1)}"
        what = f"{count_of_boxes}; Enter accepts what is dashed" if found else "no box"
        return f"{detector}, frame {frame}: {what}"

    def save(self) -> str:
        """Write the items that the command line writes; returns a message for the page.

        Only what is not settled yet is tracked. It is a job of the engine thread, so that clicks
        are answered meanwhile; one that changes the points stops it.
        The masks of the page become those that were written.

        Raises:
            AnnotateError: it was stopped, or the items cannot be made or written.
        """
        if self.session.outside_edit() is not None or self.session.save_error:
            raise OutputError(f"{self.session.points}: settle first what is to be in this file")
        self.writer.check()
        with self._lock:
            digests, context, table = dict(self.digests), self.context, self.table
            self._run = run = RunProgress("save", digests, self.limits[0])
            job = SaveJob(self.engine, self.writer.output, self.backward, lambda: self._step(run))
            self._thread.start_job(job)
        self._tell_all()
        try:
            job.done.result()
        finally:
            self._end(run)
            self._tell_all()
        message, changed = self.writer.message(self.backward), 0
        with self._lock:
            if self.table is table:  # else the points were changed meanwhile
                changed = self.tracks.settle(self.writer.items(), digests, context)
        self._tell_all(settled=True)
        return f"{message}; {changed} masks differ from what was shown" if changed else message

    def build_dataset(self) -> str:
        """Save, and build a dataset of the items; returns a message for the page."""
        self.save()
        return self.writer.build_dataset(self.session.document, self.session.seen)

    # --- inside

    def _expanded(self, action: Mapping[str, Any]) -> Mapping[str, Any]:
        """Turn the acceptance of proposed boxes into the boxes themselves, which the log keeps.

        A box on the mask of an object of its class becomes the box of that object there.
        """
        if action.get("kind") != "accept":
            return action
        frame, document = int(action["frame"]), self.session.document
        proposed = open_proposals(document, frame, self.proposals.get(frame, ()))
        if not proposed:
            raise PromptError("no boxes are proposed on this frame")
        masks = self._masks(frame, self.session.revision, self.digests)["objects"]
        shown = {each["id"]: each["box"] for each in masks}
        new_ids = count(max(document.object_ids(), default=0) + 1)
        records = []
        for obj in proposed:
            same = [key for key in shown if document.class_of(key) == obj.label]
            best = max(same, key=lambda key: boxes.iou(shown[key], obj.box), default=None)
            if best is None or boxes.iou(shown[best], obj.box) < boxes_of_detectors.MATCH_IOU:
                best = next(new_ids)
            shown.pop(best, None)  # one box for one object
            corners = dict(zip(("x1", "y1", "x2", "y2"), obj.box, strict=True))
            records.append(corners | {"frame": frame, "object": best, "class": obj.label})
        return {"kind": "boxes", "boxes": records}

    def _take_prompts(self) -> None:
        """Give the engine the present prompts; a run that is under way is stopped if it must be."""
        self.table = prompt_table_of(self.session.document, self.session.scope)
        self.absence = AbsenceSchedule(self.table.prompts)
        old, self.digests = getattr(self, "digests", {}), self._digests()
        self._previews.take_digests(self.digests)
        table = self.table
        self.context = "" if self.engine.independent else table.digest()
        changed = {key for key in {*old, *self.digests} if old.get(key) != self.digests.get(key)}
        if self._run is not None and self._run.is_of(changed):
            self._thread.stop_job()
            self._run = None
        self._thread.call(lambda: self.engine.set_prompts(table), CLICK)

    def _digests(self) -> dict[int, str]:
        """Name the prompts of each object."""
        return {key: self.table.of_objects({key}).digest() for key in self.table.labels}

    def _propagate(self, run: RunProgress) -> Generator[None, None, None]:
        """Track and send each frame's masks; a step of the engine thread."""
        for direction in DIRECTIONS[run.direction]:
            start, stop = self.limits
            run.total += stop - run.first if direction == "forward" else run.first - start + 1
            ids = sorted(run.digests)
            results = self.engine.propagate(ids, run.first, direction, self.limits)
            for frame, found in results:
                with self._lock:
                    for object_id, result in found.items():
                        self.tracks.put(object_id, run.digests[object_id], frame, result)
                self._step(run, frame)
                yield
        self._end(run)
        self._tell_all(message=f"propagated {run.done} frames")

    def _step(self, run: RunProgress, frame: int | None = None) -> None:
        """Tell all pages that a step is done, and the masks of its frame."""
        run.done += 1
        self.events.append({"progress": run.text})
        if frame is not None:
            self._tell_masks(frame)

    def _end(self, run: RunProgress) -> None:
        with self._lock:
            if self._run is run:
                self._run = None

    def _job_failed(self, error: Exception) -> None:
        with self._lock:
            self._run = None
        self._tell_all(error=str(error))

    def _tell_masks(self, frame: int) -> None:
        """Send the masks of a frame to all pages."""
        with self._lock:
            revision, digests = self.session.revision, dict(self.digests)
        self.events.append({"masks": self._masks(frame, revision, digests)})

    def _tell_failure(self, error: str) -> None:
        self._tell_all(error=error)

    def _tell_all(self, **more: Any) -> dict[str, Any]:
        """Send the present state to all pages, and return it."""
        state = self.state()
        self.events.append({"state": state, **more})
        return state

    def _masks(self, frame: int, revision: int, digests: Mapping[int, str]) -> dict[str, Any]:
        objects, lost = [], []
        pending = False  # better masks follow
        with self._lock:
            for object_id, digest in sorted(digests.items()):
                if self.absence.is_gone(object_id, frame):
                    continue
                preview = self._previews.get(object_id, frame, digest)
                alone = None if preview is None else preview.found
                known = self.tracks.get(object_id, digest, self.context, frame)
                if known is not None and (known[1] != "stale" or alone is None):
                    result, status = known
                    if result.found is None:
                        lost.append(object_id)
                    else:
                        objects.append(mask_record(result.found) | {"status": status})
                elif preview is not None and alone is not None:
                    pending |= preview.is_rough
                    objects.append(mask_record(alone) | {"status": "provisional"})
        answer = {"frame": frame, "rev": revision, "objects": objects, "lost": lost}
        return answer | {"pending": pending}
