"""Train the click model and the follow model of `annotate.propagators.light.refine`.

    python -m venv trained && trained/bin/pip install -e . torch onnx==1.22.0
    trained/bin/python benchmarks/train_refine.py clicks models/light-click.onnx --minutes 60
    trained/bin/python benchmarks/train_refine.py followed models/light-follow.onnx --minutes 13

The samples are by `click_samples.py` and `follow_samples.py`. The network is a U-Net of half a
million parameters, on the picture and on two maps of the backbone. It predicts a mask and the IoU
of that mask, trained on the actual IoU (Huang et al., "Mask Scoring R-CNN", CVPR 2019).
"""

import argparse
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH, RATE, DECAY, LONGEST = 32, 2e-3, 1e-2, 2.0  # samples; Adam's; the longest gradient
HELD_OUT, CHECKED = 12, 700  # one of so many clips is not learnt from; samples of those
LEAST = 40  # cells of a mask that count as something to find
AGREES = 1e-3  # largest difference allowed between torch and the file written
INPUTS = {"crop": (3, 128, 128), "s8": (40, 32, 32), "s16": (112, 16, 16), "maps": (6, 64, 64)}
OUTPUTS = "mask", "worth"

Sample = dict[str, Any]


def halved(network: nn.Module) -> torch.autocast:
    """While training, bfloat16; not without AVX-512, where that takes five times as long."""
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=network.training and wide)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution, normalised and rectified."""
    kernel = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(kernel, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Refiner(nn.Module):
    """A mask, and the IoU it should have, as logits.

    Inputs: the picture, (n, 3, 128, 128) in 0..1; two maps of the backbone, (n, 40, 32, 32) and
    (n, 112, 16, 16); and (n, 6, 64, 64) by `refine.build_network_input`. Outputs: (n, 1, 128, 128)
    and (n,).
    """

    def __init__(self, fine: int = 16, middle: int = 40, deep: int = 80) -> None:
        super().__init__()
        self.norm8, self.norm16 = nn.BatchNorm2d(40), nn.BatchNorm2d(112)
        self.stem = conv(3, 12, stride=2)
        self.down1 = nn.Sequential(conv(12 + 6, fine), conv(fine, fine))
        self.from8, self.to2 = conv(40, 20, 1), conv(fine, 20, stride=2)
        self.down2 = nn.Sequential(conv(40, middle), conv(middle, middle))
        self.from16, self.to3 = conv(112, 32, 1), conv(middle, 32, stride=2)
        self.down3 = nn.Sequential(conv(64, deep), conv(deep, deep))
        self.down4 = nn.Sequential(conv(deep, deep, stride=2), conv(deep, deep))
        self.gate = nn.Linear(deep, deep)
        self.up3, self.up2 = conv(2 * deep, deep), conv(deep + middle, middle)
        self.up1 = conv(middle + fine, fine)
        self.mask, self.shuffle = nn.Conv2d(fine, 4, 3, padding=1), nn.PixelShuffle(2)
        self.worth = nn.Sequential(nn.Linear(3 * deep + 4, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, crop: Tensor, s8: Tensor, s16: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""

        def twice(values: Tensor) -> Tensor:
            return functional.interpolate(
                values, scale_factor=2, mode="bilinear", align_corners=False
            )

        x1 = self.down1(torch.cat([self.stem(crop - 0.5), maps], 1))
        x2 = self.down2(torch.cat([self.to2(x1), self.from8(self.norm8(s8))], 1))
        x3 = self.down3(torch.cat([self.to3(x2), self.from16(self.norm16(s16))], 1))
        x4 = self.down4(x3)
        x4 = x4 * torch.sigmoid(self.gate(x4.mean((2, 3))))[:, :, None, None]
        y3 = self.up3(torch.cat([twice(x4), x3], 1))
        y2 = self.up2(torch.cat([twice(y3), x2], 1))
        mask = self.shuffle(self.mask(self.up1(torch.cat([twice(y2), x1], 1))))
        soft = torch.sigmoid(mask)
        coarse, grid = functional.avg_pool2d(soft, 8), functional.avg_pool2d(soft, 2)
        area = coarse.sum((2, 3)) + 1e-3
        inside = (y3 * coarse).sum((2, 3)) / area
        outside = (y3 * (1 - coarse)).sum((2, 3)) / (256 - area + 1e-3)
        told = (maps[:, :3] * grid).sum((2, 3)) / (grid.sum((2, 3)) + 1e-2)
        seen = torch.cat([inside, outside, x4.mean((2, 3)), told, area / 256], 1)
        return mask, self.worth(seen)[:, 0]


def fed(samples: list[Sample], random: np.random.Generator | None) -> list[Tensor]:
    """A batch: the four inputs, the masks, their whole areas. With `random`: changed a little."""
    rows = []
    for each in samples:
        mask = np.unpackbits(each["mask"]).reshape(1, 128, 128).astype(np.float32)
        crop = each["crop"].transpose(2, 0, 1).astype(np.float32) / 255
        row = [crop, each["s8"], each["s16"], each["maps"], mask]
        if random is not None:
            if random.random() < 0.5:
                row = [values[..., ::-1] for values in row]
            crop = np.clip(row[0] * random.uniform(0.8, 1.2) + random.uniform(-0.08, 0.08), 0, 1)
            row[0] = crop[random.permutation(3)] if random.random() < 0.3 else crop
        rows.append([*row, np.array(each["area"])])
    columns = zip(*rows, strict=True)
    return [torch.from_numpy(np.stack(values).astype(np.float32)) for values in columns]


def judged(network: Refiner, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The loss; and for each sample the IoU it has, and says it has."""
    *inputs, mask, area = batch
    with halved(network):
        logits, worth = (each.float() for each in network(*inputs))
    soft, across = torch.sigmoid(logits), (1, 2, 3)
    on_picture = functional.interpolate(inputs[3][:, 5:], scale_factor=2)
    each = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    pixels = (each * on_picture).mean(across)
    both = (soft * mask).sum(across)
    dice = 1 - (2 * both + 50) / ((soft + mask).sum(across) + 50)
    seen = (mask.sum(across) > LEAST).float()
    hard = (soft > 0.5).float()
    common = (hard * mask).sum(across)
    union = hard.sum(across) + torch.maximum(area, mask.sum(across)) - common
    iou = (common / union.clamp(min=1)).detach()
    said = functional.binary_cross_entropy_with_logits(worth, iou)
    return (2 * pixels + dice * (0.3 + 0.7 * seen)).mean() + 0.5 * said, iou, torch.sigmoid(worth)


