"""Define the Propagator contract, a propagation job and the plan of an update.

A propagator opens one session per pass over a clip; a session steps from frame to frame and keeps
only what it needs to go on. A job is a propagator, a clip and the prompts. The plan of an update
says which objects of an existing file of items stay, and which must be followed again, because
their prompts have changed.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from annotate.errors import ItemsError, PromptError, SettingsDiffer
from annotate.items import journal, records
from annotate.items.records import Frame, Header, Prompt, Vocabulary
from annotate.plugins import FAMILIES, Family, optional_member
from annotate.prompts import PromptTable
from annotate.propagators.boxes import DetectedBoxes
from annotate.video import reader

if TYPE_CHECKING:
    import supervision as sv


State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class PromptedFrame:
    """A frame and the prompts that a person gave on it."""

    frame: Frame
    prompts: tuple[Prompt, ...]


class Session(Protocol):
    """One pass over a clip, in one direction; it holds what must be remembered and no more."""

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Follow every object that has started onto the next frame of the pass.

        `prompts` are those given on this very frame: the first ones of an object start it, later
        ones correct it. Some no lesson told of: boxes of a detector, found as the pass goes on.
        Returns the objects seen: `xyxy`, `mask` (n, H, W) bool, `confidence` in
        0..1, `tracker_id` = object_id; nothing for an object that is lost, or has not started.
        """

    def state(self) -> State:
        """All that the pass remembers, as arrays, such that `restore` goes on exactly from here."""

    def restore(self, state: State) -> None:
        """Take up the pass where `state` was taken, in a session just begun or one further on."""


class Propagator(Protocol):
    """An engine: a frozen dataclass whose fields are its options.

    `independent`, a class attribute, says that an object's masks are the same whoever else is
    followed; without it, they are not. Then objects can be followed anew one by one. An engine with
    a field `phrase` that is set finds things itself: every id that it gives is an object of that
    class, and no prompts are needed. What it lacks, as weights, it says in `begin`, and before a
    file is begun in `ready()`, if it has that.
    """

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> Session:
        """Open a pass. `lessons`, in order of frames, may be learnt from before the first step.

        Every object may learn from all its prompts, but starts at its own first prompt of the pass.
        `lessons` is read once, frame by frame, so that only what is learnt stays in memory.
        """


PROPAGATORS: Family[Propagator] = FAMILIES["propagators"]


def propagator_settings(engine: Propagator) -> Mapping[str, Any]:
    """The engine's options as they are set: what a file of items is stamped with."""
    return dataclasses.asdict(engine)  # type: ignore[call-overload,no-any-return]  # a dataclass


