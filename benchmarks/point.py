"""Measure the point page in a real Chromium: latency of clicks and steps, and J after N clicks.

    python benchmarks/make_unseen.py unseen/calm calm --count 4 --seed 901
    python benchmarks/point.py latency unseen/calm [--clicks 20] [--width 854]
    python benchmarks/point.py person unseen/calm [--queue ours|worst|even|random] [--clicks 8]
                               [--frames 60]

A clip is NAME.mp4 with NAME.gt.json and NAME.points.csv. `latency` prints p50 and p95 in
milliseconds, from the event to the second animation frame after the drawing; also those of clicks
on a further object while the first one is propagated. `person` opens the page of each clip, clicks
the objects of the points file by pixel, propagates, and goes on to the frames that the queue names;
on each it clicks into the largest wrong part. Printed is the mean J after each click of an object.
Both use at most the first `--frames`. CHROMIUM=PATH names another browser.
"""

import argparse
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
from corrections import largest_part
from review import read
from stretches import deepest_point

from annotate.evaluation import metrics
from annotate.items import masks
from annotate.items.records import Rle
from annotate.video import reader
from annotate.video.writer import VideoWriter
from annotate.web.point.launch import PointFiles, PointOptions, open_page

TIMER = """
window.times = [];
const note = (name, begun) => requestAnimationFrame(() => requestAnimationFrame(
    () => window.times.push([name, performance.now() - begun])));
let clicked = null, pressed = null;
addEventListener("pointerdown", () => { clicked = performance.now(); }, true);
addEventListener("keydown", () => { pressed = performance.now(); }, true);
new MutationObserver((changes) => {
    for (const { attributeName: name } of changes) {
        if (name === "data-masks" && clicked !== null) { note("click", clicked); clicked = null; }
        if (name === "data-shown" && pressed !== null) { note("step", pressed); pressed = null; }
    }
}).observe(document.body, { attributes: true });
"""
SCREEN_XY = """([x, y]) => {
    const matrix = new DOMMatrix(getComputedStyle(document.getElementById("view")).transform);
    const box = document.getElementById("stage").getBoundingClientRect();
    return [box.x + matrix.e + x * matrix.a, box.y + matrix.f + y * matrix.a];
}"""


class Page:
    """The page of one clip, as a person uses it."""

    def __init__(self, page: Any, address: str) -> None:
        self._page = page
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.evaluate(TIMER)
        self._revision = 0

    def click(self, x: float, y: float, *, outside: bool = False) -> None:
        """Click on a pixel of the clip, and wait for the mask."""
        self._revision += 1
        frame = self._page.evaluate("document.body.dataset.shown")
        button = "right" if outside else "left"
        self._page.mouse.click(*self._page.evaluate(SCREEN_XY, [x, y]), button=button)
        self._page.wait_for_selector(f"body[data-masks='{frame}:{self._revision}']")

    def go_to(self, frame: int) -> None:
        """Go to a frame by its number."""
        self._page.keyboard.press("g")
        self._page.keyboard.type(str(frame))
        self._page.keyboard.press("Enter")
        self._page.wait_for_selector(f"body[data-shown='{frame}']")

    def press(self, key: str) -> None:
        """Press a key."""
        self._page.keyboard.press(key)

    def pause(self, milliseconds: int) -> None:
        """Wait, as a person does between two actions."""
        self._page.wait_for_timeout(milliseconds)

    def propagate(self, frame: int) -> None:
        """Propagate from a frame, and wait for the end."""
        self.go_to(frame)
        self.begin_propagation()
        self._page.wait_for_selector("#stop[disabled]", state="attached", timeout=3_600_000)

    def begin_propagation(self) -> None:
        """Propagate from the frame that is shown; returns once the page says that it does."""
        self._page.keyboard.press("f")
        self._page.wait_for_selector("#stop:not([disabled])", timeout=120_000)

    def wait_until_left(self, frame: int) -> None:
        """Wait until the page, which follows the propagation, shows another frame."""
        self._page.wait_for_selector(f"body:not([data-shown='{frame}'])")

    @property
    def is_propagating(self) -> bool:
        """True while the page says that it propagates."""
        return bool(self._page.evaluate("!document.getElementById('stop').disabled"))

    def times(self) -> list[tuple[str, float]]:
        """Return and forget the times so far: (name, milliseconds)."""
        times: list[tuple[str, float]] = self._page.evaluate("window.times.splice(0)")
        return times

    def fetch(self, path: str) -> Any:
        """Return the JSON of a request with the page's token."""
        return self._page.evaluate(
            "(path) => import('/static/local.js').then((m) => m.call(path)).then((a) => a.json())",
            path,
        )


