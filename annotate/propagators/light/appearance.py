"""Compare appearance with the prompted frames: learned maps and templates.

A small network makes 32 more maps from those of the backbone and from the picture. It was trained
so that a classifier, fitted in closed form on one view of an object, finds that object in other
views and nothing where it is absent: the error is propagated back through the fit, as in Bertinetto
et al., "Meta-learning with Differentiable Closed-form Solvers", ICLR 2019, and Bhat et al.,
"Learning What to Learn for Video Object Segmentation", ECCV 2020. How it was trained, and how far
to trust it: `models/light-apart.md`.

The templates are mean features of the whole object; the cosine similarity to them tells whether a
tracked or found object is still the same.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.backbone import (
    GROUP_CHANNELS,
    GROUP_WEIGHTS,
    CropFeatures,
    Map,
    resize_chw,
    run_model,
)
from annotate.items.records import Mask
from annotate.propagators.light.ridge_classifier import RidgeClassifier

DISCRIMINATIVE_MODEL = "light-apart.onnx"
DISCRIMINATIVE_WIDTH, DISCRIMINATIVE_WEIGHT = (
    32,
    1.0,
)  # maps it makes, and what they weigh beside the other groups


def discriminative_features(features: CropFeatures) -> Map:
    """A crop of (H, W), both multiples of 16, as seen -> (H / 4, W / 4, 32)."""
    half = features.crop.shape[1] // 2, features.crop.shape[0] // 2
    [found] = run_model(
        DISCRIMINATIVE_MODEL, {"crop": resize_chw(features.crop, half), **features.maps._asdict()}
    )
    return np.asarray(found.transpose(1, 2, 0))


class DiscriminativeClassifier:
    """A classifier that learns from what a person showed only, and so can't drift."""

    def __init__(self) -> None:
        self._ridge = RidgeClassifier(
            0, (*GROUP_CHANNELS, DISCRIMINATIVE_WIDTH), (*GROUP_WEIGHTS, DISCRIMINATIVE_WEIGHT)
        )

    def add_samples(self, features: CropFeatures, inside: Map, weight: Map) -> None:
        """Add a view, of which `inside`, (H / 4, W / 4), is the object."""
        expanded = self._expand(features)
        self._ridge.add_samples(expanded, inside.ravel(), weight.ravel(), prompted=True)

    def add_negatives(self, features: CropFeatures, outside: Map, share: float) -> None:
        """Add a view of which nothing is the object, as `share` of one."""
        self._ridge.add_negatives(self._expand(features), outside.ravel(), share)

    def solve(self) -> None:
        """Fit to all that was shown."""
        self._ridge.solve()

    def scores(self, features: CropFeatures) -> Map:
        """About +1 on the object and -1 elsewhere, (H / 4, W / 4)."""
        scores = self._ridge.scores(self._expand(features))
        return scores[:, 0].reshape(features.grid.shape[:2])

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that was learnt."""
        return self._ridge.state("apart.")

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take up what `state` gave."""
        self._ridge.restore(state, "apart.")

    def _expand(self, features: CropFeatures) -> Map:
        return self._ridge.expand(
            np.concatenate([features.grid, discriminative_features(features)], axis=2)
        )


EXTRA_TEMPLATES = 3  # looks in another light that are remembered beside what was shown


class AppearanceTemplates:
    """The looks of one object: what a person showed, as a sum, and how it looked after flashes."""

    def __init__(self) -> None:
        self.templates: npt.NDArray[np.float64] = np.zeros(
            (1 + EXTRA_TEMPLATES, sum(GROUP_CHANNELS))
        )

    def add_prompt(self, expanded: Map, mask: Mask) -> None:
        """Add what a person showed."""
        self.templates[0] += _mean_features(expanded, mask)

    def add_template(self, expanded: Map, mask: Mask) -> None:
        """Remember another look; the oldest is forgotten."""
        self.templates[2:] = self.templates[1:-1].copy()
        self.templates[1] = _mean_features(expanded, mask)

    def similarity(self, expanded: Map, mask: Mask) -> float:
        """The cosine, -1..1, of the mean features there to those of the look most like it."""
        here = _mean_features(expanded, mask)
        lengths = np.linalg.norm(self.templates, axis=1) * np.linalg.norm(here)
        return float((self.templates @ here / np.maximum(lengths, 1e-9)).max())


def _mean_features(expanded: Map, mask: Mask) -> npt.NDArray[np.float64]:
    """The mean there of the features themselves, which come first."""
    inside = expanded[mask.ravel(), : sum(GROUP_CHANNELS)]
    return inside.mean(axis=0, dtype=np.float64) if len(inside) else np.zeros(sum(GROUP_CHANNELS))
