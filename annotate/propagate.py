"""The Propagator contract; a pass over a clip: who starts where, which way, and what is lost."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from annotate import checkpoint, items, journal, plugins, video
from annotate.errors import PromptError
from annotate.prompts import PromptTable
from annotate.records import Frame, Item, Prompt, Vocabulary

if TYPE_CHECKING:
    import supervision as sv

GROUP = "annotate.propagators"
CHECKPOINT_EVERY = 100  # frames between two states on disk: what a killed run does again, at most

State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Lesson:
    """A frame and the prompts that a person gave on it."""

    frame: Frame
    prompts: tuple[Prompt, ...]


class Session(Protocol):
    """One pass over a clip, in one direction; it holds what must be remembered and no more."""

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Follow every object that has started onto the next frame of the pass.

        `prompts` are those given on this very frame: the first ones of an object start it, later
        ones correct it. Returns the objects seen: `xyxy`, `mask` (n, H, W) bool, `confidence` in
        0..1, `tracker_id` = object_id; nothing for an object that is lost, or has not started.
        """

    def state(self) -> State:
        """All that the pass remembers, as arrays, such that `restore` goes on exactly from here."""

    def restore(self, state: State) -> None:
        """Take up the pass where `state` was taken."""


class Propagator(Protocol):
    """An engine: a frozen dataclass whose fields are its options."""

    def begin(self, lessons: Iterable[Lesson]) -> Session:
        """Open a pass. `lessons`, in order of frames, may be learnt from before the first step.

        Every object may learn from all its prompts, but starts at its own first prompt of the pass.
        `lessons` is read once, frame by frame, so that only what is learnt stays in memory.
        """


def names() -> list[str]:
    """The installed engines; none is imported."""
    return plugins.names(GROUP)


def load(name: str, **options: Any) -> Propagator:
    """The engine `name`.

    Raises:
        UnknownName: nothing is installed under that name, or it has no such option.
    """
    plugin = plugins.find(GROUP, name)
    plugins.check_options(plugin, name, options)
    engine: Propagator = plugin(**options)
    return engine


def parse_options(name: str, texts: Mapping[str, str], *, fast: bool = False) -> dict[str, Any]:
    """Option texts for the engine `name`, as its fields' types; `fast` sets its option of that name.

    Raises:
        UnknownName: the engine has no such option.
    """
    plugin = plugins.find(GROUP, name)
    told = {**texts, "fast": "yes"} if fast else texts
    return plugins.parse_options(plugin, name, told)


def settings(engine: Propagator) -> Mapping[str, Any]:
    """The engine's options as they are set: what a file of items is stamped with."""
    return dataclasses.asdict(engine)  # type: ignore[call-overload,no-any-return]  # a dataclass


@dataclass(frozen=True)
class Job:
    """An engine, a clip, and what a person said of it.

    Frames from `start` up to, not including, `stop` are looked at. `both` follows each object also
    backward from its first prompt. Prompts outside the range teach, but start nothing.
    """

    engine: Propagator
    source: str
    clip: Path
    prompts: PromptTable
    start: int = 0
    stop: int | None = None
    both: bool = False
    vocabulary: Vocabulary | None = None

    def header(self) -> journal.Header:
        """What the file of items is stamped with: everything that shapes it."""
        words = Vocabulary("", {label: {} for label in self.prompts.labels.values()}, "")
        told = {"engine": self.source, "prompts": self.prompts.digest(), "start": self.start}
        told |= {"stop": self.stop, "both": self.both, **settings(self.engine)}
        clip = journal.about(video.probe(self.clip))
        stamp = (self.vocabulary or words).stamp()
        return journal.Header("propagate", told, vocabulary=stamp, videos=clip)

    def count(self, clip: video.Video) -> int | None:
        """How many frames both passes look at together, where it can be told."""
        if clip.frame_count is None:
            return None
        firsts = self.firsts().values()
        stop = clip.frame_count if self.stop is None else min(self.stop, clip.frame_count)
        backward = max(firsts) - self.start + 1
        return stop - self.start + backward if self.both else stop - min(firsts)

    def firsts(self) -> dict[int, int]:
        """Object -> the frame on which it starts.

        Raises:
            PromptError: when nothing starts between `start` and `stop`.
        """
        firsts: dict[int, int] = {}
        for prompt in self.prompts.prompts:
            if self.start <= prompt.frame and (self.stop is None or prompt.frame < self.stop):
                firsts.setdefault(prompt.object_id, prompt.frame)
        if not firsts:
            end = "the end" if self.stop is None else f"frame {self.stop}"
            raise PromptError(f"no prompt lies between frame {self.start} and {end}: give one")
        return firsts

    def lessons(self) -> Iterator[Lesson]:
        """The prompted frames, in order, with all their prompts."""
        on = self.on_frames()
        for frame in video.frames_at(self.clip, sorted(on)):
            yield Lesson(frame, tuple(on[frame.index]))

    def on_frames(self) -> dict[int, list[Prompt]]:
        """Frame -> its prompts."""
        on = defaultdict(list)
        for prompt in self.prompts.prompts:
            on[prompt.frame].append(prompt)
        return on