@contextmanager
def open_clip(browser: Any, clip: Path, folder: Path) -> Iterator[Page]:
    """Open the page of a clip, with its files in a folder."""
    files = PointFiles(folder / "points.csv", folder / "masks.jsonl", folder / "dataset")
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(600_000)  # of a busy machine
    with open_page(clip, files, PointOptions()) as address:
        yield Page(context.new_page(), address)
        context.close()


def resized(clip: Path, width: int | None, frames: int | None, folder: Path) -> tuple[Path, float]:
    """Write the first frames of a clip in another width; returns its path and the factor."""
    video = reader.probe(clip)
    if frames is None and width in (None, video.width):
        return clip, 1.0
    scale = (width or video.width) / video.width
    size_wh = width or video.width, round(video.height * scale / 2) * 2
    path = folder / clip.name
    with VideoWriter(path, float(video.rate), size_wh) as writer:
        for frame in reader.frames(clip, stop=frames):
            writer.write(cv2.resize(frame.image, size_wh, interpolation=cv2.INTER_AREA))
    return path, scale


RUNNING = "click, while propagating"


def measure_latency(
    browser: Any, clips: list[Path], clicks: int, width: int | None, frames: int | None
) -> None:
    """Print the times of clicks on a frame just reached, further clicks, and steps."""
    times: dict[str, list[float]] = {
        "click, first on a frame": [],
        "click": [],
        RUNNING: [],
        "step": [],
    }
    for clip in clips:
        with TemporaryDirectory() as scratch:
            path, scale = resized(clip, width, frames, Path(scratch))
            first = pd.read_csv(clip.with_suffix(".points.csv")).iloc[0]
            x, y = first["x"] * scale, first["y"] * scale
            with open_clip(browser, path, Path(scratch)) as page:
                page.go_to(int(first["frame_id"]))
                for number in range(clicks):
                    page.click(*spread(x, y, number))
                found = [each for name, each in page.times() if name == "click"]
                times["click, first on a frame"] += found[:1]
                times["click"] += found[1:]
                times[RUNNING] += clicks_while_propagating(
                    page, int(first["frame_id"]), (x, y), clicks
                )
                page.pause(500)
                page.times()
                for _ in range(clicks):
                    page.press("ArrowRight")
                    page.pause(60)
                times["step"] += [each for name, each in page.times() if name == "step"]
    for name, found in times.items():
        p50, p95 = np.percentile(found, (50, 95)) if found else (np.nan, np.nan)
        print(f"{name:26} n {len(found):4}   p50 {p50:6.0f} ms   p95 {p95:6.0f} ms", flush=True)


