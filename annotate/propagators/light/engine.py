"""The `light` propagator: track objects on any machine, without a GPU or a download.

Each object has its own `Tracker`: features of a small ImageNet network that ships with the package,
and classifiers fitted on them in closed form. Objects that meet compete for pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv

from annotate.backbone import Map
from annotate.items import masks
from annotate.items.records import Frame, Mask, Picture, Prompt, Rle
from annotate.propagators.job import PromptedFrame
from annotate.propagators.light.crops import QUICK, THOROUGH, Effort
from annotate.propagators.light.initial_mask import soft_mask_from_prompt
from annotate.propagators.light.target import Observation
from annotate.propagators.light.tracker import Tracker


@dataclass(frozen=True)
class LightPropagator:
    """The embedded engine: no download, no GPU.

    `fast` spends less than half the time and follows a little less well. `threads` is how many
    objects are followed at a time, or help with one; it changes nothing but the time.
    """

    fast: bool = False
    threads: int = 2

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> LightSession:
        """Open a pass, having learnt from all prompts of every object."""
        session = LightSession(QUICK if self.fast else THOROUGH, self.threads)
        for lesson in prompted_frames:
            session.add_prompts(lesson.frame.image, lesson.prompts)
        return session


class LightSession:
    """One pass over a clip."""

    def __init__(self, effort: Effort, threads: int) -> None:
        self._effort = effort
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._trackers: dict[int, Tracker] = {}
        self._previous_grey: npt.NDArray[np.uint8] | None = None
        self._initial_masks: dict[tuple[int, int], Rle] = {}  # of frame, object

    def add_prompts(self, picture: Picture, prompts: Sequence[Prompt]) -> None:
        """Teach each object its prompt on this picture."""
        with _single_threaded():
            for prompt in prompts:
                soft = soft_mask_from_prompt(
                    picture, prompt, [each for each in prompts if each is not prompt]
                )
                self._initial_masks[prompt.frame, prompt.object_id] = masks.encode(soft > 0.5)
                tracker = self._trackers.setdefault(prompt.object_id, Tracker(self._effort))
                tracker.fit(picture, soft)

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Follow every object that has started onto this frame."""
        picture = frame.image
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        prompted = {prompt.object_id for prompt in prompts}
        unknown = [
            each for each in prompts if (each.frame, each.object_id) not in self._initial_masks
        ]
        if unknown:
            self.add_prompts(picture, unknown)
        with _single_threaded():
            found = self._start_prompted(picture, prompts)
            followed = {
                of: tracker
                for of, tracker in sorted(self._trackers.items())
                if tracker.started and of not in prompted
            }
            found |= self._track(followed, picture, grey, {of: m for of, (m, _) in found.items()})
        self._previous_grey = grey
        return _to_detections(dict(sorted(found.items())))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that the pass remembers."""
        kept = {} if self._previous_grey is None else {"before": self._previous_grey.copy()}
        for of, tracker in self._trackers.items():
            kept |= {f"{of}.{name}": array for name, array in tracker.state().items()}
        return kept

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up the pass where `state` was taken."""
        self._previous_grey = state["before"].copy() if "before" in state else None
        self._trackers = {}
        for of in sorted({int(key.partition(".")[0]) for key in state if "." in key}):
            mine = {key.partition(".")[2]: state[key] for key in state if key.startswith(f"{of}.")}
            self._trackers[of] = Tracker(self._effort)
            self._trackers[of].restore(mine)

    def _start_prompted(
        self, picture: Picture, prompts: Sequence[Prompt]
    ) -> dict[int, tuple[Mask, float]]:
        found = {}
        for prompt in prompts:
            mask = masks.decode(self._initial_masks[prompt.frame, prompt.object_id])
            if mask.any():
                fit = self._trackers[prompt.object_id].start(picture, mask)
                found[prompt.object_id] = mask, fit
        return found

    def _track(
        self,
        trackers: Mapping[int, Tracker],
        picture: Picture,
        grey: npt.NDArray[np.uint8],
        prompted_masks: Mapping[int, Mask],
    ) -> dict[int, tuple[Mask, float]]:
        before = grey if self._previous_grey is None else self._previous_grey
        size_wh = (picture.shape[1], picture.shape[0])
        helper = self._pool if len(trackers) == 1 else None
        guesses = self._map_objects(
            lambda of: trackers[of].observe(picture, grey, before, helper), list(trackers)
        )
        taken = _pixels_of_others(guesses, prompted_masks, size_wh)
        settled = self._map_objects(
            lambda of: trackers[of].update(guesses[of], taken.get(of), size_wh), list(trackers)
        )
        return _resolve_overlaps(
            {of: (m, fit) for of, (m, fit) in settled.items() if m is not None}
        )

    def _map_objects(
        self, function: Callable[[int], Any], object_ids: Sequence[int]
    ) -> dict[int, Any]:
        """`do` for every object, several at a time."""
        if self._pool is None or len(object_ids) < 2:
            return {of: function(of) for of in object_ids}
        return dict(zip(object_ids, self._pool.map(function, object_ids), strict=True))


def _pixels_of_others(
    observations: Mapping[int, Observation | None],
    prompted_masks: Mapping[int, Mask],
    size_wh: tuple[int, int],
) -> dict[int, Map]:
    """For each object, what of its window belongs to another one."""
    if len(observations) + len(prompted_masks) < 2:
        return {}
    best = np.full(size_wh[::-1], 0.5, np.float32)
    owner = np.full(size_wh[::-1], -1, np.int64)
    for of, guess in observations.items():
        if guess is None:
            continue
        left, top, part = guess.window.paste(guess.soft, size_wh)
        area = np.s_[top : top + part.shape[0], left : left + part.shape[1]]
        wins = part > best[area]
        best[area][wins] = part[wins]
        owner[area][wins] = of
    for of, mask in prompted_masks.items():
        owner[mask] = of
    return {
        of: guess.window.crop(
            ((owner != of) & (owner >= 0)).astype(np.float32),
            len(guess.soft),
            replicate_border=False,
        )
        for of, guess in observations.items()
        if guess is not None
    }


def _resolve_overlaps(results: Mapping[int, tuple[Mask, float]]) -> dict[int, tuple[Mask, float]]:
    """Each mask without what one that fits better has of it; finer masks may have met anew."""
    apart = {}
    claimed: Mask = np.array(False)
    for of, (mask, fit) in sorted(results.items(), key=lambda each: -each[1][1]):
        apart[of] = mask & ~claimed, fit
        claimed = claimed | mask
    return apart


def _to_detections(results: Mapping[int, tuple[Mask, float]]) -> sv.Detections:
    boxed = {of: (masks.box(mask), mask, fit) for of, (mask, fit) in results.items()}
    boxed = {of: each for of, each in boxed.items() if each[0] is not None}
    if not boxed:
        return sv.Detections.empty()
    boxes, pictures, fits = zip(*boxed.values(), strict=True)
    return sv.Detections(
        xyxy=np.array(boxes, np.float64),
        mask=np.stack(pictures),
        confidence=np.clip((1 + np.array(fits, np.float64)) / 2, 0, 1),
        tracker_id=np.array(list(boxed), np.int64),
    )


@contextmanager
def _single_threaded() -> Any:
    """BLAS and OpenCV on one thread each: objects are what runs in parallel."""
    from threadpoolctl import threadpool_limits

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)
