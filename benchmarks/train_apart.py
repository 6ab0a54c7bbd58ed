"""Train the feature maps of `annotate.propagators.light.appearance` and write them as ONNX.

Every two minutes, and at the end, the IoU on held-out clips is printed.

    python -m venv trained && trained/bin/pip install -e . torch onnx==1.22.0
    trained/bin/python benchmarks/train_apart.py views models/light-apart.onnx --minutes 20

The views are by `apart_samples.py`. In an episode a ridge classifier is fitted in closed form to
one view of an object, as in `annotate.propagators.light.ridge_classifier`, on the maps of the
backbone, on colour, and on the maps of the network. The loss compares its scores on other views of
the same clip, with and without the object, and is propagated back through the fit (Bertinetto et
al., "Meta-learning with Differentiable Closed-form Solvers", ICLR 2019; Bhat et al., "Learning What
to Learn for Video Object Segmentation", ECCV 2020).
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from train_refine import (
    bfloat16_autocast,
    conv,
    export_onnx,
    optimize,
    parse_arguments,
    prefetch,
    split_by_clip,
)

from annotate.backbone import GROUP_CHANNELS, GROUP_WEIGHTS, colour_features, resize_chw
from annotate.propagators.light.appearance import DISCRIMINATIVE_WEIGHT, DISCRIMINATIVE_WIDTH
from annotate.propagators.light.ridge_classifier import RidgeClassifier

EPISODES_PER_STEP, QUERY_VIEWS = 6, 4  # episodes in a step; scored views in an episode
CLIPS_PER_HELD_OUT = 10  # one of ten clips is held out
VALIDATION_STEPS = 6
MIN_CELLS = 40  # cells of an object in a view that is used
MAX_FEATURE = 3.0  # features are clipped to this, in units of their group's weight
MAPS = {"s4": (24, 48, 64), "s8": (40, 24, 32), "s16": (112, 12, 16)}
INPUTS = {"crop": (3, 96, 128), **MAPS}

Random = np.random.Generator
Array = npt.NDArray[Any]
Views = dict[str, Array]


class Adapter(nn.Module):
    """A U-Net: the picture, (n, 3, 2H, 2W), and the maps, (n, 24, H, W) .. -> (n, 32, H, W)."""

    def __init__(self, fine: int = 24, middle: int = 40, deep: int = 64) -> None:
        super().__init__()
        self.norm4, self.norm8 = nn.BatchNorm2d(24), nn.BatchNorm2d(40)
        self.norm16 = nn.BatchNorm2d(112)
        self.stem, self.from4 = conv(3, 12, stride=2), conv(24, 12, 1)
        self.down1 = conv(24, fine)
        self.from8, self.to2 = conv(40, 20, 1), conv(fine, 20, stride=2)
        self.down2 = conv(40, middle)
        self.from16, self.to3 = conv(112, 40, 1), conv(middle, 24, stride=2)
        self.down3, self.down4 = conv(64, deep), conv(deep, deep, stride=2)
        self.up3, self.up2 = conv(2 * deep, deep), conv(deep + middle, middle)
        self.up1 = conv(middle + fine, fine + 8)
        self.last, self.norm = (
            nn.Conv2d(fine + 8, DISCRIMINATIVE_WIDTH, 1),
            nn.BatchNorm2d(DISCRIMINATIVE_WIDTH, affine=False),
        )

    def forward(self, crop: Tensor, s4: Tensor, s8: Tensor, s16: Tensor) -> Tensor:
        """Compute the feature maps; shapes as in the class's docstring."""

        def like(values: Tensor, other: Tensor) -> Tensor:
            size = other.shape[2:]
            return functional.interpolate(values, size, mode="bilinear", align_corners=False)

        x1 = self.down1(torch.cat([self.stem(crop - 0.5), self.from4(self.norm4(s4))], 1))
        x2 = self.down2(torch.cat([self.to2(x1), self.from8(self.norm8(s8))], 1))
        x3 = self.down3(torch.cat([self.to3(x2), self.from16(self.norm16(s16))], 1))
        y3 = self.up3(torch.cat([like(self.down4(x3), x3), x3], 1))
        y2 = self.up2(torch.cat([like(y3, x2), x2], 1))
        return self.norm(self.last(self.up1(torch.cat([like(y2, x1), x1], 1))))


