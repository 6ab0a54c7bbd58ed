"""Run a propagation job into a file of items, resume it, and update it.

A pass leads the propagator over the clip in one direction. Its state is saved beside the file of
items at intervals, so a run that was stopped goes on exactly from its last checkpoint. An update
follows only the objects whose prompts have changed, and merges them with the items of the others.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Any, cast
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from annotate.errors import ItemsError
from annotate.items import detections, journal, records
from annotate.items.journal import STDIO, Appender
from annotate.items.records import Box, Frame, Item, Prompt, item_from_json
from annotate.plugins import optional_member
from annotate.propagators import flags
from annotate.propagators.boxes import BoxAssociator
from annotate.propagators.job import Job, plan_update
from annotate.video import reader

if TYPE_CHECKING:
    import supervision as sv

    from annotate.propagators.job import Session


State = Mapping[str, npt.NDArray[Any]]
_OFFSET_KEY = "journal.offset"


@dataclass(frozen=True)
class RunFiles:
    """The files beside a file of items that only a run in progress needs."""

    folder: Path
    name: str

    @property
    def forward_state(self) -> Path:
        """The state of the forward pass."""
        return self.folder / f"{self.name}.state.npz"

    @property
    def backward_state(self) -> Path:
        """The state of the backward pass."""
        return self.folder / f"{self.name}.backward.state.npz"

    @property
    def backward_items(self) -> Path:
        """The items of the backward pass, waiting for the forward pass."""
        return self.folder / f"{self.name}.backward.jsonl"

    @property
    def update_items(self) -> Path:
        """The items of the objects that are followed anew."""
        return self.folder / f"{self.name}.update.jsonl"

    def clear(self) -> None:
        """Remove them, but for an update's, which has files of its own aside."""
        for path in (self.forward_state, self.backward_state, self.backward_items):
            path.unlink(missing_ok=True)


@contextmanager
def open_run_files(out: Path) -> Iterator[RunFiles]:
    """The files aside of `out`; those of standard output do not outlive the run."""
    if out != STDIO:
        yield RunFiles(out.parent, out.name)
        return
    with TemporaryDirectory() as folder:
        yield RunFiles(Path(folder), "items")


def write_checkpoint(path: Path, state: State, out: Appender) -> None:
    """Keep `state`, taken when `out` stood at its present end; replaces the one before at once."""
    if not out.resumable:
        return
    draft = path.with_name(path.name + ".part")
    with draft.open("wb") as file:
        np.savez(file, **{_OFFSET_KEY: np.array(out.offset)}, **state)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_checkpoint(path: Path, out: Appender) -> State | None:
    """The state kept at `path`, `out` being cut back to where it was taken; None without one."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as saved:
            state = {key: saved[key] for key in saved.files}
    except (OSError, ValueError, BadZipFile):
        return None
    offset = int(state.pop(_OFFSET_KEY))
    if offset > out.offset:
        return None
    out.rewind(offset)
    return state


class ItemsByFrame(Mapping[int, Item]):
    """The items of a file, by frame; only where each line begins is held in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[int, int] = {}
        with path.open("rb") as file:
            at = len(file.readline())
            for line in file:
                if not line.startswith(b'{"end"'):
                    self._offsets[item_from_json(line.decode(), str(path)).frame] = at
                at += len(line)

    def __getitem__(self, frame: int) -> Item:
        with self._path.open("rb") as file:
            file.seek(self._offsets[frame])
            return item_from_json(file.readline().decode(), str(self._path))

    def __iter__(self) -> Iterator[int]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)


# between two states on disk, whichever is sooner: what a killed run does again, at most
CHECKPOINT_EVERY, CHECKPOINT_SECONDS = 100, 20.0  # frames; the clock shapes nothing in the items