def checked(network: Refiner, samples: list[Sample]) -> str:
    """How well it does on clips that it has not learnt from."""
    network.eval()
    with torch.no_grad():
        parts = [samples[k : k + BATCH] for k in range(0, len(samples), BATCH)]
        results = [judged(network, fed(part, None))[1:] for part in parts]
    network.train()
    ious, said = (torch.cat(column).numpy() for column in zip(*results, strict=True))
    first = np.array([not each["maps"][4].any() for each in samples])
    alike = np.corrcoef(ious, said)[0, 1]
    return f"IoU {ious[first].mean():.3f}, again {ious[~first].mean():.3f}, said right {alike:.3f}"


def ahead(make: Callable[[np.random.Generator], list[Tensor]]) -> Iterator[list[Tensor]]:
    """Batches without end, made ahead in a thread."""
    waiting: queue.Queue[list[Tensor]] = queue.Queue(8)

    def fill() -> None:
        random = np.random.default_rng(0)
        while True:
            waiting.put(make(random))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield waiting.get()


def descended(
    network: nn.Module,
    batches: Iterator[list[Tensor]],
    loss: Callable[[list[Tensor]], Tensor],
    checked: Callable[[], str],
    minutes: float,
) -> None:
    """Teach a network for so long, by AdamW and a cosine."""
    network.to(memory_format=torch.channels_last).train()
    steps = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    started = told = time.time()
    for count, batch in enumerate(batches):
        past = (time.time() - started) / 60 / minutes
        if past >= 1:
            break
        for group in steps.param_groups:
            fall = 0.5 * (1 + np.cos(np.pi * past)) + 0.005
            group["lr"] = RATE * min(1, count / 100 + 0.01) * fall
        missed = loss(batch)
        steps.zero_grad()
        missed.backward()
        nn.utils.clip_grad_norm_(network.parameters(), LONGEST)
        steps.step()
        if time.time() - told > 120:
            told = time.time()
            print(f"{count} steps, loss {float(missed.detach()):.3f}: {checked()}", flush=True)
    print(f"{count} steps: {checked()}", flush=True)
    network.eval().to(memory_format=torch.contiguous_format)


def trained(samples: list[Sample], apart: list[Sample], minutes: float) -> Refiner:
    """A network that learnt from `samples` for so long."""
    torch.manual_seed(0)
    network = Refiner()

    def some(random: np.random.Generator) -> list[Tensor]:
        return fed([samples[k] for k in random.integers(0, len(samples), BATCH)], random)

    descended(
        network,
        ahead(some),
        lambda batch: judged(network, batch)[0],
        lambda: checked(network, apart),
        minutes,
    )
    return network


def written(
    network: nn.Module,
    path: Path,
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    free: Sequence[int],
) -> None:
    """Write it as ONNX, its `free` axes of any length, if that says what torch says."""
    names = [*inputs, *outputs]
    torch.onnx.export(
        network,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamo=False,
        opset_version=13,
        dynamic_axes={name: {axis: f"{name} {axis}" for axis in free} for name in names},
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        true = network(*inputs.values())
    for ours, theirs in zip(found, true if len(outputs) > 1 else [true], strict=True):
        if np.abs(ours - theirs.numpy()).max() > AGREES:
            path.unlink()
            raise SystemExit("ONNX Runtime and torch disagree")


def arguments(doc: str, minutes: float) -> argparse.Namespace:
    """What the command line says: a folder of samples, the model to write, the minutes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("samples", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=minutes)
    return parser.parse_args()


def apart(asked: argparse.Namespace, one_of: int) -> tuple[list[Path], list[Path]]:
    """The files to learn from, and those of every `one_of`th clip, which are to check by."""
    clip_of = {path: path.stem.partition("_")[2] for path in sorted(asked.samples.iterdir())}
    held_out = set(sorted(set(clip_of.values()))[::one_of])
    learnt = [path for path, clip in clip_of.items() if clip not in held_out]
    if not learnt:
        raise SystemExit(f"{asked.samples}: samples of two clips at least, one is to check by")
    return learnt, [path for path, clip in clip_of.items() if clip in held_out]


def main() -> None:
    """Train and write."""
    asked = arguments(__doc__, minutes=10)
    learnt, others = (
        [sample for path in some for sample in pickle.loads(path.read_bytes())]
        for some in apart(asked, HELD_OUT)
    )
    some = np.random.default_rng(0).permutation(len(others))[:CHECKED]
    print(f"{len(learnt)} samples, {len(some)} others to check by", flush=True)
    network = trained(learnt, [others[k] for k in some], asked.minutes)
    given = {name: torch.rand(2, *shape) for name, shape in INPUTS.items()}
    written(network, asked.model, given, OUTPUTS, free=[0])


if __name__ == "__main__":
    main()
