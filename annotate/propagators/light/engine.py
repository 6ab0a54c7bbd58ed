"""The `light` propagator: track objects on any machine, without a GPU or a download.

Each object has its own `Tracker`: ridge classifiers, fitted in closed form on features of a small
ImageNet network that ships with the package. Where objects overlap, each pixel goes to the object
with the higher probability.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import supervision as sv

from annotate.backbone import Map
from annotate.items import masks
from annotate.items.detections import tracked_detections
from annotate.items.records import Frame, Mask, Picture, Prompt, Rle, State
from annotate.propagators.job import PromptedFrame
from annotate.propagators.light.crops import QUICK, THOROUGH, Effort
from annotate.propagators.light.initial_mask import (
    inside_outside_points,
    mask_without_points,
    quick_mask_from_points,
    soft_mask_from_prompt,
)
from annotate.propagators.light.motion import GreyPicture
from annotate.propagators.light.target import Observation
from annotate.propagators.light.tracker import Tracker


@dataclass(frozen=True)
class LightPropagator:
    """The embedded engine: no download, no GPU.

    `fast` takes less than half the time and is a little less accurate. `threads` is how many
    objects are tracked at a time, or how many threads share one; it does not change the masks.
    """

    fast: bool = False
    threads: int = 2
    forgets: ClassVar[bool] = True
    previews: ClassVar[bool] = True
    quick_previews: ClassVar[bool] = True

    def begin(self, prompted_frames: Iterable[PromptedFrame]) -> LightSession:
        """Open a pass, with every object fitted to all its prompts."""
        session = LightSession(QUICK if self.fast else THOROUGH, self.threads)
        for prompted in prompted_frames:
            session.add_prompts(prompted.frame.image, prompted.prompts)
        return session


class LightSession:
    """One pass over a clip."""

    def __init__(self, effort: Effort, threads: int) -> None:
        self._effort = effort
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._trackers: dict[int, Tracker] = {}
        self._previous_grey: GreyPicture | None = None
        self._initial_masks: dict[tuple[int, int], Rle] = {}  # by frame and object

    def add_prompts(self, picture: Picture, prompts: Sequence[Prompt]) -> None:
        """Fit each object to its prompt on this picture.

        A prompt of outside points alone corrects the mask that is tracked there: `step` uses it.
        """
        for prompt in prompts:
            if prompt.is_positive:
                mask = self._fit(picture, prompt, prompts)
                self._initial_masks[prompt.frame, prompt.object_id] = masks.encode(mask)

    def _fit(self, picture: Picture, prompt: Prompt, prompts: Sequence[Prompt]) -> Mask:
        """Fit an object to its prompt on this picture, one of `prompts`; returns its first mask."""
        with _single_threaded():
            soft = soft_mask_from_prompt(picture, prompt, _others(prompt, prompts))
            tracker = self._trackers.setdefault(prompt.object_id, Tracker(self._effort))
            tracker.fit(picture, soft)
            return soft > 0.5

    def step(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Track every object that has started onto this frame."""
        picture = frame.image
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        corrections = [prompt for prompt in prompts if not prompt.is_positive]
        prompts = [prompt for prompt in prompts if prompt.is_positive]
        prompted = {prompt.object_id for prompt in prompts}
        initial_masks = {
            prompt.object_id: self._initial_mask(picture, prompt, prompts) for prompt in prompts
        }
        with _single_threaded():
            initial_masks |= self._refine_clicked(picture, grey, prompts)
            boxed = {prompt.object_id for prompt in prompts if prompt.box is not None}
            results = self._start_prompted(picture, initial_masks, boxed)
            tracked = {
                object_id: tracker
                for object_id, tracker in sorted(self._trackers.items())
                if tracker.started and object_id not in prompted
            }
            prompted_masks = {object_id: mask for object_id, (mask, _) in results.items()}
            results |= self._track(tracked, picture, grey, prompted_masks)
            self._correct(picture, corrections, results)
        self._previous_grey = grey
        return _to_detections(dict(sorted(results.items())))

    def preview(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Return the masks that `step` would give these prompts; nothing is fitted to them.

        `step` may refine the mask of a click further, by other prompts of its object.
        """
        if not all(prompt.is_positive for prompt in prompts):
            before = self.state()
            try:
                return self.step(frame, prompts)
            finally:
                self.restore(before)
        with _single_threaded():
            return _to_detections(
                {
                    each.object_id: (
                        soft_mask_from_prompt(frame.image, each, _others(each, prompts)) > 0.5,
                        0.0,
                    )
                    for each in prompts
                }
            )

    def quick_preview(self, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
        """Return rough masks of clicked objects at once; `preview` takes up to 30 times as long."""
        with _single_threaded():
            return _to_detections(
                {
                    each.object_id: (
                        quick_mask_from_points(frame.image, each, _others(each, prompts)),
                        0.0,
                    )
                    for each in prompts
                    if each.point_labels.any() and each.mask is None and each.box is None
                }
            )

    def forget(self, object_ids: Iterable[int]) -> None:
        """Stop tracking objects until their next prompts; what their prompts taught is kept."""
        for object_id in object_ids:
            if object_id in self._trackers:
                self._trackers[object_id].stop()

    def state(self) -> State:
        """Return the previous frame and the state of every tracker."""
        state: dict[str, npt.NDArray[Any]] = {}
        if self._previous_grey is not None:
            state["before"] = self._previous_grey.copy()
        for object_id, tracker in self._trackers.items():
            state |= {f"{object_id}.{key}": array for key, array in tracker.state().items()}
        return state

    def restore(self, state: State) -> None:
        """Resume the pass where `state` was taken."""
        self._previous_grey = state["before"].copy() if "before" in state else None
        self._trackers = {}
        for prefix in sorted({key.partition(".")[0] for key in state if "." in key}, key=int):
            own = {
                key.partition(".")[2]: state[key] for key in state if key.startswith(f"{prefix}.")
            }
            tracker = self._trackers[int(prefix)] = Tracker(self._effort)
            tracker.restore(own)

    def _initial_mask(self, picture: Picture, prompt: Prompt, prompts: Sequence[Prompt]) -> Mask:
        """Return the first mask of a prompt, to which its object is fitted if it was not before."""
        mask = self._initial_masks.get((prompt.frame, prompt.object_id))
        return self._fit(picture, prompt, prompts) if mask is None else masks.decode(mask)

    def _refine_clicked(
        self, picture: Picture, grey: GreyPicture, prompts: Sequence[Prompt]
    ) -> dict[int, Mask]:
        """Refine the masks of clicks by what is known of their objects: object -> mask."""
        previous_grey = grey if self._previous_grey is None else self._previous_grey
        refined = {}
        for prompt in prompts:
            if prompt.mask is None and prompt.box is None:
                others = _others(prompt, prompts)
                refined[prompt.object_id] = self._trackers[prompt.object_id].refine_prompt(
                    picture,
                    soft_mask_from_prompt(picture, prompt, others),
                    inside_outside_points(prompt, others),
                    (grey, previous_grey),
                )
        return refined

    def _start_prompted(
        self, picture: Picture, initial_masks: Mapping[int, Mask], boxed: Collection[int]
    ) -> dict[int, tuple[Mask, float]]:
        """Start the prompted objects at their initial masks: object -> mask, mean score.

        Those of `boxed` have a box, which says how large they are.
        """
        return {
            object_id: (
                mask,
                self._trackers[object_id].start(picture, mask, sure=object_id in boxed),
            )
            for object_id, mask in initial_masks.items()
            if mask.any()
        }

    def _track(
        self,
        trackers: Mapping[int, Tracker],
        picture: Picture,
        grey: GreyPicture,
        prompted_masks: Mapping[int, Mask],
    ) -> dict[int, tuple[Mask, float]]:
        """Track the other objects: object -> mask, mean score; without those that are lost."""
        previous_grey = grey if self._previous_grey is None else self._previous_grey
        size_wh = (picture.shape[1], picture.shape[0])
        pool = self._pool if len(trackers) == 1 else None
        observations = self._map_objects(
            lambda object_id: trackers[object_id].observe(picture, grey, previous_grey, pool),
            list(trackers),
        )
        occupied = _pixels_of_others(observations, prompted_masks, size_wh)
        results = self._map_objects(
            lambda object_id: trackers[object_id].update(
                observations[object_id], occupied.get(object_id), size_wh
            ),
            list(trackers),
        )
        visible = {key: (mask, fit) for key, (mask, fit) in results.items() if mask is not None}
        return _resolve_overlaps(visible)

    def _correct(
        self, picture: Picture, prompts: Sequence[Prompt], results: dict[int, tuple[Mask, float]]
    ) -> None:
        """Remove what outside points lie on from the tracked masks, and learn from that.

        An object of which nothing remains is searched for elsewhere on the same picture.
        """
        for prompt in prompts:
            if prompt.object_id not in results:  # lost here: there is nothing to correct
                continue
            tracker, (mask, fit) = self._trackers[prompt.object_id], results.pop(prompt.object_id)
            remaining = mask_without_points(picture, mask, prompt.points_xy)
            if (mask & ~remaining).any():
                tracker.reject(picture, mask & ~remaining)
                if remaining.any():
                    fit = tracker.start(picture, remaining)
                else:
                    found, fit = tracker.search_elsewhere(picture, prompt.points_xy)
                    remaining = remaining if found is None else found
            if remaining.any():
                results[prompt.object_id] = remaining, fit

    def _map_objects(
        self, function: Callable[[int], Any], object_ids: Sequence[int]
    ) -> dict[int, Any]:
        """Call `function` for every object, in parallel if there is a pool."""
        if self._pool is None or len(object_ids) < 2:
            return {object_id: function(object_id) for object_id in object_ids}
        return dict(zip(object_ids, self._pool.map(function, object_ids), strict=True))


def _others(prompt: Prompt, prompts: Sequence[Prompt]) -> list[Prompt]:
    return [each for each in prompts if each is not prompt]


def _pixels_of_others(
    observations: Mapping[int, Observation],
    prompted_masks: Mapping[int, Mask],
    size_wh: tuple[int, int],
) -> dict[int, Map]:
    """Give each pixel to its most probable object; a prompted mask always wins.

    Returns, for each observed object with a pixel of another one in its window, those pixels,
    (size, size) in 0..1.
    """
    if len(observations) + len(prompted_masks) < 2:
        return {}
    best = np.full(size_wh[::-1], 0.5, np.float32)
    owner = np.full(size_wh[::-1], -1, np.int64)
    for object_id, observation in observations.items():
        left, top, part = observation.window.paste(observation.soft, size_wh)
        area = np.s_[top : top + part.shape[0], left : left + part.shape[1]]
        wins = part > best[area]
        best[area][wins] = part[wins]
        owner[area][wins] = object_id
    for object_id, mask in prompted_masks.items():
        owner[mask] = object_id
    taken = {}
    for object_id, observation in observations.items():
        window, size = observation.window, len(observation.soft)
        near = owner[window.slices(margin=3)]
        if ((near != object_id) & (near >= 0)).any():
            others = ((owner != object_id) & (owner >= 0)).astype(np.float32)
            taken[object_id] = window.crop(others, size, replicate_border=False)
    return taken


def _resolve_overlaps(results: Mapping[int, tuple[Mask, float]]) -> dict[int, tuple[Mask, float]]:
    """Remove from each mask the pixels of masks with a higher score: refined masks may overlap."""
    disjoint = {}
    claimed: Mask = np.array(False)
    for object_id, (mask, fit) in sorted(results.items(), key=lambda result: -result[1][1]):
        disjoint[object_id] = mask & ~claimed, fit
        claimed = claimed | mask
    return disjoint


def _to_detections(results: Mapping[int, tuple[Mask, float]]) -> sv.Detections:
    return tracked_detections(
        (object_id, mask, min(max((1 + float(fit)) / 2, 0.0), 1.0))
        for object_id, (mask, fit) in results.items()
    )


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Run BLAS and OpenCV on one thread each, since objects are tracked in parallel."""
    from threadpoolctl import threadpool_limits

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        cv2.setNumThreads(before)