class PropagationPass:
    """`job` in one direction, with the prompts `on` frames; every so often its state is `saved`."""

    def __init__(
        self,
        job: Job,
        prompts_by_frame: Mapping[int, Sequence[Prompt]],
        checkpoint_path: Path,
        progress: Callable[[Item], None],
        *,
        backward: bool = False,
    ) -> None:
        self._job, self._prompts_by_frame, self._checkpoint_path = (
            job,
            prompts_by_frame,
            checkpoint_path,
        )
        self._progress, self._backward = progress, backward
        self._first_frames = job.first_frames()
        self._flagger = flags.AnomalyFlagger()
        self._associator = (
            None if job.boxes is None else BoxAssociator(job.boxes, job.prompts.labels)
        )

    def run(
        self,
        out: journal.Appender,
        frames_after: Callable[[int], Iterator[Frame]],
        finish_item: Callable[[Item], Item],
    ) -> None:
        """Write an item for each frame; goes on from the state that was saved, if there is one."""
        session = self._job.engine.begin(self._job.prompted_frames())
        if (state := read_checkpoint(self._checkpoint_path, out)) is not None:
            self._restore(session, state)
        else:
            out.rewind_all()
        saved = monotonic()
        for frame in frames_after(-1 if out.last is None else out.last.frame):
            item = finish_item(self.make_item(session, frame))
            out.write(item)
            self._progress(item)
            if out.count % CHECKPOINT_EVERY == 0 or monotonic() - saved > CHECKPOINT_SECONDS:
                write_checkpoint(self._checkpoint_path, self._state(session), out)
                saved = monotonic()

    def make_item(self, session: Session, frame: Frame) -> Item:
        """The item of one frame; at its own first frame an object belongs to the forward pass."""
        found, prompts = self._step(session, frame)
        ids, phrase = list(_boxes_by_object(found)), self._job.phrase
        if phrase:
            self._first_frames = {**dict.fromkeys(ids, frame.index), **self._first_frames}
        on_its_way = {
            of for of, first in self._first_frames.items() if self._has_started(frame, first)
        }
        shown = on_its_way - (self._associator.unconfirmed() if self._associator else set())
        mine = np.array([of in shown for of in ids], bool)
        labels = {**dict.fromkeys(ids, phrase), **self._job.prompts.labels}
        labels |= self._associator.labels if self._associator else {}
        kept = cast("sv.Detections", found[mine])
        item = detections.item_from_detections(frame, kept, labels, self._job.source)
        item = replace(item, lost=tuple(sorted(on_its_way - (shown & set(ids)))))
        return self._flagger.flag_item(item, [prompt.object_id for prompt in prompts])

    def _has_started(self, frame: Frame, first_frame: int) -> bool:
        return frame.index < first_frame if self._backward else frame.index >= first_frame

    def _step(self, session: Session, frame: Frame) -> tuple[sv.Detections, list[Prompt]]:
        """What the engine finds, and what it was told; boxes are held against what it sees itself.

        Where they say more than that, the step is taken back, and done again with them as prompts.
        """
        prompts = list(self._prompts_by_frame.get(frame.index, ()))
        if self._associator is None:
            return session.step(frame, prompts), prompts
        boxes = self._associator.boxes_at(frame.index)
        before = {key: np.array(array) for key, array in session.state().items()} if boxes else {}
        found = session.step(frame, prompts)
        if boxes is not None:
            told = {prompt.object_id for prompt in prompts}
            made = self._associator.make_prompts(frame.index, boxes, _boxes_by_object(found), told)
            if made:
                prompts += made
                session.restore(before)
                found = session.step(frame, prompts)
                for prompt in made:
                    self._first_frames.setdefault(prompt.object_id, frame.index)
        self._associator.record(frame.index, _boxes_by_object(found))
        return found, prompts

    def _state(self, session: Session) -> State:
        """All that the pass remembers, the engine's part and its own."""
        firsts = np.array(list(self._first_frames.items()), np.int64).reshape(-1, 2)
        parts = {"engine": session.state(), "watch": self._flagger.state()}
        parts |= {"pass": {"firsts": firsts}}
        parts |= {"keeper": self._associator.state()} if self._associator else {}
        return {f"{part}.{key}": parts[part][key] for part in parts for key in parts[part]}

    def _restore(self, session: Session, state: State) -> None:
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
    """Object -> its box, in the engine's order."""
    ids = [] if detections.tracker_id is None else detections.tracker_id.tolist()
    boxes = [tuple(box) for box in detections.xyxy.tolist()]
    return dict(zip(ids, boxes, strict=True))


def merge_items(item: Item, other: Item | None) -> Item:
    """What two passes know of one frame, as one item: objects in the order of their tracks."""
    objects, lost = item.objects, item.lost
    if other is not None:
        objects, lost = (*objects, *other.objects), (*lost, *other.lost)
    ordered = sorted(objects, key=lambda thing: -1 if thing.track is None else thing.track)
    return flags.flag_overlaps(replace(item, objects=tuple(ordered), lost=tuple(sorted(lost))))