def into(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Item], None] = lambda item: None,
) -> bool:
    """Propagate `job`'s prompts into a file of items; goes on where an equal run was stopped.

    The file has a line for each frame from the first prompt on (with `both`: from `job.start` on).
    What a stopped run needs to go on exactly lies beside `out` until the run is complete. Returns
    False when the file was complete already.

    Raises:
        PromptError, SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    firsts, header = job.firsts(), job.header()
    with journal.append(out, header, force=force) as forward, checkpoint.kept(out) as aside:
        if forward.complete:
            return False
        if force:
            aside.clear()
        before = _run_backward(job, firsts, aside, header, progress) if job.both else {}
        first = job.start if job.both else min(firsts.values())
        _Pass(job, firsts, job.on_frames(), aside.state, progress).follow(
            forward,
            lambda after: video.frames(job.clip, start=max(first, after + 1), stop=job.stop),
            lambda item: _joined(item, before),
        )
        forward.finish()
        aside.clear()
    return True


def _run_backward(
    job: Job,
    firsts: Mapping[int, int],
    aside: checkpoint.Aside,
    header: journal.Header,
    progress: Callable[[Item], None],
) -> Mapping[int, Item]:
    """Follow each object backward from its start, into a file aside; frame -> item."""
    on: dict[int, list[Prompt]] = defaultdict(list)
    for prompt in job.prompts.prompts:
        if firsts.get(prompt.object_id) == prompt.frame:
            on[prompt.frame].append(prompt)
    top = max(firsts.values())
    with journal.append(aside.backward_items, header) as backward:
        if not backward.complete:
            _Pass(job, firsts, on, aside.backward_state, progress, backward=True).follow(
                backward,
                lambda after: video.backward(job.clip, top if after < 0 else after - 1, job.start),
                lambda item: item,
            )
            backward.finish()
    return checkpoint.ByFrame(aside.backward_items)


def _joined(item: Item, before: Mapping[int, Item]) -> Item:
    """A frame of the forward pass, with the objects that only start later put in."""
    earlier = before.get(item.frame)
    if earlier is None:
        return item
    objects = (*item.objects, *earlier.objects)
    return dataclasses.replace(item, objects=objects, lost=(*item.lost, *earlier.lost))


@dataclass
class _Pass:
    """One direction over a clip; its state is kept in the file `saved` every so many frames."""

    job: Job
    firsts: Mapping[int, int]
    on: Mapping[int, list[Prompt]]
    saved: Path
    progress: Callable[[Item], None]
    backward: bool = False

    def follow(
        self,
        out: journal.Appender,
        frames_after: Callable[[int], Iterator[Frame]],
        finished: Callable[[Item], Item],
    ) -> None:
        session = self.job.engine.begin(self.job.lessons())
        if (state := checkpoint.read(self.saved, out)) is not None:
            session.restore(state)
        else:
            out.rewind_all()
        for frame in frames_after(-1 if out.last is None else out.last.frame):
            found = session.step(frame, self.on.get(frame.index, ()))
            item = finished(self._item(frame, found))
            out.write(item)
            self.progress(item)
            if out.count % CHECKPOINT_EVERY == 0:
                checkpoint.write(self.saved, session.state(), out)

    def _item(self, frame: Frame, found: sv.Detections) -> Item:
        """The item of one step; at its own first frame an object belongs to the forward pass."""
        ids = np.zeros(0, int) if found.tracker_id is None else found.tracker_id
        on_its_way = {one for one, first in self.firsts.items() if self._past(frame, first)}
        mine = np.array([int(one) in on_its_way for one in ids], bool)
        labels = self.job.prompts.labels
        kept = cast("sv.Detections", found[mine])
        item = items.from_detections(frame, kept, labels, self.job.source)
        return dataclasses.replace(item, lost=tuple(sorted(on_its_way - set(ids.tolist()))))

    def _past(self, frame: Frame, first: int) -> bool:
        return frame.index < first if self.backward else frame.index >= first