@dataclass(frozen=True)
class Job:
    """An engine, a clip, and what a person said of it.

    Frames from `start` up to, not including, `stop` are looked at. `both` follows each object also
    backward from its first prompt. Prompts outside the range teach, but start nothing. `boxes` of a
    detector start and repair objects on the way.
    """

    engine: Propagator
    source: str
    clip: Path
    prompts: PromptTable
    start: int = 0
    stop: int | None = None
    both_directions: bool = False
    vocabulary: Vocabulary | None = None
    boxes: DetectedBoxes | None = None

    def header(self) -> records.Header:
        """What the file of items is stamped with: everything that shapes it."""
        labels = [*self.prompts.labels.values(), *(self.boxes.labels if self.boxes else ())]
        labels += [self.phrase] if self.phrase else []
        words = Vocabulary("", {label: {} for label in labels}, "")
        told = {"engine": self.source, "prompts": self.prompt_digests(), "start": self.start}
        told |= {
            "stop": self.stop,
            "both": self.both_directions,
            **propagator_settings(self.engine),
        }
        told |= {} if self.boxes is None else self.boxes.header_settings()
        clip = reader.header_entry(reader.probe(self.clip))
        stamp = (self.vocabulary or words).header_entry()
        return records.Header("propagate", told, vocabulary=stamp, videos=clip)

    @property
    def phrase(self) -> str:
        """What the engine looks for itself, without prompts; mostly nothing."""
        return str(optional_member(self.engine, "phrase") or "")

    def prompt_digests(self) -> dict[str, str]:
        """Object -> a short hash of its class and of all that a person said of it."""
        return {
            str(of): self.select_prompts({of}).digest()[:8] for of in sorted(self.prompts.labels)
        }

    def select_prompts(self, object_ids: Collection[int]) -> PromptTable:
        """The prompts of these objects."""
        prompts = tuple(each for each in self.prompts.prompts if each.object_id in object_ids)
        labels = {of: label for of, label in self.prompts.labels.items() if of in object_ids}
        return PromptTable(prompts, labels)

    def count_frames(self, clip: reader.Video) -> int | None:
        """How many frames both passes look at together, where it can be told."""
        if clip.frame_count is None:
            return None
        stop = clip.frame_count if self.stop is None else min(self.stop, clip.frame_count)
        backward = max(self.first_frames().values()) - self.start + 1 if self.both_directions else 0
        return stop - self.first_frame() + backward

    def first_frames(self) -> dict[int, int]:
        """Object -> the frame on which its first prompt between `start` and `stop` lies."""
        firsts: dict[int, int] = {}
        for prompt in self.prompts.prompts:
            if self.start <= prompt.frame and (self.stop is None or prompt.frame < self.stop):
                firsts.setdefault(prompt.object_id, prompt.frame)
        return firsts

    def first_frame(self) -> int:
        """The first frame that gets a line.

        Raises:
            PromptError: when nothing starts between `start` and `stop`, or could go both ways.
        """
        if self.both_directions and (self.phrase or self.boxes is not None):
            what = "--phrase" if self.phrase else "--from"
            raise PromptError(f"with {what} objects start as they come: leave out --both")
        starts = [self.start] if self.phrase else list(self.first_frames().values())
        boxed = None if self.boxes is None else self.boxes.first_frame(self.start, self.stop)
        starts += [] if boxed is None else [boxed]
        if not starts and optional_member(self.engine, "phrase") is not None:
            told = '--phrase, such as "blue robot"'
            raise PromptError(f"{self.source} is told what to look for by {told}: give one")
        if not starts:
            end = "the end" if self.stop is None else f"frame {self.stop}"
            what = "prompt" if self.boxes is None else "prompt and no box"
            raise PromptError(f"no {what} lies between frame {self.start} and {end}: give one")
        return self.start if self.both_directions else min(starts)

    def prompted_frames(self) -> Iterator[PromptedFrame]:
        """The prompted frames, in order, with all their prompts."""
        on = self.prompts_by_frame()
        for frame in reader.frames_at(self.clip, sorted(on)):
            yield PromptedFrame(frame, tuple(on[frame.index]))

    def prompts_by_frame(self) -> dict[int, list[Prompt]]:
        """Frame -> its prompts."""
        on = defaultdict(list)
        for prompt in self.prompts.prompts:
            on[prompt.frame].append(prompt)
        return on


_FORCE_HINT = "--force follows all objects anew"


@dataclass(frozen=True)
class UpdatePlan:
    """What prompts have changed: the objects that stay as they are, and those to follow anew.

    `anew` follows only the latter; None where none of them starts.
    """

    kept_ids: frozenset[int]
    update_job: Job | None


def plan_update(job: Job, out: Path) -> UpdatePlan | None:
    """What must be done so that `out` is what `job` makes; None where the prompts are the same.

    Raises:
        SettingsDiffer: more than the prompts differs.
        ItemsError: the run that wrote `out` has not reached its end.
        PromptError: no object can be followed without the others.
    """
    header, there = job.header(), journal.read(out).header
    known, now = there.settings.get("prompts"), job.prompt_digests()
    same = replace(there, settings={**there.settings, "prompts": now})
    if not isinstance(known, dict) or (differ := same.differences(header)):
        more = "; ".join(differ) if isinstance(known, dict) else "prompts that it does not name"
        raise SettingsDiffer(f"{out}: made with {more}: only prompts may change; {_FORCE_HINT}")
    if known == now:
        return None
    _check_can_update(job, out, there)
    job.first_frame()
    kept = {int(of) for of in now if known.get(of) == now[of]} & set(job.first_frames())
    fresh = replace(job, prompts=job.select_prompts(set(job.prompts.labels) - kept))
    return UpdatePlan(frozenset(kept), fresh if fresh.first_frames() else None)


def _check_can_update(job: Job, out: Path, header: Header) -> None:
    if not optional_member(job.engine, "independent"):
        raise PromptError(f"with {job.source} objects depend on each other: {_FORCE_HINT}")
    if job.boxes is not None:
        raise PromptError(f"with --from objects depend on each other: {_FORCE_HINT}")
    with journal.append(out, header) as file:
        if not file.complete:
            raise ItemsError(
                f"{out}: its run has not reached its end: finish it with the prompts that it "
                f"began with, then --update; or {_FORCE_HINT}"
            )
