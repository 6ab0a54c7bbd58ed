"""Define the Propagator contract, a propagation job and the plan of an update.

A propagator opens one session per pass over a clip; a session steps from frame to frame and keeps
only what it needs to go on. A job is a propagator, a clip and the prompts. The plan of an update
says which objects of an existing file of items stay, and which must be tracked again, because
their prompts have changed.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from annotate.errors import ItemsError, PromptError, SettingsDiffer
from annotate.items import journal
from annotate.items.records import Frame, Header, Prompt, State, Vocabulary
from annotate.plugins import FAMILIES, Family, optional_member
from annotate.prompts import PromptTable
from annotate.propagators.boxes import DetectedBoxes
from annotate.video import reader
from annotate.weights import identity

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class PromptedFrame:
    """A frame and the prompts on it."""

    frame: Frame
    prompts: tuple[Prompt, ...]


class Session(Protocol):
    """One pass over a clip, in one direction; its memory does not grow with the clip."""

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Track every object that has started onto the next frame of the pass.

        Args:
            frame: The next frame; in a backward pass the one before.
            prompts: The prompts on this frame. The first ones of an object start it, later ones
                correct it. Boxes of a detector come only here, not in `Propagator.begin`.

        Returns:
            The visible objects: `xyxy`, `mask` (n, H, W) bool, `confidence` in 0..1, `tracker_id`
            = object_id. An object that is lost or has not started has no row.
        """

    def state(self) -> State:
        """Return the memory of the pass as arrays; `restore` continues exactly from here."""

    def restore(self, state: State) -> None:
        """Continue where `state` was taken, in a session that was just begun or is further on."""


class Propagator(Protocol):
    """An engine: a frozen dataclass; its fields are its options.

    It may have the optional members of `annotate.plugins.OPTIONAL_MEMBERS`:

    - `independent`: a class attribute, True if an object's masks are the same whichever others are
      tracked. Then an update tracks only the objects with changed prompts.
    - `causal`: a class attribute, True if a mask depends on no prompt of a later frame of the pass.
      Then a changed prompt leaves the frames before it as they are.
    - `forgets`: a class attribute, True if sessions have `forget(object_ids)`, which stops tracking
      these objects until their next prompts. It may name objects that have not started.
    - `previews`: a class attribute, True if sessions have `preview(frame, prompts)`, which returns
      the masks that `step` would give these objects, faster, and leaves the session as it is.
    - `quick_previews`: a class attribute, True if sessions have `quick_preview(frame, prompts)`,
      which returns rough masks of clicked objects at once, and `preview` of a session that was just
      begun gives those of `step`.
    - `phrase`: a field. An engine with a phrase finds objects itself: every id that it
      returns is an object of that class, and no prompts are needed.
    - `ready()`: raises what is missing, such as weights, before a file is begun.
    """

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> Session:
        """Open a pass.

        `prompted_frames`, in order of frames, may be fitted to before the first step: an object may
        use all its prompts, but it starts at its own first prompt of the pass. Read it once, frame
        by frame, and keep none of the frames, so that memory stays constant.

        Raises:
            MissingWeights, MissingPackage: what the engine needs is not there.
        """


PROPAGATORS: Family[Propagator] = FAMILIES["propagators"]


def propagator_settings(engine: Propagator) -> Mapping[str, Any]:
    """Return the values of the engine's options, for the header of a file of items."""
    return dataclasses.asdict(engine)  # type: ignore[call-overload,no-any-return]  # a dataclass


def engine_settings(engine: Propagator) -> dict[str, Any]:
    """Return what an engine adds to a header: its options, and the hashes of its weights."""
    return {**propagator_settings(engine), **identity.header_settings(engine)}


