"""Train the feature maps of `annotate.propagators.light.appearance`.

    python -m venv trained && trained/bin/pip install -e . torch onnx==1.22.0
    trained/bin/python benchmarks/train_apart.py views models/light-apart.onnx --minutes 20

The views are by `apart_samples.py`. In an episode a ridge classifier is fitted in closed form to
one view of an object, as in `annotate.propagators.light.ridge_classifier`, on the maps of the
backbone, on colour, and on the maps of the network. The loss is that of its scores on other views
of the same clip, with and without the object, and is propagated back through the fit (Bertinetto et
al., "Meta-learning with Differentiable Closed-form Solvers", ICLR 2019; Bhat et al., "Learning What
to Learn for Video Object Segmentation", ECCV 2020).
"""

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from train_refine import ahead, apart, arguments, conv, descended, halved, written

from annotate.backbone import GROUP_CHANNELS, GROUP_WEIGHTS, colour_features, resize_chw
from annotate.propagators.light.appearance import DISCRIMINATIVE_WEIGHT, DISCRIMINATIVE_WIDTH
from annotate.propagators.light.ridge_classifier import RidgeClassifier

EPISODES, ASKED = 6, 4  # in a step; views asked about in an episode
HELD_OUT, CHECKED = 10, 6  # one of so many clips is not learnt from; steps to check by
LEAST = 40  # cells of a thing that can be learnt from
CLIPPED = 3.0  # a feature, in what its group weighs
MAPS = {"s4": (24, 48, 64), "s8": (40, 24, 32), "s16": (112, 12, 16)}
INPUTS = {"crop": (3, 96, 128), **MAPS}

Random = np.random.Generator
Views = dict[str, npt.NDArray]


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
        """See the class."""

        def like(values: Tensor, other: Tensor) -> Tensor:
            size = other.shape[2:]
            return functional.interpolate(values, size, mode="bilinear", align_corners=False)

        x1 = self.down1(torch.cat([self.stem(crop - 0.5), self.from4(self.norm4(s4))], 1))
        x2 = self.down2(torch.cat([self.to2(x1), self.from8(self.norm8(s8))], 1))
        x3 = self.down3(torch.cat([self.to3(x2), self.from16(self.norm16(s16))], 1))
        y3 = self.up3(torch.cat([like(self.down4(x3), x3), x3], 1))
        y2 = self.up2(torch.cat([like(y3, x2), x2], 1))
        return self.norm(self.last(self.up1(torch.cat([like(y2, x1), x1], 1))))


def episode(clip: Views, random: Random, mirrored: bool) -> list[npt.NDArray] | None:
    """A view of a thing to learn from, and four more; None where it has too few."""
    thing = int(random.integers(clip["masks"].shape[1]))
    large = (clip["masks"][:, thing] > 127).sum((1, 2)) > LEAST
    mine = np.flatnonzero((clip["thing"] == thing) & large)
    if len(mine) < 3:
        return None
    shown = random.choice(mine)
    others = mine[mine != shown]
    asked = random.choice(others, min(ASKED - 1, len(others)), replace=False)
    rest = np.flatnonzero(clip["thing"] != thing)
    views = [shown, *asked, *random.choice(rest, ASKED - len(asked))]
    turned = random.random(len(views)) < 0.5 * mirrored

    def taken(values: npt.NDArray) -> npt.NDArray:
        pairs = zip(values[views], turned, strict=True)
        return np.stack([each[..., ::-1] if turn else each for each, turn in pairs])

    crops = np.ascontiguousarray(taken(clip["crop"].transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1))
    return [
        np.stack([resize_chw(each, (128, 128)) for each in crops]),
        *(taken(clip[name]) for name in MAPS),
        np.stack([colour_features(each, (64, 64)) for each in crops]).transpose(0, 3, 1, 2),
        taken(clip["masks"][:, thing]) / 255,
        taken(clip["inside"]),
    ]


def batch(clips: list[Views], random: Random, mirrored: bool) -> list[Tensor]:
    """Some episodes: the four inputs, colours, masks, what is on the picture."""
    found: list[list[npt.NDArray]] = []
    while len(found) < EPISODES:
        one = episode(clips[int(random.integers(len(clips)))], random, mirrored)
        found += [one] if one is not None else []
    columns = (np.concatenate(column) for column in zip(*found, strict=True))
    return [torch.from_numpy(np.ascontiguousarray(column, np.float32)) for column in columns]


def fitted(features: Tensor, inside: Tensor, weight: Tensor) -> Tensor:
    """As `annotate.propagators.light.ridge_classifier` fits: (n, pixels, size) -> (n, size, 1)."""

    def share(values: Tensor) -> Tensor:
        return values / values.sum(1, keepdim=True).clamp(min=1e-3)

    balanced = 0.5 * (share(weight * inside) + share(weight * (1 - inside)))
    weighted = (features * balanced[..., None]).transpose(1, 2)
    square, right = weighted @ features, weighted @ (2 * inside - 1)[..., None]
    size = square.shape[1]
    ridge = RidgeClassifier.penalty * square.diagonal(dim1=1, dim2=2).sum(1) / size
    solvable = square + ridge[:, None, None] * torch.eye(size)
    pairs = zip(right, torch.linalg.cholesky(solvable), strict=True)
    return torch.stack([torch.cholesky_solve(each, lower) for each, lower in pairs])


