"""Time a push, a second push and a pull of 2,000 frames, compared with one raw POST of the JSON.

    python benchmarks/labelstudio.py [FRAMES]

A Label Studio server is started in a temporary folder, and installed on first use. The raw POST
is a lower bound for sending the same tasks: no checks, no images put in place, no request for
existing tasks. The codec of brush masks is compared with that of the SDK.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from annotate.dataset.folder import Dataset, create_dataset, load_dataset
from annotate.items.records import Header, Item, Object
from annotate.labelstudio import regions
from annotate.labelstudio.pull import pull_dataset
from annotate.labelstudio.push import open_project, push_dataset
from annotate.labelstudio.regions import to_regions
from annotate.labelstudio.server import (
    LocalStudio,
    ensure_program,
    launch,
    stop_process,
    wait_until_ready,
)
from annotate.labelstudio.tasks import prediction, task_data

SIZE = 640, 360
OBJECTS = 10
ROUNDS = 5


def make_dataset(path: Path, frames: int) -> Dataset:
    """Make a dataset of frames that share one image on disk, with random boxes."""
    noise = np.random.default_rng(1)
    clips = {
        "run.mp4": {"fingerprint": "ab" * 32, "frame_count": frames, "width": 640, "height": 360}
    }
    made = Dataset(path, ("mech", "crate"), clips)
    Image.fromarray(noise.integers(0, 255, (360, 640, 3), np.uint8)).save(path.with_suffix(".png"))
    with create_dataset(made, Header("build", videos=clips)) as writer:
        for number in range(frames):
            name = f"run-{number:06d}.png"
            (writer.images / name).hardlink_to(path.with_suffix(".png"))
            corners = np.sort(noise.uniform(0, 1, (OBJECTS, 2, 2)) * SIZE, axis=1).round(2)
            boxes = corners.reshape(-1, 4).tolist()
            objects = tuple(Object("mech", tuple(box), 0.5, None, None, "noise") for box in boxes)
            writer.add(name, Item("run.mp4", number, Fraction(number, 30), *SIZE, objects))
    return load_dataset(path)


def raw_post(own: LocalStudio, project: int, made: Dataset) -> float:
    """Measure the seconds of one request with all tasks, by the standard library."""
    body = []
    for sample in made:
        data = {
            "image": f"/data/local-files/?d={sample.image}",
            **task_data(made, sample.item),
        }
        body.append({"data": data, "predictions": [prediction(to_regions(sample.item))]})
    content = json.dumps(body).encode()
    headers = {"Authorization": f"Token {own.token}", "Content-Type": "application/json"}
    url = f"{own.url}/api/projects/{project}/import"
    start = time.perf_counter()
    urllib.request.urlopen(urllib.request.Request(url, content, headers)).read()
    return time.perf_counter() - start


def report(step: str, frames: int, seconds: float) -> None:
    """Print the seconds of a step, and its frames per second."""
    print(f"{step:34} {seconds:7.1f} s {frames / seconds:8.0f} frames/s", flush=True)


def time_loop(own: LocalStudio, made: Dataset, out: Path) -> None:
    """Time push, second push and pull."""
    frames, ratios = len(made), []
    with own.client() as server:
        for turn in range(1, ROUNDS + 1):  # alternating, because the load of the machine varies
            ready = [
                open_project(server, f"{name} {turn}", made.classes)[0] for name in ("raw", "push")
            ]
            raw = raw_post(own, ready[0].id, made)
            start, busy = time.perf_counter(), time.process_time()
            done = push_dataset(made, server, project=f"push {turn}")
            ours, busy = time.perf_counter() - start, time.process_time() - busy
            report("one raw POST", frames, raw)
            report(f"push ({busy:.1f} s of own CPU)", frames, ours)
            ratios.append(raw / ours)
        print(f"{'push, of the raw POST':34} {statistics.median(ratios):7.2f}", end="")
        print(f"   (median of {', '.join(f'{each:.2f}' for each in sorted(ratios))})", flush=True)
        start = time.perf_counter()
        assert push_dataset(made, server, project=f"push {turn}").frame_counts == {
            "unchanged": frames
        }
        report("second push, nothing new", frames, time.perf_counter() - start)
        params = {"id": "predictions_to_annotations", "project": done.project.id}
        everything = {"selectedItems": {"all": True, "excluded": []}}
        server.send("POST", "/api/dm/actions", everything, params=params)
        start = time.perf_counter()
        assert pull_dataset(made, server, out, project=f"push {turn}").frame_counts == {
            "submitted": frames
        }
        report("pull", frames, time.perf_counter() - start)
        start = time.perf_counter()
        pull_dataset(made, server, out, project=f"push {turn}", since_last=True)
        report("pull --since last", frames, time.perf_counter() - start)


def time_codec() -> None:
    """Print the milliseconds to encode and decode masks, with ours and the codec of the SDK."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from label_studio_sdk.converter import brush as sdk
    print(f"{'mask':28} {'encode':>8} {'SDK':>8} {'decode':>8} {'SDK':>8}   ms")
    ragged = np.random.default_rng(2).random((1080 // 4, 1920 // 4)) < 0.5
    y, x = np.mgrid[:427, :640]
    masks = {
        "ellipse 640x427": (x - 320) ** 2 / 9 + (y - 213) ** 2 / 4 < 3000,
        "ragged 1920x1080": np.kron(ragged, np.ones((4, 4), bool)),
        "full 4000x3000": np.ones((3000, 4000), bool),
    }
    for name, mask in masks.items():
        size_wh = mask.shape[::-1]
        rgba = np.repeat(mask.ravel() * np.uint8(255), 4)
        rle = regions.encode_brush(mask)
        calls = (
            lambda mask=mask: regions.encode_brush(mask),
            lambda rgba=rgba: sdk.encode_rle(rgba),
            lambda rle=rle, size_wh=size_wh: regions.decode_brush(rle, size_wh),
            lambda rle=rle: sdk.decode_rle(rle),
        )
        print(f"{name:28}", *(f"{best_seconds(call) * 1000:8.1f}" for call in calls), flush=True)


def best_seconds(call: Callable[[], object]) -> float:
    """Measure the seconds of the fastest of five calls."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure the codec, then the loop with a server."""
    frames = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    time_codec()
    here = Path(tempfile.mkdtemp())
    own, process = launch(ensure_program(print), here / "data")
    try:
        wait_until_ready(own, process)
        time_loop(own, make_dataset(here / "frames", frames), here / "out")
    finally:
        stop_process(process.pid)
        process.wait()
        shutil.rmtree(here)


if __name__ == "__main__":
    main()