def spread(x: float, y: float, number: int) -> tuple[float, float]:
    """Return the place of a click of several: a click on an earlier point would remove it."""
    return max(x + 24 * (number % 5 - 2), 1), max(y + 24 * (number // 5 % 5 - 1), 1)


def clicks_while_propagating(
    page: Page, frame: int, xy: tuple[float, float], clicks: int
) -> list[float]:
    """Return the times of clicks on a new object while the others are propagated.

    With an engine whose objects are not independent, such as `light`, each click ends the run, and
    the next click begins another.
    """
    times: list[float] = []
    for number in range(clicks):
        page.go_to(frame)
        if not page.is_propagating:
            page.begin_propagation()
        page.wait_until_left(frame)
        page.go_to(frame)
        page.press("o" if number == 0 else "2")
        page.times()
        page.click(*spread(*xy, number))
        page.pause(200)
        times += [each for name, each in page.times() if name == "click"]
    return times


def next_frame(queue: str, page: Page, ious: dict[int, float], done: set[int], step: int) -> int:
    """Choose the frame on which the person clicks next."""
    left = sorted(frame for frame in ious if frame not in done)
    if queue == "worst":
        return min(left, key=lambda frame: ious[frame])
    if queue == "random":
        return random.Random(step).choice(left)
    if queue == "even":  # the middle of the longest stretch without a click
        marks = sorted({left[0], left[-1], *done & set(range(left[0], left[-1]))})
        low, high = max(pairwise(marks), key=lambda pair: pair[1] - pair[0])
        return min(left, key=lambda frame: abs(frame - (low + high) / 2))
    stops = [stop["frame"] for stop in page.fetch("state")["queue"]]
    return next((frame for frame in stops if frame in left), left[len(left) // 2])


def true_masks(truth: dict[int, list[dict[str, Any]]], object_id: int) -> dict[int, Rle]:
    """Return the true masks of an object by frame."""
    return {
        frame: each["segmentation"]
        for frame, annotations in truth.items()
        for each in annotations
        if each["track_id"] == object_id and each["area"] >= metrics.MIN_AREA
    }


def shown_masks(page: Page, truths: dict[int, dict[int, Rle]]) -> dict[int, dict[int, Rle]]:
    """Return the masks that the page shows of these objects: object -> frame -> mask."""
    found: dict[int, dict[int, Rle]] = {number: {} for number in truths}
    for frame in sorted(set().union(*truths.values())):
        for each in page.fetch(f"masks/{frame}")["objects"]:
            if each["id"] in found:
                found[each["id"]][frame] = each["mask"]
    return found


def measure_person(
    browser: Any, clip: Path, queue: str, clicks: int, frames: int | None
) -> list[float]:
    """Return the mean J over the objects of a clip after each round of clicks."""
    truth, _ = read(clip.with_suffix(".gt.json"))
    points = pd.read_csv(clip.with_suffix(".points.csv")).drop_duplicates("object_id")
    if frames is not None:
        truth = {frame: found for frame, found in truth.items() if frame < frames}
        points = points[points["frame_id"] < frames]
    first, scores = int(points["frame_id"].min()), []
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        path, _ = resized(clip, None, frames, Path(scratch))
        page = stack.enter_context(open_clip(browser, path, Path(scratch)))
        ids = {}
        for row in points.itertuples():
            page.go_to(int(row.frame_id))
            if ids:
                page.press("o")
            page.click(row.x, row.y)
            ids[len(ids) + 1] = int(row.object_id)
        done: dict[int, set[int]] = {each: set() for each in ids}
        truths = {number: true_masks(truth, object_id) for number, object_id in ids.items()}
        for step in range(clicks):
            page.propagate(first)
            shown = shown_masks(page, truths)
            means = []
            for number, true in truths.items():
                found = shown[number]
                ious = {f: masks.iou(found[f], true[f]) if f in found else 0.0 for f in true}
                means.append(float(np.mean(list(ious.values()))))
                frame = next_frame(queue, page, ious, done[number], step)
                done[number].add(frame)
                wanted = masks.decode(true[frame])
                mask = masks.decode(found[frame]) if frame in found else np.zeros_like(wanted)
                x, y = deepest_point(largest_part(wanted ^ mask))
                page.press(str(number))
                page.go_to(frame)
                page.click(x + 0.5, y + 0.5, outside=not wanted[int(y), int(x)])
            scores.append(float(np.mean(means)))
    return scores


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("latency", "person"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clicks", type=int, default=8)
    parser.add_argument("--width", type=int)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--queue", choices=("ours", "worst", "even", "random"), default="ours")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    clips = sorted(args.folder.glob("*.mp4"))
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if args.what == "latency":
            measure_latency(browser, clips, args.clicks, args.width, args.frames)
            return
        results = []
        for clip in clips:
            results.append(measure_person(browser, clip, args.queue, args.clicks, args.frames))
            print(clip.stem, *(f"{score:.3f}" for score in results[-1]), flush=True)
        print(args.queue, *(f"{score:.3f}" for score in np.mean(results, axis=0)))


if __name__ == "__main__":
    main()
