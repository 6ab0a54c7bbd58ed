"""Compare appearance with the prompted frames: learned feature maps, and templates.

A small network computes 32 more feature maps from those of the backbone and from the picture. It
was trained so that a ridge classifier, fitted in closed form on one view of an object, finds that
object in other views and nothing where it is absent: the loss is propagated back through the fit,
as in Bertinetto et al., "Meta-learning with Differentiable Closed-form Solvers", ICLR 2019, and
Bhat et al., "Learning What to Learn for Video Object Segmentation", ECCV 2020. How it was trained,
and how far to trust it: `models/light-apart.md`.

The templates are the mean features of the whole object. The cosine similarity to them tells
whether an object, tracked or found by a search, is still the same.
"""

from concurrent.futures import Executor

import cv2
import numpy as np
import numpy.typing as npt

from annotate.backbone import (
    GROUP_CHANNELS,
    GROUP_WEIGHTS,
    CropFeatures,
    Map,
    crop_features,
    resize_chw,
    run_model,
    run_parallel,
)
from annotate.items.records import Mask, Picture, State
from annotate.propagators.light.crops import (
    AUGMENTATIONS,
    CropWindow,
    Effort,
    augmented_crops,
    background_crops,
    window_around_mask,
)
from annotate.propagators.light.motion import center_prior, location_prior
from annotate.propagators.light.redetect import Redetector
from annotate.propagators.light.refine import guided_filter
from annotate.propagators.light.ridge_classifier import RidgeClassifier
from annotate.propagators.light.target import Observation, TargetState, WindowFeatures

DISCRIMINATIVE_MODEL = "light-apart.onnx"
DISCRIMINATIVE_WIDTH, DISCRIMINATIVE_WEIGHT = 32, 1.0  # its maps, and the weight of their group
DISCRIMINATIVE_LOGIT_WEIGHT = 2.0  # of the discriminative score; the ridge score has 4
BACKGROUND_WEIGHT = 0.5  # of all background crops together, relative to the augmented crops
REJECTED_WEIGHT = 1.5  # of what an outside point lies on, relative to one view of the object
EXTRA_TEMPLATES = 3  # templates of the object in another light, beside that of the prompts


def discriminative_features(features: CropFeatures) -> Map:
    """Compute the learned maps, (H / 4, W / 4, 32), of a crop of (H, W), multiples of 16."""
    half = features.crop.shape[1] // 2, features.crop.shape[0] // 2
    [maps] = run_model(
        DISCRIMINATIVE_MODEL, {"crop": resize_chw(features.crop, half), **features.maps._asdict()}
    )
    return np.asarray(maps.transpose(1, 2, 0))


class DiscriminativeClassifier:
    """A ridge classifier on the learned maps; fitted to prompted frames only, it cannot drift."""

    def __init__(self) -> None:
        self._ridge = RidgeClassifier(
            0, (*GROUP_CHANNELS, DISCRIMINATIVE_WIDTH), (*GROUP_WEIGHTS, DISCRIMINATIVE_WEIGHT)
        )

    def add_samples(self, features: CropFeatures, inside: Map, weight: Map) -> None:
        """Add a view of the object; `inside` and `weight` are (H / 4, W / 4), 0..1."""
        expanded = self._expand(features)
        self._ridge.add_samples(expanded, inside.ravel(), weight.ravel(), prompted=True)

    def add_negatives(self, features: CropFeatures, outside: Map, share: float) -> None:
        """Add a view without the object, with `share` of the weight of one view."""
        self._ridge.add_negatives(self._expand(features), outside.ravel(), share)

    def solve(self) -> None:
        """Fit the classifier to all views."""
        self._ridge.solve()

    def scores(self, features: CropFeatures) -> Map:
        """Score cells, (H / 4, W / 4): about +1 on the object and -1 elsewhere."""
        groups = features.grid, discriminative_features(features)
        scores = self._ridge.scores_of_maps(*(each.reshape(-1, each.shape[2]) for each in groups))
        return scores.reshape(features.grid.shape[:2])

    def state(self) -> State:
        """Return the state of the classifier."""
        return self._ridge.state("apart.")

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        self._ridge.restore(state, "apart.")

    def _expand(self, features: CropFeatures) -> Map:
        return self._ridge.expand(
            np.concatenate([features.grid, discriminative_features(features)], axis=2)
        )


class AppearanceTemplates:
    """Templates of one object: the sum of its prompts, then its latest other appearances."""

    def __init__(self) -> None:
        self.templates: npt.NDArray[np.float64] = np.zeros(
            (1 + EXTRA_TEMPLATES, sum(GROUP_CHANNELS))
        )

    def add_prompt(self, expanded: Map, mask: Mask) -> None:
        """Add a prompted view to the first template."""
        self.templates[0] += _mean_features(expanded, mask)

    def add_template(self, expanded: Map, mask: Mask) -> None:
        """Add a template of another appearance; the oldest is dropped."""
        self.templates[2:] = self.templates[1:-1].copy()
        self.templates[1] = _mean_features(expanded, mask)

    def similarity(self, expanded: Map, mask: Mask) -> float:
        """Compute the cosine similarity, -1..1, of a mask to the nearest template."""
        features = _mean_features(expanded, mask)
        lengths = np.linalg.norm(self.templates, axis=1) * np.linalg.norm(features)
        return float((self.templates @ features / np.maximum(lengths, 1e-9)).max())