def draw_episode(clip: Views, random: Random, mirrored: bool) -> list[Array] | None:
    """Draw an object's view to fit and four views to score; None if it has too few views."""
    obj = int(random.integers(clip["masks"].shape[1]))
    large = (clip["masks"][:, obj] > 127).sum((1, 2)) > MIN_CELLS
    views_of_object = np.flatnonzero((clip["thing"] == obj) & large)
    if len(views_of_object) < 3:
        return None
    support = random.choice(views_of_object)
    others = views_of_object[views_of_object != support]
    queries = random.choice(others, min(QUERY_VIEWS - 1, len(others)), replace=False)
    rest = np.flatnonzero(clip["thing"] != obj)
    views = [support, *queries, *random.choice(rest, QUERY_VIEWS - len(queries))]
    flips = random.random(len(views)) < 0.5 * mirrored

    def select(values: Array) -> Array:
        pairs = zip(values[views], flips, strict=True)
        return np.stack([each[..., ::-1] if flip else each for each, flip in pairs])

    crops = np.ascontiguousarray(select(clip["crop"].transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1))
    return [
        np.stack([resize_chw(each, (128, 128)) for each in crops]),
        *(select(clip[name]) for name in MAPS),
        np.stack([colour_features(each, (64, 64)) for each in crops]).transpose(0, 3, 1, 2),
        select(clip["masks"][:, obj]) / 255,
        select(clip["inside"]),
    ]


def make_batch(clips: list[Views], random: Random, mirrored: bool) -> list[Tensor]:
    """Draw a batch of episodes: the four inputs, colours, masks, which cells are on the picture."""
    episodes: list[list[Array]] = []
    while len(episodes) < EPISODES_PER_STEP:
        drawn = draw_episode(clips[int(random.integers(len(clips)))], random, mirrored)
        episodes += [drawn] if drawn is not None else []
    columns = (np.concatenate(column) for column in zip(*episodes, strict=True))
    return [torch.from_numpy(np.ascontiguousarray(column, np.float32)) for column in columns]


def fit_ridge(features: Tensor, inside: Tensor, weight: Tensor) -> Tensor:
    """Fit as `annotate.propagators.light.ridge_classifier`: (n, pixels, size) -> (n, size, 1)."""

    def share(values: Tensor) -> Tensor:
        return values / values.sum(1, keepdim=True).clamp(min=1e-3)

    balanced = 0.5 * (share(weight * inside) + share(weight * (1 - inside)))
    weighted = (features * balanced[..., None]).transpose(1, 2)
    square, target = weighted @ features, weighted @ (2 * inside - 1)[..., None]
    size = square.shape[1]
    ridge = RidgeClassifier.penalty * square.diagonal(dim1=1, dim2=2).sum(1) / size
    solvable = square + ridge[:, None, None] * torch.eye(size)
    pairs = zip(target, torch.linalg.cholesky(solvable), strict=True)
    return torch.stack([torch.cholesky_solve(each, lower) for each, lower in pairs])


