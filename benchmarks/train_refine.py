"""Train the click model and the follow model of `annotate.propagators.light.refine`; write ONNX.

Every two minutes, and at the end, the IoU on held-out clips is printed.

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

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, MAX_GRADIENT_NORM = 32, 2e-3, 1e-2, 2.0
CLIPS_PER_HELD_OUT = 12  # one of twelve clips is held out
VALIDATION_SAMPLES = 700
MIN_CELLS = 40  # cells of the mask of a visible object
MAX_DIFFERENCE = 1e-3  # between the outputs of torch and of the ONNX file
INPUTS = {"crop": (3, 128, 128), "s8": (40, 32, 32), "s16": (112, 16, 16), "maps": (6, 64, 64)}
OUTPUTS = "mask", "worth"

Sample = dict[str, Any]


def bfloat16_autocast(network: nn.Module) -> torch.autocast:
    """Use bfloat16 while training; not without AVX-512, where it takes five times as long."""
    has_avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=network.training and has_avx512)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Make a convolution with batch normalisation and ReLU."""
    kernel = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(kernel, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Refiner(nn.Module):
    """A U-Net that predicts a mask and the IoU of that mask, as logits.

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
        """Predict mask and IoU; shapes as in the class's docstring."""

        def upsample(values: Tensor) -> Tensor:
            return functional.interpolate(
                values, scale_factor=2, mode="bilinear", align_corners=False
            )

        x1 = self.down1(torch.cat([self.stem(crop - 0.5), maps], 1))
        x2 = self.down2(torch.cat([self.to2(x1), self.from8(self.norm8(s8))], 1))
        x3 = self.down3(torch.cat([self.to3(x2), self.from16(self.norm16(s16))], 1))
        x4 = self.down4(x3)
        x4 = x4 * torch.sigmoid(self.gate(x4.mean((2, 3))))[:, :, None, None]
        y3 = self.up3(torch.cat([upsample(x4), x3], 1))
        y2 = self.up2(torch.cat([upsample(y3), x2], 1))
        mask = self.shuffle(self.mask(self.up1(torch.cat([upsample(y2), x1], 1))))
        soft = torch.sigmoid(mask)
        coarse, grid = functional.avg_pool2d(soft, 8), functional.avg_pool2d(soft, 2)
        area = coarse.sum((2, 3)) + 1e-3
        inside = (y3 * coarse).sum((2, 3)) / area
        outside = (y3 * (1 - coarse)).sum((2, 3)) / (256 - area + 1e-3)
        click_maps = (maps[:, :3] * grid).sum((2, 3)) / (grid.sum((2, 3)) + 1e-2)
        descriptors = torch.cat([inside, outside, x4.mean((2, 3)), click_maps, area / 256], 1)
        return mask, self.worth(descriptors)[:, 0]


def make_batch(samples: list[Sample], random: np.random.Generator | None) -> list[Tensor]:
    """Make a batch: four inputs, masks, areas of the whole masks; `random` augments it."""
    rows = []
    for item in samples:
        mask = np.unpackbits(item["mask"]).reshape(1, 128, 128).astype(np.float32)
        crop = item["crop"].transpose(2, 0, 1).astype(np.float32) / 255
        row = [crop, item["s8"], item["s16"], item["maps"], mask]
        if random is not None:
            if random.random() < 0.5:
                row = [values[..., ::-1] for values in row]
            crop = np.clip(row[0] * random.uniform(0.8, 1.2) + random.uniform(-0.08, 0.08), 0, 1)
            row[0] = crop[random.permutation(3)] if random.random() < 0.3 else crop
        rows.append([*row, np.array(item["area"])])
    columns = zip(*rows, strict=True)
    return [torch.from_numpy(np.stack(values).astype(np.float32)) for values in columns]


def loss_and_ious(network: Refiner, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the loss, and the actual and the predicted IoU of each sample."""
    *inputs, mask, area = batch
    with bfloat16_autocast(network):
        logits, worth = (item.float() for item in network(*inputs))
    soft, across = torch.sigmoid(logits), (1, 2, 3)
    on_picture = functional.interpolate(inputs[3][:, 5:], scale_factor=2)
    pixel_loss = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    pixels = (pixel_loss * on_picture).mean(across)
    both = (soft * mask).sum(across)
    dice = 1 - (2 * both + 50) / ((soft + mask).sum(across) + 50)
    visible = (mask.sum(across) > MIN_CELLS).float()
    hard = (soft > 0.5).float()
    common = (hard * mask).sum(across)
    union = hard.sum(across) + torch.maximum(area, mask.sum(across)) - common
    iou = (common / union.clamp(min=1)).detach()
    iou_loss = functional.binary_cross_entropy_with_logits(worth, iou)
    mask_loss = (2 * pixels + dice * (0.3 + 0.7 * visible)).mean()
    return mask_loss + 0.5 * iou_loss, iou, torch.sigmoid(worth)


def validate(network: Refiner, samples: list[Sample]) -> str:
    """Describe the IoU on held-out clips, and its correlation with the predicted IoU."""
    network.eval()
    with torch.no_grad():
        parts = [samples[k : k + BATCH_SIZE] for k in range(0, len(samples), BATCH_SIZE)]
        results = [loss_and_ious(network, make_batch(part, None))[1:] for part in parts]
    network.train()
    ious, predicted = (torch.cat(column).numpy() for column in zip(*results, strict=True))
    first = np.array([not item["maps"][4].any() for item in samples])
    correlation = np.corrcoef(ious, predicted)[0, 1]
    return (
        f"IoU {ious[first].mean():.3f}, of second rounds {ious[~first].mean():.3f}, "
        f"correlation with the predicted IoU {correlation:.3f}"
    )


def prefetch(make: Callable[[np.random.Generator], list[Tensor]]) -> Iterator[list[Tensor]]:
    """Yield batches without end, made ahead in a thread."""
    batches: queue.Queue[list[Tensor]] = queue.Queue(8)

    def fill() -> None:
        random = np.random.default_rng(0)
        while True:
            batches.put(make(random))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield batches.get()


def optimize(
    network: nn.Module,
    batches: Iterator[list[Tensor]],
    loss: Callable[[list[Tensor]], Tensor],
    validate: Callable[[], str],
    minutes: float,
) -> None:
    """Train a network for some minutes, by AdamW with a cosine schedule."""
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    started = reported = time.time()
    for count, batch in enumerate(batches):
        progress = (time.time() - started) / 60 / minutes
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            schedule = 0.5 * (1 + np.cos(np.pi * progress)) + 0.005
            group["lr"] = LEARNING_RATE * min(1, count / 100 + 0.01) * schedule
        step_loss = loss(batch)
        optimizer.zero_grad()
        step_loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        if time.time() - reported > 120:
            reported = time.time()
            print(f"{count} steps, loss {float(step_loss.detach()):.3f}: {validate()}", flush=True)
    print(f"{count} steps: {validate()}", flush=True)
    network.eval().to(memory_format=torch.contiguous_format)


def train(samples: list[Sample], held_out: list[Sample], minutes: float) -> Refiner:
    """Train a network on `samples`."""
    torch.manual_seed(0)
    network = Refiner()

    def random_batch(random: np.random.Generator) -> list[Tensor]:
        return make_batch(
            [samples[k] for k in random.integers(0, len(samples), BATCH_SIZE)], random
        )

    optimize(
        network,
        prefetch(random_batch),
        lambda batch: loss_and_ious(network, batch)[0],
        lambda: validate(network, held_out),
        minutes,
    )
    return network


def export_onnx(
    network: nn.Module,
    path: Path,
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    dynamic_axes: Sequence[int],
) -> None:
    """Write a network as ONNX with `dynamic_axes`, if its outputs equal those of torch."""
    names = [*inputs, *outputs]
    torch.onnx.export(
        network,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamo=False,
        opset_version=13,
        dynamic_axes={name: {axis: f"{name} {axis}" for axis in dynamic_axes} for name in names},
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs_onnx = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        outputs_torch = network(*inputs.values())
    for onnx_output, torch_output in zip(
        outputs_onnx, outputs_torch if len(outputs) > 1 else [outputs_torch], strict=True
    ):
        if np.abs(onnx_output - torch_output.numpy()).max() > MAX_DIFFERENCE:
            path.unlink()
            raise SystemExit(f"outputs of ONNX Runtime and torch differ; {path} was not written")


def parse_arguments(doc: str, minutes: float) -> argparse.Namespace:
    """Parse the command line: a folder of samples, the model to write, the minutes."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("samples", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--minutes", type=float, default=minutes)
    return parser.parse_args()


def split_by_clip(
    options: argparse.Namespace, clips_per_held_out: int
) -> tuple[list[Path], list[Path]]:
    """Split the files: those to train on, and those of every nth clip, which are held out."""
    clip_of = {path: path.stem.partition("_")[2] for path in sorted(options.samples.iterdir())}
    clips = set(sorted(set(clip_of.values()))[::clips_per_held_out])
    training = [path for path, clip in clip_of.items() if clip not in clips]
    if not training:
        raise SystemExit(f"{options.samples}: needs samples of two clips or more, one is held out")
    return training, [path for path, clip in clip_of.items() if clip in clips]


def main() -> None:
    """Train the network and write it."""
    options = parse_arguments(__doc__, minutes=10)
    training, held_out = (
        [sample for path in paths for sample in pickle.loads(path.read_bytes())]
        for paths in split_by_clip(options, CLIPS_PER_HELD_OUT)
    )
    chosen = np.random.default_rng(0).permutation(len(held_out))[:VALIDATION_SAMPLES]
    print(f"{len(training)} samples to train on, {len(chosen)} held out", flush=True)
    network = train(training, [held_out[k] for k in chosen], options.minutes)
    inputs = {name: torch.rand(2, *shape) for name, shape in INPUTS.items()}
    export_onnx(network, options.model, inputs, OUTPUTS, dynamic_axes=[0])


if __name__ == "__main__":
    main()
