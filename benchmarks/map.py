"""Measure the footage map: memory and time for 67,000 frames, the speed of a page of 50,000 frames,
and the time to find the clips most similar to one among a thousand.

    python benchmarks/map.py                                        # synthetic footage
    python benchmarks/map.py EP1.mp4 ... --truth EP1.gt.json ...    # which network separates shots

The frames are synthetic, all other code is real. The page is opened in Chromium, if it is
installed.
"""

import argparse
import itertools
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from annotate import embeddings
from annotate.footage_map import atlas, projection, similarity
from annotate.items.records import Frame
from annotate.video import reader
from annotate.web import map as map_page

FRAMES, ON_PAGE, SHOT = 67_000, 50_000, 48


class DrawnSource:
    """A source of synthetic frames: moving shots with different colours, the same in each run."""

    path = Path("drawn.mp4")

    def __init__(self, count: int) -> None:
        self.total = count

    def count(self) -> int:
        """Return the number of frames."""
        return self.total

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """Yield small images of coloured patches."""
        for n in range(skip, self.total):
            rng = np.random.default_rng(n // SHOT)
            patches = rng.integers(0, 256, (5, 8, 3)).astype(np.uint8)
            image = cv2.resize(patches, (320, 180), interpolation=cv2.INTER_CUBIC)
            yield Frame("drawn.mp4", n, Fraction(n, 2), np.roll(image, n % SHOT, axis=1))

    def videos(self) -> dict[str, dict[str, Any]]:
        """Return the header entry of the clip."""
        facts = {"frame_count": self.total, "width": 320, "height": 180}
        return {"drawn.mp4": {"path": "drawn.mp4", "fingerprint": "", **facts}}


def peak_gb() -> float:
    """Return the peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure_map(folder: Path, count: int, method: str, encode_every: int) -> None:
    """Gather and lay out `count` frames; the network encodes one frame in `encode_every`."""

    class SparseEmbedder(embeddings.ShippedEmbedder):
        def encode(self, pictures: Any) -> Any:
            encoded = super().encode(pictures[::encode_every])
            rows = np.repeat(encoded, encode_every, axis=0)[: len(pictures)]
            return rows + np.random.default_rng(0).normal(0, 0.02, rows.shape)

    source, start = DrawnSource(count), time.perf_counter()
    sprites = map_page.SpriteSheets(map_page.thumbnail_size_wh(count, (320, 180)))
    frame_vectors = atlas.gather([source], SparseEmbedder(), lambda frame: sprites.add(frame.image))  # type: ignore[list-item]
    gather_seconds = time.perf_counter() - start
    built_atlas = atlas.lay_out(frame_vectors, [source], method, {}, 0)  # type: ignore[list-item]
    layout_seconds = time.perf_counter() - start - gather_seconds
    map_page.write_page(built_atlas, sprites, folder, "drawn")
    size = (folder / map_page.PAGE_NAME).stat().st_size / 1e6
    print(
        f"{count:,} frames: gathered in {gather_seconds:.0f} s (the network at 1 of "
        f"{encode_every}), laid out by {method} in {layout_seconds:.0f} s, "
        f"peak {peak_gb():.2f} GB, page {size:.0f} MB"
    )


def write_page(folder: Path, count: int) -> None:
    """Write a page of `count` points in clusters, with thumbnails of few images."""
    rng = np.random.default_rng(0)
    sprites = map_page.SpriteSheets(map_page.thumbnail_size_wh(count, (320, 180)))
    pictures = [
        frame.image for frame in itertools.islice(DrawnSource(200 * SHOT).frames(), 0, None, SHOT)
    ]
    for n in range(count):
        sprites.add(pictures[n % len(pictures)])
    centres = rng.random((count // 50, 2))
    points = centres[np.arange(count) % len(centres)] + rng.normal(0, 0.01, (count, 2))
    times, clip = tuple(Fraction(n, 2) for n in range(count)), np.zeros(count, np.int64)
    facts = DrawnSource(count).videos()
    xy = projection.spread_points(points)
    built_atlas = atlas.Atlas(("drawn.mp4",), facts, {}, clip, np.arange(count), times, xy)
    map_page.write_page(built_atlas, sprites, folder, "drawn")


_MOVE = """async () => {
  const times = [], work = [], a = window.atlas; let last = 0;
  for (let n = 0; n < 180; n++) {
    const now = await new Promise(requestAnimationFrame);
    if (last) times.push(now - last);
    last = now;
    if (n % 60 < 30) { a.view.left -= 7; a.view.top -= 4; }
    else a.zoom(n < 120 ? 1.06 : 0.945, 700, 450);
    const begun = performance.now(); a.draw(); work.push(performance.now() - begun);
  }
  return { times, work, shown: a.shown().length };
}"""


def measure_page(folder: Path) -> None:
    """Pan and zoom for 180 frames; print the time to draw one, and the frames a second."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium: the page was not measured")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        start = time.perf_counter()
        page.goto((folder / map_page.PAGE_NAME).as_uri())
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        loaded = time.perf_counter() - start
        measured = page.evaluate(_MOVE)
        browser.close()
    draw_times, times = sorted(measured["work"]), sorted(measured["times"])
    print(
        f"page: ready after {loaded:.1f} s; drawing takes {statistics.median(draw_times):.1f} ms "
        f"(median), {draw_times[int(0.99 * len(draw_times))]:.1f} ms (99th percentile); "
        f"{1000 / statistics.median(times):.0f} frames a second, without a graphics card"
    )