class ObjectModel:
    """All that is known of the appearance of one object: classifiers, and templates."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self.ridge = RidgeClassifier(effort.random_features)
        self.discriminative = DiscriminativeClassifier()
        self.templates = AppearanceTemplates()
        self.redetector = Redetector()

    @property
    def prompts(self) -> int:
        """How many prompts it was fitted to."""
        return self.ridge.prompted_views // len(AUGMENTATIONS)

    def fit(self, picture: Picture, soft: Map) -> None:
        """Fit to a prompted picture: `soft`, (H, W) in 0..1, is the object, the rest is not."""
        mask = soft > 0.5
        for crop, inside, weight in augmented_crops(picture, soft, self._effort):
            view = crop_features(crop)
            expanded = self.ridge.expand(view.grid)
            self.discriminative.add_samples(view, inside, weight)
            self.ridge.add_samples(expanded, inside.ravel(), weight.ravel(), prompted=True)
            self.templates.add_prompt(expanded, (inside > 0.5) & (weight > 0.5))
        background = list(background_crops(picture, mask, self._effort))
        share = BACKGROUND_WEIGHT * len(AUGMENTATIONS) / max(len(background), 1)
        for crop, outside in background:
            view = crop_features(crop)
            self.discriminative.add_negatives(view, outside, share)
            self.ridge.add_negatives(self.ridge.expand(view.grid), outside.ravel(), share)
        self.ridge.solve()
        self.discriminative.solve()
        self.redetector.fit(picture, soft)

    def reject(self, picture: Picture, mask: Mask, size_wh: tuple[float, float]) -> None:
        """Learn that `mask`, (H, W), is not the object, and forget what tracking has taught.

        `size_wh` is the usual size of the object, in pixels.
        """
        window = window_around_mask(mask)
        view = crop_features(window.crop(picture, self._effort.crop_side))
        inside = window.crop(mask.astype(np.float32), self._effort.grid, replicate_border=False)
        outside = (inside > 0.5).astype(np.float32)
        self.ridge.forget_tracked()
        self.discriminative.add_negatives(view, outside, REJECTED_WEIGHT)
        self.ridge.add_negatives(self.ridge.expand(view.grid), outside.ravel(), REJECTED_WEIGHT)
        self.ridge.solve()
        self.discriminative.solve()
        self.redetector.reject(picture, mask, size_wh)

    def window_features(
        self, picture: Picture, window: CropWindow, pool: Executor | None = None
    ) -> WindowFeatures:
        """Compute what the classifiers take of a window; `pool` may run parts of the work."""
        features = crop_features(window.crop(picture, self._effort.crop_side))
        discriminative_score, expanded = run_parallel(
            pool,
            lambda: self.discriminative.scores(features),
            lambda: self.ridge.expand(features.grid),
        )
        in_picture = window.in_picture((picture.shape[1], picture.shape[0]), self._effort.grid)
        return WindowFeatures(features, expanded, discriminative_score, in_picture)

    def classify(
        self,
        window_features: WindowFeatures,
        window: CropWindow,
        prior: Map | None,
        target: TargetState,
    ) -> Observation:
        """Combine the scores and a location prior into logits, and sharpen the soft mask.

        The scores that rest on prompted frames only count as far as the prompted appearance holds.
        """
        features, expanded, discriminative_score, inside = window_features
        size = self._effort.crop_side
        scores = self.ridge.scores(expanded).reshape(*inside.shape, 2)
        score, prompt_score = scores[..., 0], scores[..., 1]
        logit = 4 * score + target.appearance_confidence * (
            np.minimum(prompt_score, 0) + DISCRIMINATIVE_LOGIT_WEIGHT * discriminative_score
        )
        if prior is None:
            logit += center_prior(self._effort.grid)
        else:
            reach = np.sqrt(target.area) * self._effort.grid / window.side
            logit += location_prior(prior, self._effort.grid, max(float(reach), 2))
        soft = 1 / (1 + np.exp(-np.maximum(np.where(inside, logit, -8), -60)))
        soft = cv2.resize(soft.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        soft = guided_filter(features.crop, soft, size // 32)
        return Observation(
            features,
            window,
            soft,
            score,
            prompt_score,
            discriminative_score,
            expanded,
            inside,
            prior,
        )

    def state(self) -> State:
        """Return the classifiers and the templates as arrays."""
        return {
            **self.ridge.state(),
            **self.discriminative.state(),
            **self.redetector.state(),
            "looks": self.templates.templates.copy(),
        }

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        self.ridge.restore(state)
        self.discriminative.restore(state)
        self.redetector.restore(state)
        self.templates.templates = state["looks"].copy()


def _mean_features(expanded: Map, mask: Mask) -> npt.NDArray[np.float64]:
    """Average the backbone features, which come first in `expanded`, inside `mask`."""
    inside = expanded[mask.ravel(), : sum(GROUP_CHANNELS)]
    return inside.mean(axis=0, dtype=np.float64) if len(inside) else np.zeros(sum(GROUP_CHANNELS))
