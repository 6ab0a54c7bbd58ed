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
from annotate.items.records import Mask, State
from annotate.propagators.light.ridge_classifier import RidgeClassifier

DISCRIMINATIVE_MODEL = "light-apart.onnx"
DISCRIMINATIVE_WIDTH, DISCRIMINATIVE_WEIGHT = 32, 1.0  # its maps, and the weight of their group
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


def _mean_features(expanded: Map, mask: Mask) -> npt.NDArray[np.float64]:
    """Average the backbone features, which come first in `expanded`, inside `mask`."""
    inside = expanded[mask.ravel(), : sum(GROUP_CHANNELS)]
    return inside.mean(axis=0, dtype=np.float64) if len(inside) else np.zeros(sum(GROUP_CHANNELS))
