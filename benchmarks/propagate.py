"""What following costs: ours beside the packages' own predictors, on the same random weights.

    python benchmarks/propagate.py speed CLIP [--size 1024] [--objects 1 8] [--frames 12]
    python benchmarks/propagate.py flat CLIP [--frames 3060] [--stock-frames 600] [--plot flat.png]

`speed` is at the true architectures: milliseconds a frame, the median once the memory is full, and
of it what the encoder, the memory attention, the decoder and the memory encoder took; and the peak
of resident memory. `flat` is with small networks: resident memory all along the clip, our engines
to its end, the stock ones, which keep every frame, stopped where they are told; and of reading the
clip alone, since the decoder's buffers grow for a while too. Every row runs in
a process of its own. The stock predictor of `sam2` is given the clip as a folder of JPEG, as it
wants it, already at the size of the network.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from annotate import video
from annotate.records import Frame, Prompt

ENGINES = {
    "read": "the clip read, nothing followed",
    "sam2": "ours, on the sam2 package",
    "sam2-stock": "SAM2VideoPredictor",
    "sam2-hf": "ours, on transformers' Sam2VideoModel",
    "sam2-hf-stock": "transformers' session, Sam2VideoModel",
    "edgetam": "ours, on transformers' EdgeTamVideoModel",
    "edgetam-stock": "transformers' session, EdgeTamVideoModel",
}
PARTS = {  # what a part is called: in sam2, in transformers
    "encode": ("image_encoder", "vision_encoder"),
    "attend": ("memory_attention", "memory_attention"),
    "decode": ("sam_mask_decoder", "mask_decoder"),
    "memorise": ("memory_encoder", "memory_encoder"),
}
SMALL_SIDE = 128
SMALL = [
    f"++model.image_size={SMALL_SIDE}",
    "++model.image_encoder.trunk.embed_dim=16",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "++model.memory_attention.num_layers=1",
]
WARM = 8  # frames until the mask memories are full


def sam2_model(row: dict[str, Any]) -> Any:
    """The stock predictor with random weights: ours runs on the very same."""
    import torch
    from sam2.build_sam import build_sam2_video_predictor

    from annotate.sam2_model import CONFIGS, show_all

    torch.manual_seed(0)
    sized = SMALL if row["small"] else [f"++model.image_size={row['size']}"]
    model = build_sam2_video_predictor(CONFIGS["sam2.1-tiny"], None, "cpu", "eval", sized)
    show_all(model)
    return model


def hf_model(row: dict[str, Any]) -> Any:
    """A network of transformers with random weights."""
    import torch

    from annotate.propagators import edgetam

    torch.manual_seed(0)
    name = "edgetam-hf" if row["engine"].startswith("edgetam") else "sam2.1-tiny-hf"
    side = SMALL_SIDE if row["small"] else row["size"]
    config = edgetam.resized(edgetam._random_config(name), side)
    if row["small"]:
        config.memory_attention_num_layers = 1
        config.memory_attention_rope_k_sizes = [side // 16] * 2  # this and the next: EdgeTAM's
        config.perceiver_resampler_num_latents_2d = (side // 16) ** 2
    model = edgetam.build(config).eval()
    edgetam.show_all(model)
    return model


def prompts(row: dict[str, Any], frame: Frame) -> list[Prompt]:
    """One click for each object, spread over the first frame."""
    width, height = frame.size_wh
    spread = np.linspace(0.1, 0.9, row["objects"])
    return [
        Prompt(0, of, np.array([[share * width, share * height]]), np.array([1]))
        for of, share in enumerate(spread, start=1)
    ]


def read(row: dict[str, Any], model: None) -> Iterator[int]:
    """The clip alone, for what of the memory is the decoder's."""
    for frame in islice(video.frames(row["clip"]), row["frames"]):
        yield frame.index


def ours(row: dict[str, Any], model: Any) -> Iterator[int]:
    """Our loop over the clip."""
    import torch

    from annotate.follow import Follower
    from annotate.sam2_network import Sam2Network
    from annotate.transformers_network import TransformersNetwork

    kind = Sam2Network if row["engine"] == "sam2" else TransformersNetwork
    follower = Follower(kind(model, torch.float32), 16, row["batch"])
    for frame in islice(video.frames(row["clip"]), row["frames"]):
        given = prompts(row, frame) if frame.index == 0 else []
        assert len(follower.look(frame, given)) == row["objects"]
        yield frame.index


def sam2_stock(row: dict[str, Any], model: Any) -> Iterator[int]:
    """The package's predictor over the clip, unpacked for it."""
    with tempfile.TemporaryDirectory() as folder:
        side = (model.image_size, model.image_size)
        for frame in islice(video.frames(row["clip"]), row["frames"]):
            path = Path(folder) / f"{frame.index:05d}.jpg"
            Image.fromarray(frame.image).resize(side).save(path, quality=95)
            if frame.index == 0:
                small = Frame("", 0, frame.seconds, np.asarray(Image.open(path)))
        state = model.init_state(folder)
        for prompt in prompts(row, small):
            points = prompt.points_xy.astype(np.float32)
            model.add_new_points_or_box(state, 0, prompt.object_id, points, [1])
        yield from (index for index, _, _ in model.propagate_in_video(state))