@dataclass(frozen=True)
class Job:
    """An engine, a clip and the prompts."""

    engine: Propagator
    source: str  # the engine's name, as it stands in the items
    clip: Path
    prompts: PromptTable  # those outside the range may be fitted to, but start no object
    start: int = 0  # the first frame
    stop: int | None = None  # the frame after the last one
    both_directions: bool = False  # track each object backward from its first prompt too
    vocabulary: Vocabulary | None = None
    boxes: DetectedBoxes | None = None  # of a detector: start and repair objects

    def header(self) -> Header:
        """Make the header of the file of items: everything that the items depend on."""
        labels = [*self.prompts.labels.values(), *(self.boxes.labels if self.boxes else ())]
        labels += [self.phrase] if self.phrase else []
        vocabulary = self.vocabulary or Vocabulary("", {label: {} for label in labels}, "")
        settings = {
            "engine": self.source,
            "prompts": self.prompt_digests(),
            "start": self.start,
            "stop": self.stop,
            "both": self.both_directions,
            **engine_settings(self.engine),
            **({} if self.boxes is None else self.boxes.header_settings()),
        }
        reader.FrameSelection(start=self.start, stop=self.stop).check(self.clip)
        videos = reader.header_entry(reader.probe(self.clip))
        return Header("propagate", settings, vocabulary=vocabulary.header_entry(), videos=videos)

    @property
    def phrase(self) -> str:
        """Return the phrase of an engine that finds objects itself; "" for any other."""
        return str(optional_member(self.engine, "phrase") or "")

    def prompt_digests(self) -> dict[str, str]:
        """Hash the class and the prompts of each object: object id -> 8 hex digits."""
        return {
            str(object_id): self.prompts.of_objects({object_id}).digest()[:8]
            for object_id in sorted(self.prompts.labels)
        }

    def count_frames(self, clip: reader.Video) -> int | None:
        """Count the frames of both passes together; None if the clip's length is unknown."""
        if clip.frame_count is None:
            return None
        stop = clip.frame_count if self.stop is None else min(self.stop, clip.frame_count)
        first = (
            self.first_frame()
        )  # refuses `both_directions` where no frame is known to go back from
        starts = self.backward_starts().values() if self.both_directions else ()
        return stop - first + (max(starts) - self.start + 1 if starts else 0)

    def first_frames(self) -> dict[int, int]:
        """Find each object's first frame with a positive prompt between `start` and `stop`."""
        firsts: dict[int, int] = {}
        for prompt in self.prompts.prompts:
            if (
                prompt.is_positive
                and self.start <= prompt.frame
                and (self.stop is None or prompt.frame < self.stop)
            ):
                firsts.setdefault(prompt.object_id, prompt.frame)
        return firsts

    def backward_starts(self) -> dict[int, int]:
        """Find the first frames of the objects that are not known to be gone just before."""
        gone: dict[int, bool] = {}
        firsts, starts = self.first_frames(), {}
        for prompt in self.prompts.prompts:
            if firsts.get(prompt.object_id) == prompt.frame and not gone.get(prompt.object_id):
                starts[prompt.object_id] = prompt.frame
            if prompt.gone or prompt.is_positive:
                gone[prompt.object_id] = prompt.gone
        return starts

    def first_frame(self) -> int:
        """Return the first frame that gets an item.

        Raises:
            PromptError: no object starts between `start` and `stop`; an object is gone, but has no
                positive prompt; or `both_directions` with an engine or boxes that start objects on
                the way.
        """
        self._check_gone_objects()
        if self.both_directions and (self.phrase or self.boxes is not None):
            what = "`phrase`" if self.phrase else "`boxes`"
            raise PromptError(f"with {what} objects start as they come: leave out `both`")
        starts = [self.start] if self.phrase else list(self.first_frames().values())
        boxed = None if self.boxes is None else self.boxes.first_frame(self.start, self.stop)
        starts += [] if boxed is None else [boxed]
        if not starts and optional_member(self.engine, "phrase") is not None:
            raise PromptError(
                f'{self.source} finds objects by a phrase, such as "blue robot": give `phrase`'
            )
        if not starts:
            end = "the end" if self.stop is None else f"frame {self.stop}"
            what = "prompt" if self.boxes is None else "prompt and no box"
            raise PromptError(f"no {what} lies between frame {self.start} and {end}: give one")
        return self.start if self.both_directions else min(starts)

    def _check_gone_objects(self) -> None:
        positive = {prompt.object_id for prompt in self.prompts.prompts if prompt.is_positive}
        for prompt in self.prompts.prompts:
            if prompt.gone and prompt.object_id not in positive and not self.phrase:
                raise PromptError(
                    f"object {prompt.object_id} is gone from frame {prompt.frame} on (label -1), "
                    "but has no positive prompt: give it one, or remove its rows"
                )

    def prompted_frames(self) -> Iterator[PromptedFrame]:
        """Yield the prompted frames, in order, with all their prompts."""
        by_frame = self.prompts_by_frame()
        for frame in reader.frames_at(self.clip, sorted(by_frame)):
            yield PromptedFrame(frame, tuple(by_frame[frame.index]))

    def prompts_by_frame(self) -> dict[int, list[Prompt]]:
        """Group the prompts by frame index."""
        by_frame = defaultdict(list)
        for prompt in self.prompts.prompts:
            by_frame[prompt.frame].append(prompt)
        return by_frame

    def starting_prompts(self) -> dict[int, list[Prompt]]:
        """Group the prompts that start an object of a backward pass by frame index."""
        by_frame, starts = defaultdict(list), self.backward_starts()
        for prompt in self.prompts.prompts:
            if starts.get(prompt.object_id) == prompt.frame:
                by_frame[prompt.frame].append(prompt)
        return by_frame


_FORCE_HINT = "`force` tracks all objects again"


@dataclass(frozen=True)
class UpdatePlan:
    """Which objects stay as they are, and which are tracked again."""

    kept_ids: frozenset[int]
    update_job: Job | None  # tracks the others; None if none of them starts


def plan_update(job: Job, out: Path) -> UpdatePlan | None:
    """Plan how to turn the items in `out` into those of `job`; None if the prompts are the same.

    Raises:
        SettingsDiffer: more than the prompts differs.
        ItemsError: the run that wrote `out` has not reached its end.
        PromptError: no object can be tracked without the others.
    """
    header, old_header = job.header(), journal.read(out).header
    old, new = old_header.settings.get("prompts"), job.prompt_digests()
    adapted = replace(old_header, settings={**old_header.settings, "prompts": new})
    if not isinstance(old, dict) or (differences := adapted.differences(header)):
        what = "; ".join(differences) if isinstance(old, dict) else "prompts that it does not name"
        raise SettingsDiffer(f"{out}: made with {what}: only prompts may change; {_FORCE_HINT}")
    if old == new:
        return None
    _check_can_update(job, out, old_header)
    job.first_frame()
    kept = {int(key) for key in new if old.get(key) == new[key]} & set(job.first_frames())
    changed = replace(job, prompts=job.prompts.of_objects(set(job.prompts.labels) - kept))
    return UpdatePlan(frozenset(kept), changed if changed.first_frames() else None)


def _check_can_update(job: Job, out: Path, header: Header) -> None:
    if not optional_member(job.engine, "independent"):
        raise PromptError(f"with {job.source} objects depend on each other: {_FORCE_HINT}")
    if job.boxes is not None:
        raise PromptError(f"with `boxes` objects depend on each other: {_FORCE_HINT}")
    with journal.append(out, header) as file:
        if not file.complete:
            raise ItemsError(
                f"{out}: its run has not reached its end: finish it with the prompts that it "
                f"began with, then give `update`; or {_FORCE_HINT}"
            )
