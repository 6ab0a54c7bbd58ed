"""Time a push, a second push and a pull of 2,000 frames, compared with one raw POST of the JSON.

    python benchmarks/labelstudio.py [FRAMES]

A Label Studio server is started in a temporary folder, and installed on first use. The raw POST
is a lower bound for sending the same tasks: no checks, no copies of images, no request for
existing tasks. The codec of brush masks is compared with that of the SDK.
"""

import argparse
import json
import shutil
import statistics
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
from annotate.items import brush
from annotate.items.records import Header, Item, Object
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
    rng = np.random.default_rng(1)
    clips = {
        "run.mp4": {"fingerprint": "ab" * 32, "frame_count": frames, "width": 640, "height": 360}
    }
    dataset = Dataset(path, ("mech", "crate"), clips)
    Image.fromarray(rng.integers(0, 255, (360, 640, 3), np.uint8)).save(path.with_suffix(".png"))
    with create_dataset(dataset, Header("build", videos=clips)) as writer:
        for number in range(frames):
            name = f"run-{number:06d}.png"
            (writer.images / name).hardlink_to(path.with_suffix(".png"))
            corners = np.sort(rng.uniform(0, 1, (OBJECTS, 2, 2)) * SIZE, axis=1).round(2)
            boxes = corners.reshape(-1, 4).tolist()
            objects = tuple(Object("mech", (*box,), 0.5, None, None, "noise") for box in boxes)
            writer.add(name, Item("run.mp4", number, Fraction(number, 30), *SIZE, objects))
    return load_dataset(path)


def raw_post(studio: LocalStudio, project: int, dataset: Dataset) -> float:
    """Measure the seconds of one request with all tasks, by the standard library."""
    body = []
    for sample in dataset:
        data = {
            "image": f"/data/local-files/?d={sample.image}",
            **task_data(dataset, sample.item),
        }
        body.append({"data": data, "predictions": [prediction(to_regions(sample.item))]})
    content = json.dumps(body).encode()
    headers = {"Authorization": f"Token {studio.token}", "Content-Type": "application/json"}
    url = f"{studio.url}/api/projects/{project}/import"
    start = time.perf_counter()
    urllib.request.urlopen(urllib.request.Request(url, content, headers)).read()
    return time.perf_counter() - start


def report(step: str, frames: int, seconds: float) -> None:
    """Print the seconds of a step, and its frames per second."""
    print(f"{step:34} {seconds:7.1f} s {frames / seconds:8.0f} frames/s", flush=True)


def time_loop(studio: LocalStudio, dataset: Dataset, out: Path) -> None:
    """Time push, second push and pull."""
    frames, ratios = len(dataset), []
    with studio.client() as server:
        # raw POST and push alternate, because the load of the machine varies
        for round_number in range(1, ROUNDS + 1):
            projects = [
                open_project(server, dataset, f"{name} {round_number}")[0]
                for name in ("raw", "push")
            ]
            raw_seconds = raw_post(studio, projects[0].id, dataset)
            start, cpu_seconds = time.perf_counter(), time.process_time()
            done = push_dataset(dataset, server, project=f"push {round_number}")
            push_seconds = time.perf_counter() - start
            cpu_seconds = time.process_time() - cpu_seconds
            report("one raw POST", frames, raw_seconds)
            report(f"push ({cpu_seconds:.1f} s of own CPU)", frames, push_seconds)
            ratios.append(raw_seconds / push_seconds)
        print(f"{'push, of the raw POST':34} {statistics.median(ratios):7.2f}", end="")
        print(f"   (median of {', '.join(f'{each:.2f}' for each in sorted(ratios))})", flush=True)
        start = time.perf_counter()
        assert push_dataset(dataset, server, project=f"push {round_number}").frame_counts == {
            "unchanged": frames
        }
        report("second push, nothing new", frames, time.perf_counter() - start)
        params = {"id": "predictions_to_annotations", "project": done.project.id}
        everything = {"selectedItems": {"all": True, "excluded": []}}
        server.send("POST", "/api/dm/actions", everything, params=params)
        start = time.perf_counter()
        assert pull_dataset(dataset, server, out, project=f"push {round_number}").frame_counts == {
            "submitted": frames
        }
        report("pull", frames, time.perf_counter() - start)
        start = time.perf_counter()
        pull_dataset(dataset, server, out, project=f"push {round_number}", since_last=True)
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
        rle = brush.encode_brush(mask)
        calls = (
            lambda mask=mask: brush.encode_brush(mask),
            lambda rgba=rgba: sdk.encode_rle(rgba),
            lambda rle=rle, size_wh=size_wh: brush.decode_brush(rle, size_wh),
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", nargs="?", type=int, default=2000)
    frames = parser.parse_args().frames
    time_codec()
    folder = Path(tempfile.mkdtemp())
    studio, process = launch(ensure_program(print), folder / "data")
    try:
        wait_until_ready(studio, process)
        time_loop(studio, make_dataset(folder / "frames", frames), folder / "out")
    finally:
        stop_process(process.pid)
        process.wait()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
