"""Honour "the object is gone from here until its next positive prompt", with every engine.

The engine never gets such a prompt. On these frames the object has no mask, whatever the engine
finds, and its next positive prompt starts it again at a new place. An engine with the optional
member `forgets` is asked to stop tracking the object; for any other engine the object gets a new id
at each return, and what is still tracked under the old id is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from annotate.items.records import Frame, Prompt, State
from annotate.plugins import optional_member
from annotate.propagators.job import PromptedFrame, Propagator, Session

if TYPE_CHECKING:
    import supervision as sv

_RETURN_ID_STEP = 1 << 40  # an engine's id of an object: its own id, plus this for each return


class AbsenceSchedule:
    """The frames on which each object of a table of prompts is gone."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        changes: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        for prompt in sorted(prompts, key=lambda prompt: prompt.frame):
            if prompt.gone or prompt.is_positive:
                changes[prompt.object_id].append((prompt.frame, prompt.gone))
        # object -> (frame, gone from here on), for the objects that are ever gone
        self._changes = {
            key: rows for key, rows in changes.items() if any(gone for _, gone in rows)
        }

    @property
    def is_needed(self) -> bool:
        """True if any object is ever gone."""
        return bool(self._changes)

    def is_gone(self, object_id: int, frame: int) -> bool:
        """Return whether the object is gone on that frame."""
        rows = self._changes.get(object_id, ())
        return next((gone for first, gone in reversed(rows) if first <= frame), False)

    def spans(self, object_id: int, stop: int) -> list[tuple[int, int]]:
        """Return the stretches before `stop` in which the object is gone: first frame, end."""
        ends = [*self._changes.get(object_id, ()), (stop, False)]
        found: list[tuple[int, int]] = []
        start: int | None = None
        for frame, gone in ends:
            if gone and start is None:
                start = frame
            elif not gone and start is not None:
                found.append((start, frame))
                start = None
        return found

    def gone_at(self, frame: int) -> set[int]:
        """Return the objects that are gone on that frame."""
        return {object_id for object_id in self._changes if self.is_gone(object_id, frame)}

    def count_returns(self, object_id: int, frame: int) -> int:
        """Count how often the object has come back before or on that frame."""
        rows = [gone for first, gone in self._changes.get(object_id, ()) if first <= frame]
        first = rows.index(False) if False in rows else len(rows)  # its first start is no return
        pairs = zip(rows[first:], rows[first + 1 :], strict=False)
        return sum(before and not after for before, after in pairs)

    def prompts_for_engine(self, frame: int, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Leave out the prompts of objects that are gone on that frame."""
        return [each for each in prompts if not self.is_gone(each.object_id, frame)]


class AbsenceSession:
    """A session of any engine in which objects that are gone have no mask.

    `backward_starts`, of a backward pass, are the frames from which each object is tracked.
    """

    def __init__(
        self,
        engine: Propagator,
        prompted_frames: Iterable[PromptedFrame],
        schedule: AbsenceSchedule,
        backward_starts: Mapping[int, int] | None = None,
    ) -> None:
        self._schedule, self._backward_starts = schedule, backward_starts
        self._forgets = bool(optional_member(engine, "forgets"))
        self._previews = bool(optional_member(engine, "previews"))
        self._session: Session = engine.begin(self._for_engine(prompted_frames))

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Track every object that has started and is not gone onto the next frame."""
        gone = self._schedule.gone_at(frame.index)
        if self._forgets and (ended := [each.object_id for each in prompts if each.gone]):
            cast("Any", self._session).forget(ended)
        usable = self._schedule.prompts_for_engine(frame.index, prompts)
        given = [self._with_engine_id(prompt, frame.index) for prompt in usable]
        detections = self._session.step(frame, given)
        if not self._schedule.is_needed or detections.tracker_id is None or not len(detections):
            return detections
        engine_ids = np.asarray(detections.tracker_id).tolist()
        objects = (engine_id % _RETURN_ID_STEP for engine_id in engine_ids)
        current = {self._engine_id(key, frame.index) for key in objects if key not in gone}
        return _select_objects(detections, current)

    def preview(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Return the masks that a step would give these objects; the session stays as it is.

        The prompts need not be those of the job: each positive one starts an object that is gone.
        """
        schedule, given = self._schedule, []
        for prompt in prompts:
            engine_id = self._engine_id(prompt.object_id, frame.index)
            if schedule.is_gone(prompt.object_id, frame.index) and not self._forgets:
                engine_id += _RETURN_ID_STEP
            given.append(replace(prompt, object_id=engine_id))
        if self._previews:
            detections = cast("Any", self._session).preview(frame, given)
        else:
            before = {name: np.array(array) for name, array in self._session.state().items()}
            try:
                detections = self._session.step(frame, given)
            finally:
                self._session.restore(before)
        return _select_objects(detections, {prompt.object_id for prompt in given})

    def state(self) -> State:
        """Return the state of the engine's session; the schedule itself is in the prompts."""
        return self._session.state()

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        self._session.restore(state)

    def _for_engine(self, prompted_frames: Iterable[PromptedFrame]) -> Iterator[PromptedFrame]:
        for prompted in prompted_frames:
            index = prompted.frame.index
            usable = self._schedule.prompts_for_engine(index, prompted.prompts)
            given = (self._with_engine_id(prompt, index, pass_order=False) for prompt in usable)
            if usable:
                yield PromptedFrame(prompted.frame, tuple(given))

    def _with_engine_id(self, prompt: Prompt, frame: int, *, pass_order: bool = True) -> Prompt:
        engine_id = self._engine_id(prompt.object_id, frame, pass_order=pass_order)
        return prompt if engine_id == prompt.object_id else replace(prompt, object_id=engine_id)

    def _engine_id(self, object_id: int, frame: int, *, pass_order: bool = True) -> int:
        """Return the engine's id of an object; in a backward pass that of the frame it starts on.

        Without `pass_order` it is that of the frame itself in a backward pass, too.
        """
        if self._forgets:
            return object_id
        if pass_order and self._backward_starts is not None:
            frame = self._backward_starts.get(object_id, frame)
        return object_id + _RETURN_ID_STEP * self._schedule.count_returns(object_id, frame)


def _select_objects(detections: sv.Detections, engine_ids: Collection[int]) -> sv.Detections:
    """Select the rows of these objects, and turn the engine's ids into the objects' own."""
    if detections.tracker_id is None or not len(detections):
        return detections
    rows = np.asarray(detections.tracker_id)
    selected = detections[np.array([row in engine_ids for row in rows.tolist()], bool)]
    selected = cast("sv.Detections", selected)
    selected.tracker_id = np.asarray(selected.tracker_id) % _RETURN_ID_STEP
    return selected