def hf_stock(row: dict[str, Any], model: Any) -> Iterator[int]:
    """The package's session over the clip, streamed."""
    import transformers

    size = {"height": model.image_size, "width": model.image_size}
    processor = transformers.Sam2VideoProcessor(
        image_processor=transformers.Sam2ImageProcessor(size=size),
        video_processor=transformers.Sam2VideoVideoProcessor(size=size),
        target_size=model.image_size,
    )
    session = processor.init_video_session()
    for frame in islice(video.frames(row["clip"]), row["frames"]):
        done = processor.video_processor(videos=[frame.image[None]], return_tensors="pt")
        if frame.index == 0:
            given = prompts(row, frame)
            processor.add_inputs_to_inference_session(
                session,
                0,
                [prompt.object_id for prompt in given],
                input_points=[[prompt.points_xy.tolist() for prompt in given]],
                input_labels=[[[1] for _ in given]],
                original_size=frame.image.shape[:2],
            )
        model(session, frame=done.pixel_values_videos[0][0], frame_idx=frame.index)
        yield frame.index


def clock(model: Any, spent: dict[str, float]) -> None:
    """Add up the seconds that each part of the network takes."""

    def add(part: str, seconds: float) -> None:
        spent[part] += seconds

    for part, names in PARTS.items():
        module = next(getattr(model, name) for name in names if hasattr(model, name))
        module.register_forward_pre_hook(lambda *_, of=part: add(of, -time.perf_counter()))
        module.register_forward_hook(lambda *_, of=part: add(of, time.perf_counter()))


def prepare(row: dict[str, Any]) -> tuple[Callable[..., Iterator[int]], Any]:
    """The loop of a row and its network."""
    loops: dict[str, Any] = {"read": read, "sam2-stock": sam2_stock}
    loop = loops.get(row["engine"], hf_stock if row["engine"].endswith("stock") else ours)
    if loop is read:
        return read, None
    return loop, sam2_model(row) if row["engine"] in ("sam2", "sam2-stock") else hf_model(row)


def run(row: dict[str, Any]) -> None:
    """One row in this process; a line of JSON for each frame."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(row["threads"])
    spent: dict[str, float] = defaultdict(float)
    loop, model = prepare(row)
    if model is not None:
        clock(model, spent)
    began = time.perf_counter()
    with torch.inference_mode():
        for index in loop(row, model):
            now = time.perf_counter()
            told = {"frame": index, "seconds": now - began, "rss": resident()}
            print(json.dumps(told | spent), flush=True)
            spent.clear()
            began = time.perf_counter()
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def resident() -> float:
    """MiB of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure(row: dict[str, Any]) -> list[dict[str, float]]:
    """What `run` told, run in a process of its own."""
    command = [sys.executable, __file__, "run", json.dumps(row)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [json.loads(line) for line in process.stdout]
    if process.returncode:
        raise SystemExit(f"{row['engine']} failed")
    return told


def speed(args: argparse.Namespace) -> None:
    """The table of milliseconds a frame."""
    print(f"| engine | size | objects | ms/frame | {' | '.join(PARTS)} | peak MiB |")
    print("|---" + "|---:" * (len(PARTS) + 4) + "|")
    for objects in args.objects:
        for engine in args.engines:
            row = vars(args) | {"engine": engine, "objects": objects, "small": False}
            *frames, last = measure({key: row[key] for key in row if key != "work"})
            full = frames[WARM:] or frames[-1:]
            parts = [1000 * median(told.get(part, 0) for told in full) for part in PARTS]
            total = 1000 * median(told["seconds"] for told in full)
            cells = [f"{value:,.0f}" for value in (total, *parts, last["peak"])]
            print(f"| {ENGINES[engine]} | {args.size} | {objects} | {' | '.join(cells)} |")


def flat(args: argparse.Namespace) -> None:
    """Resident memory all along the clip: figures and a plot."""
    lines = {}
    for engine in args.engines:
        row = vars(args) | {"engine": engine, "objects": 3, "small": True}
        row["frames"] = args.stock_frames if engine.endswith("stock") else args.frames
        *told, _ = measure({key: row[key] for key in row if key not in ("work", "plot")})
        lines[ENGINES[engine]] = memory = {int(line["frame"]): line["rss"] for line in told}
        first, last = min(300, max(memory) // 2), max(memory)
        grown = memory[last] - memory[first]
        print(
            f"{ENGINES[engine]}: {memory[first]:,.0f} MiB at frame {first}, {memory[last]:,.0f} at "
            f"{last}: {grown:+,.1f} MiB, {1024 * grown / (last - first):+,.1f} KiB a frame"
        )
    if args.plot:
        plot(lines, args.plot)


def plot(lines: dict[str, dict[int, float]], path: Path) -> None:
    """Resident memory over frames, a line each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, memory in lines.items():
        style = "--" if "Video" in name and not name.startswith("ours") else "-"
        axes.plot(list(memory), list(memory.values()), style, label=name)
    axes.set(xlabel="frame", ylabel="resident memory, MiB", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main(argv: Iterable[str]) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    commands.add_parser("run").add_argument("row", type=json.loads)
    for work, frames in ((speed, 12), (flat, 10**9)):
        command = commands.add_parser(work.__name__)
        command.set_defaults(work=work)
        command.add_argument("clip")
        engines = [name for name in ENGINES if name != "read" or work is flat]
        command.add_argument("--engines", nargs="+", choices=engines, default=engines)
        command.add_argument("--frames", type=int, default=frames)
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--batch", type=int, default=1, help="ours: objects at a time")
        command.add_argument("--size", type=int, default=1024)
    commands.choices["speed"].add_argument("--objects", type=int, nargs="+", default=[1, 8])
    commands.choices["flat"].add_argument("--stock-frames", type=int, default=600)
    commands.choices["flat"].add_argument("--plot", type=Path)
    args = parser.parse_args(list(argv))
    run(args.row) if "row" in args else args.work(args)


if __name__ == "__main__":
    main(sys.argv[1:])