def measure_networks(clips: list[Path], truths: list[Path], names: list[str]) -> None:
    """Print the share of the five nearest frames that are of the same shot, by network."""
    shots = {p.name.split(".")[0]: json.loads(p.read_text("utf-8"))["shots"] for p in truths}
    for name in names:
        network, rows, shot_ids, clip_of, seconds = embeddings.load(name), [], [], [], []
        begun = time.perf_counter()
        for number, clip in enumerate(clips):
            for frame in reader.frames(clip, every=6):
                shot = next(s for s in shots[clip.stem] if s["start"] <= frame.index < s["end"])
                rows.append(embeddings.embed([frame.image], network)[0])
                shot_ids.append((number, shot["id"]))
                clip_of.append(number)
                seconds.append(float(frame.seconds))
        per_frame = (time.perf_counter() - begun) / len(rows) * 1000
        stacked = np.array(rows)
        vectors = projection.principal_components(lambda stacked=stacked: [stacked])  # type: ignore[misc]
        shares = [f"vectors {neighbour_share(vectors, shot_ids):.3f}"]
        for method in projection.PROJECTION_METHODS:
            try:
                positions = projection.project(
                    vectors, projection.choose_method(method), np.array(clip_of), np.array(seconds)
                )
            except Exception as error:
                shares.append(f"{method}: {error}")
                continue
            shares_of_method = (
                neighbour_share(positions, shot_ids),
                neighbour_share(projection.spread_points(positions), shot_ids),
            )
            shares.append(
                f"{method} {shares_of_method[0]:.3f}, stretched {shares_of_method[1]:.3f}"
            )
        print(f"{name}: {per_frame:.0f} ms a frame; {'; '.join(shares)}")


def measure_similar(clips: int, frames: int) -> None:
    """Time the search for clips similar to one, and a faiss index of the same embeddings."""
    import faiss

    rng = np.random.default_rng(0)

    class VectorsInMemory(atlas.FrameVectors):
        def clip_vectors(self, name: str) -> Any:
            return rows[self.frames_by_clip[name]]

    names = [f"{number}.mp4" for number in range(clips)]
    steps = rng.standard_normal((clips, frames, 2560), np.float32)
    rows = steps.cumsum(1).reshape(clips * frames, -1)
    frame_vectors = VectorsInMemory(clips={name: {} for name in names})
    frame_vectors.clip_index = np.repeat(np.arange(clips), frames).tolist()
    frame_vectors.seconds = [Fraction(n % frames, 2) for n in range(clips * frames)]
    frame_vectors.frames_by_clip = {
        n: list(range(k * frames, (k + 1) * frames)) for k, n in enumerate(names)
    }
    for method in similarity.SIMILARITY_METHODS:
        begun = time.perf_counter()
        similarity.similar_clips(frame_vectors, names[0], method=method)
        seconds = time.perf_counter() - begun
        print(f"similar by {method} among {clips} clips of {frames}: {seconds:.1f} s")
    begun = time.perf_counter()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    built = time.perf_counter()
    index.search(rows[:frames], 100)
    print(
        f"faiss: {built - begun:.1f} s to fill an index, {time.perf_counter() - built:.1f} to ask"
    )


def neighbour_share(rows: Any, shot_ids: list[tuple[int, int]]) -> float:
    """Return the mean share of a row's five nearest rows that have the same kind."""
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    near = distances.argsort(1)[:, :5]
    return float(np.mean([[shot_ids[m] == shot_ids[n] for m in row] for n, row in enumerate(near)]))


def main() -> None:
    """Run the measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--truth", nargs="*", type=Path, default=[])
    parser.add_argument("--network", nargs="*", default=[embeddings.DEFAULT_EMBEDDER])
    parser.add_argument("--method", default=None)
    parser.add_argument("--frames", type=int, default=FRAMES, help="0: measure the page alone")
    parser.add_argument("--encode-every", type=int, default=16, help="1: the network encodes all")

    arguments = parser.parse_args()
    if arguments.clips:
        measure_networks(arguments.clips, arguments.truth, arguments.network)
        return
    method = projection.choose_method(arguments.method)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.frames:
            measure_map(Path(folder), arguments.frames, method, arguments.encode_every)
        write_page(Path(folder), ON_PAGE)
        measure_page(Path(folder))
    measure_similar(1000, 86)


if __name__ == "__main__":
    main()
