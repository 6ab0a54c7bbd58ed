"""One direction over a clip: an engine is led from frame to frame, its state kept on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from annotate import checkpoint, flags, items, journal
from annotate.from_boxes import Keeper
from annotate.records import Box, Frame, Item, Prompt

if TYPE_CHECKING:
    import supervision as sv

    from annotate.propagate import Job, Session

# between two states on disk, whichever is sooner: what a killed run does again, at most
CHECKPOINT_EVERY, CHECKPOINT_SECONDS = 100, 20.0  # frames; the clock shapes nothing in the items

State = Mapping[str, npt.NDArray[Any]]


class Pass:
    """`job` in one direction, with the prompts `on` frames; every so often its state is `saved`."""

    def __init__(
        self,
        job: Job,
        on: Mapping[int, Sequence[Prompt]],
        saved: Path,
        progress: Callable[[Item], None],
        *,
        backward: bool = False,
    ) -> None:
        self._job, self._on, self._saved = job, on, saved
        self._progress, self._backward = progress, backward
        self._firsts = job.firsts()
        self._watch = flags.Watch()
        self._keeper = None if job.boxes is None else Keeper(job.boxes, job.prompts.labels)

    def follow(
        self,
        out: journal.Appender,
        frames_after: Callable[[int], Iterator[Frame]],
        finished: Callable[[Item], Item],
    ) -> None:
        """Write an item for each frame; goes on from the state that was saved, if there is one."""
        session = self._job.engine.begin(self._job.lessons())
        if (state := checkpoint.read(self._saved, out)) is not None:
            self._restore(session, state)
        else:
            out.rewind_all()
        saved = monotonic()
        for frame in frames_after(-1 if out.last is None else out.last.frame):
            item = finished(self._item(session, frame))
            out.write(item)
            self._progress(item)
            if out.count % CHECKPOINT_EVERY == 0 or monotonic() - saved > CHECKPOINT_SECONDS:
                checkpoint.write(self._saved, self._state(session), out)
                saved = monotonic()

    def _item(self, session: Session, frame: Frame) -> Item:
        """The item of one frame; at its own first frame an object belongs to the forward pass."""
        found, prompts = self._step(session, frame)
        ids, phrase = list(_places(found)), self._job.phrase
        if phrase:
            self._firsts = {**dict.fromkeys(ids, frame.index), **self._firsts}
        on_its_way = {of for of, first in self._firsts.items() if self._past(frame, first)}
        shown = on_its_way - (self._keeper.unconfirmed() if self._keeper else set())
        mine = np.array([of in shown for of in ids], bool)
        labels = {**dict.fromkeys(ids, phrase), **self._job.prompts.labels}
        labels |= self._keeper.labels if self._keeper else {}
        kept = cast("sv.Detections", found[mine])
        item = items.from_detections(frame, kept, labels, self._job.source)
        item = replace(item, lost=tuple(sorted(on_its_way - (shown & set(ids)))))
        return self._watch.see(item, [prompt.object_id for prompt in prompts])

    def _past(self, frame: Frame, first: int) -> bool:
        return frame.index < first if self._backward else frame.index >= first

    def _step(self, session: Session, frame: Frame) -> tuple[sv.Detections, list[Prompt]]:
        """What the engine finds, and what it was told; boxes are held against what it sees itself.

        Where they say more than that, the step is taken back, and done again with them as prompts.
        """
        prompts = list(self._on.get(frame.index, ()))
        if self._keeper is None:
            return session.step(frame, prompts), prompts
        boxes = self._keeper.at(frame.index)
        before = {key: np.array(array) for key, array in session.state().items()} if boxes else {}
        found = session.step(frame, prompts)
        if boxes is not None:
            told = {prompt.object_id for prompt in prompts}
            made = self._keeper.prompts(frame.index, boxes, _places(found), told)
            if made:
                prompts += made
                session.restore(before)
                found = session.step(frame, prompts)
                for prompt in made:
                    self._firsts.setdefault(prompt.object_id, frame.index)
        self._keeper.note(frame.index, _places(found))
        return found, prompts

    def _state(self, session: Session) -> State:
        """All that the pass remembers, the engine's part and its own."""
        firsts = np.array(list(self._firsts.items()), np.int64).reshape(-1, 2)
        parts = {"engine": session.state(), "watch": self._watch.state()}
        parts |= {"pass": {"firsts": firsts}}
        parts |= {"keeper": self._keeper.state()} if self._keeper else {}
        return {f"{part}.{key}": parts[part][key] for part in parts for key in parts[part]}

    def _restore(self, session: Session, state: State) -> None:
        parts: dict[str, dict[str, npt.NDArray[Any]]] = defaultdict(dict)
        for name, array in state.items():
            part, _, key = name.partition(".")
            parts[part][key] = array
        session.restore(parts["engine"])
        self._watch.restore(parts["watch"])
        self._firsts = dict(parts["pass"]["firsts"].tolist())
        if self._keeper is not None:
            self._keeper.restore(parts["keeper"])


def _places(found: sv.Detections) -> dict[int, Box]:
    """Object -> its box, in the engine's order."""
    ids = [] if found.tracker_id is None else found.tracker_id.tolist()
    boxes = [tuple(box) for box in found.xyxy.tolist()]
    return dict(zip(ids, boxes, strict=True))


def joined(item: Item, other: Item | None) -> Item:
    """What two passes know of one frame, as one item: objects in the order of their tracks."""
    objects, lost = item.objects, item.lost
    if other is not None:
        objects, lost = (*objects, *other.objects), (*lost, *other.lost)
    ordered = sorted(objects, key=lambda thing: -1 if thing.track is None else thing.track)
    return flags.overlapping(replace(item, objects=tuple(ordered), lost=tuple(sorted(lost))))