def scored(network: Adapter, given: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Of the views asked about (n, 4, cells): the scores, the masks, what is on the picture.

    While training, one cell of four is looked at.
    """
    crop, s4, s8, s16, colour, mask, inside = given
    with halved(network):
        learnt = network(crop.contiguous(memory_format=torch.channels_last), s4, s8, s16)
    grid = s4.shape[2:]
    maps = [functional.interpolate(each, grid, mode="bilinear") for each in (s8, s16)]
    plain, learnt = torch.cat([s4, *maps, colour], 1), learnt.float()
    if network.training:
        x, y = torch.randint(0, 2, (2,)).tolist()
        some = (values[..., y::2, x::2] for values in (plain, learnt, mask, inside))
        plain, learnt, mask, inside = some
    count = len(crop) // (1 + ASKED)
    plain, learnt, mask, inside = (
        values.reshape(count, 1 + ASKED, -1, mask.shape[-2] * mask.shape[-1])
        for values in (plain, learnt, mask, inside)
    )
    first = plain[:, :1]
    floor = 1e-3 * first.abs().amax(3, keepdim=True) + 1e-6
    groups = np.repeat(np.array(GROUP_WEIGHTS) / np.sqrt(GROUP_CHANNELS), GROUP_CHANNELS).astype(
        np.float32
    )
    scale = torch.from_numpy(groups)[:, None] / (first.std(3, keepdim=True) + floor)
    plain = ((plain - first.mean(3, keepdim=True)) * scale).clamp(-CLIPPED, CLIPPED)
    first = learnt[:, :1]
    spread = (first.std(3, keepdim=True) + 1e-3).clamp(min=0.2)
    learnt = (
        (learnt - first.mean(3, keepdim=True))
        / spread
        * (DISCRIMINATIVE_WEIGHT / DISCRIMINATIVE_WIDTH**0.5)
    )
    features = torch.cat([plain, learnt, torch.ones_like(mask)], 2).transpose(2, 3)
    mask, inside = mask[:, :, 0], inside[:, :, 0]
    sure = inside[:, 0] * (2 * mask[:, 0] - 1).abs()
    beta = fitted(features[:, 0], (mask[:, 0] > 0.5).float(), sure)
    return (features[:, 1:] @ beta[:, None])[..., 0], mask[:, 1:], inside[:, 1:]


def loss(scores: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
    """Each class for itself, all cells alike, and the overlap."""
    true = (mask > 0.5).float()
    each = functional.binary_cross_entropy_with_logits(4 * scores, true, reduction="none")
    each = each * inside * (2 * mask - 1).abs()

    def mean(where: Tensor) -> Tensor:
        return (each * where).sum(-1) / (inside * where).sum(-1).clamp(min=1)

    seen = (true.sum(-1) > LEAST / 4).float()
    soft = torch.sigmoid(4 * scores) * inside
    dice = 1 - (2 * (soft * true).sum(-1) + 20) / ((soft + true).sum(-1) + 20)
    alike = mean(torch.ones_like(true))
    return (0.5 * seen * mean(true) + 0.5 * mean(1 - true) + alike + 0.7 * dice).mean()


def checked(network: Adapter, clips: list[Views]) -> str:
    """How well things of clips not learnt from are found, and how much where they are not."""
    network.eval()
    random, overlaps, wrong = np.random.default_rng(5), [], []
    with torch.no_grad():
        for _ in range(CHECKED):
            scores, mask, inside = scored(network, batch(clips, random, False))
            true, found = mask > 0.5, (scores > 0) & (inside > 0)
            seen = true.sum(-1) > LEAST
            union = (true | found).sum(-1).clamp(min=1)
            overlaps.append(((true & found).sum(-1) / union)[seen])
            wrong.append(found.float().mean(-1)[~seen])
    network.train()
    return f"IoU {torch.cat(overlaps).mean():.3f}, wrong {torch.cat(wrong).mean():.3f} of the rest"


def trained(clips: list[Views], others: list[Views], minutes: float) -> Adapter:
    """A network that learnt from `clips` for so long."""
    torch.manual_seed(0)
    network = Adapter()
    descended(
        network,
        ahead(lambda random: batch(clips, random, True)),
        lambda given: loss(*scored(network, given)),
        lambda: checked(network, others),
        minutes,
    )
    return network


def main() -> None:
    """Train and write."""
    asked = arguments(__doc__, minutes=20)
    cv2.setNumThreads(1)
    learnt, others = ([dict(np.load(path)) for path in some] for some in apart(asked, HELD_OUT))
    print(f"{len(learnt)} clips, {len(others)} others to check by", flush=True)
    network = trained(learnt, others, asked.minutes)
    given = {name: torch.rand(1, *shape) for name, shape in INPUTS.items()}
    written(network, asked.model, given, ["apart"], free=[2, 3])


if __name__ == "__main__":
    main()