def run_to_file(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> bool:
    """Propagate `job`'s prompts into a file of items; goes on where an equal run was stopped.

    The file has a line for each frame from the first prompt on (with `both`: from `job.start` on),
    objects in the order of their tracks. What a stopped run needs to go on exactly lies beside
    `out` until the run is complete. Returns False when the file was complete already.

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
            PropagationPass(job, job.prompts_by_frame(), run_files.forward_state, progress).run(
                forward,
                lambda after: reader.frames(job.clip, start=max(first, after + 1), stop=job.stop),
                lambda item: merge_items(item, before.get(item.frame)),
            )

        has_run = journal.resume(out, header, run_forward, force=force)
        if has_run:
            run_files.clear()
    return has_run


def _run_backward(
    job: Job, run_files: RunFiles, header: records.Header, progress: Callable[[Item], None]
) -> Mapping[int, Item]:
    """Follow each object backward from its start, into a file aside; frame -> item."""
    firsts = job.first_frames()
    on: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in job.prompts.prompts:
        if firsts.get(prompt.object_id) == prompt.frame:
            on[prompt.frame].append(prompt)
    top = max(firsts.values())

    def run(backward: Appender) -> None:
        PropagationPass(job, on, run_files.backward_state, progress, backward=True).run(
            backward,
            lambda after: reader.backward(job.clip, top if after < 0 else after - 1, job.start),
            lambda item: item,
        )

    journal.resume(run_files.backward_items, header, run)
    return ItemsByFrame(run_files.backward_items)


def update(job: Job, out: Path, *, progress: Callable[[Item], None] = lambda item: None) -> bool:
    """Make `out` what `job` would make it, from what it was made with other prompts.

    Objects whose prompts did not change keep their lines' words; the others are followed anew from
    their own start, alone, into a file aside, with which a stopped update goes on. Returns False
    when there was nothing to do.

    Raises:
        As `change` and `propagate.into`.
    """
    aside = RunFiles(out.parent, out.name).update_items
    what = plan_update(job, out) if out.exists() else None
    if what is None:
        aside.unlink(missing_ok=True)
        return run_to_file(job, out, progress=progress)
    fresh: Mapping[int, Item] = {}
    if what.update_job is not None:
        run_to_file(
            what.update_job, aside, force=_is_stale(aside, what.update_job), progress=progress
        )
        fresh = ItemsByFrame(aside)
    journal.write(out, job.header(), _merge_update(job, ItemsByFrame(out), what.kept_ids, fresh))
    aside.unlink(missing_ok=True)
    return True


def _is_stale(update_path: Path, job: Job) -> bool:
    """Whether an update that was stopped had other prompts than this one."""
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
    """The frames of both, in order: of `old` what is kept, of `fresh` everything."""
    first = job.first_frame()
    for frame in sorted({*old_items, *updated_items}):
        if frame >= first:
            yield (
                merge_items(_keep_objects(old_items[frame], kept_ids), updated_items.get(frame))
                if frame in old_items
                else updated_items[frame]
            )


def _keep_objects(item: Item, kept_ids: Collection[int]) -> Item:
    objects = tuple(thing for thing in item.objects if thing.track in kept_ids)
    return replace(item, objects=objects, lost=tuple(of for of in item.lost if of in kept_ids))


def propagate_frames(job: Job) -> Iterator[tuple[Frame, Item]]:
    """Propagate `job`'s prompts frame by frame, without a file; yields each frame and its item.

    Backward passes, where the job has them, run first, into a temporary folder.

    Raises:
        PromptError, VideoError: see `annotate.errors`.
    """
    first, header = job.first_frame(), job.header()
    with TemporaryDirectory() as folder:
        aside = RunFiles(Path(folder), "items")
        before: Mapping[int, Item] = {}
        if job.both_directions:
            before = _run_backward(job, aside, header, lambda item: None)
        forward = PropagationPass(
            job, job.prompts_by_frame(), aside.forward_state, lambda item: None
        )
        session = job.engine.begin(job.prompted_frames())
        for frame in reader.frames(job.clip, start=first, stop=job.stop):
            item = forward.make_item(session, frame)
            yield frame, merge_items(item, before.get(frame.index))