def query_scores(network: Adapter, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the scores of the query views.

    Returns scores, masks and which cells are on the picture, each (n, 4, cells). While training,
    one cell of four is used.
    """
    crop, s4, s8, s16, colour, mask, inside = batch
    with bfloat16_autocast(network):
        learned = network(crop.contiguous(memory_format=torch.channels_last), s4, s8, s16)
    grid = s4.shape[2:]
    maps = [functional.interpolate(each, grid, mode="bilinear") for each in (s8, s16)]
    fixed, learned = torch.cat([s4, *maps, colour], 1), learned.float()
    if network.training:
        x, y = torch.randint(0, 2, (2,)).tolist()
        sampled = (values[..., y::2, x::2] for values in (fixed, learned, mask, inside))
        fixed, learned, mask, inside = sampled
    count = len(crop) // (1 + QUERY_VIEWS)
    fixed, learned, mask, inside = (
        values.reshape(count, 1 + QUERY_VIEWS, -1, mask.shape[-2] * mask.shape[-1])
        for values in (fixed, learned, mask, inside)
    )
    first = fixed[:, :1]
    floor = 1e-3 * first.abs().amax(3, keepdim=True) + 1e-6
    groups = np.repeat(np.array(GROUP_WEIGHTS) / np.sqrt(GROUP_CHANNELS), GROUP_CHANNELS).astype(
        np.float32
    )
    scale = torch.from_numpy(groups)[:, None] / (first.std(3, keepdim=True) + floor)
    fixed = ((fixed - first.mean(3, keepdim=True)) * scale).clamp(-MAX_FEATURE, MAX_FEATURE)
    first = learned[:, :1]
    spread = (first.std(3, keepdim=True) + 1e-3).clamp(min=0.2)
    learned = (
        (learned - first.mean(3, keepdim=True))
        / spread
        * (DISCRIMINATIVE_WEIGHT / DISCRIMINATIVE_WIDTH**0.5)
    )
    features = torch.cat([fixed, learned, torch.ones_like(mask)], 2).transpose(2, 3)
    mask, inside = mask[:, :, 0], inside[:, :, 0]
    support_weight = inside[:, 0] * (2 * mask[:, 0] - 1).abs()
    coefficients = fit_ridge(features[:, 0], (mask[:, 0] > 0.5).float(), support_weight)
    return (features[:, 1:] @ coefficients[:, None])[..., 0], mask[:, 1:], inside[:, 1:]


def loss(scores: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
    """Sum the loss balanced by class, the loss over all cells, and the Dice loss."""
    true_mask = (mask > 0.5).float()
    each = functional.binary_cross_entropy_with_logits(4 * scores, true_mask, reduction="none")
    each = each * inside * (2 * mask - 1).abs()

    def mean(where: Tensor) -> Tensor:
        return (each * where).sum(-1) / (inside * where).sum(-1).clamp(min=1)

    visible = (true_mask.sum(-1) > MIN_CELLS / 4).float()
    soft = torch.sigmoid(4 * scores) * inside
    dice = 1 - (2 * (soft * true_mask).sum(-1) + 20) / ((soft + true_mask).sum(-1) + 20)
    all_cells = mean(torch.ones_like(true_mask))
    return (
        0.5 * visible * mean(true_mask) + 0.5 * mean(1 - true_mask) + all_cells + 0.7 * dice
    ).mean()


def validate(network: Adapter, clips: list[Views]) -> str:
    """Describe the IoU on held-out clips, and the share of false positives without the object."""
    network.eval()
    random, overlaps, false_positives = np.random.default_rng(5), [], []
    with torch.no_grad():
        for _ in range(VALIDATION_STEPS):
            scores, mask, inside = query_scores(network, make_batch(clips, random, False))
            true_mask, predicted = mask > 0.5, (scores > 0) & (inside > 0)
            visible = true_mask.sum(-1) > MIN_CELLS
            union = (true_mask | predicted).sum(-1).clamp(min=1)
            overlaps.append(((true_mask & predicted).sum(-1) / union)[visible])
            false_positives.append(predicted.float().mean(-1)[~visible])
    network.train()
    false = torch.cat(false_positives).mean()
    return f"IoU {torch.cat(overlaps).mean():.3f}, {false:.3f} false positive without the object"


def train(clips: list[Views], others: list[Views], minutes: float) -> Adapter:
    """Train a network on `clips`."""
    torch.manual_seed(0)
    network = Adapter()
    optimize(
        network,
        prefetch(lambda random: make_batch(clips, random, True)),
        lambda batch: loss(*query_scores(network, batch)),
        lambda: validate(network, others),
        minutes,
    )
    return network


def main() -> None:
    """Train the network and write it."""
    options = parse_arguments(__doc__, minutes=20)
    cv2.setNumThreads(1)
    clips, held_out = (
        [dict(np.load(path)) for path in paths]
        for paths in split_by_clip(options, CLIPS_PER_HELD_OUT)
    )
    print(f"{len(clips)} clips to train on, {len(held_out)} held out", flush=True)
    network = train(clips, held_out, options.minutes)
    inputs = {name: torch.rand(1, *shape) for name, shape in INPUTS.items()}
    export_onnx(network, options.model, inputs, ["apart"], dynamic_axes=[2, 3])


if __name__ == "__main__":
    main()
