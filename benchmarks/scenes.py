"""Measure scenes: the speed of queries and of adding, and the share of correct results.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/scenes.py EPISODE [EPISODE ...] \
        [--foreign CLIP ...] [--queries FOLDER]
    python benchmarks/scenes.py --cost CLIP

Speed: a million random hashes, in memory and in a file. Accuracy: random frames of the episodes,
each altered in ten ways, are looked up in a database of all episodes. False matches: frames are
looked up in a database without their own episode, and frames of the foreign clips in a database of
all episodes. The queries are a folder with a `queries.json`, whose entries name `file`,
`alteration` and, if the picture is from an episode, `episode` and `frame`.

Cost: a long clip is decoded, added and cut into shots, each in a process of its own: seconds, peak
memory, and the size of the database for an hour of it.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from annotate.items.records import Frame, Picture
from annotate.sampling import phash, shots
from annotate.scenes import index, library
from annotate.scenes.fingerprint import SHAPE_WH, Fingerprint
from annotate.scenes.index import SceneIndex, SceneResult
from annotate.scenes.packing import StoredFrame
from annotate.scenes.store import SceneStore, StoredClip
from annotate.video import reader

Random = np.random.Generator
MILLION = 1_000_000
ADDED = 50_000
DRAWN = 40  # frames of each episode


def _crop(picture: Picture, rng: Random) -> Picture:
    height, width = picture.shape[:2]
    w, h = rng.uniform(0.7, 0.95, 2) if rng.random() < 0.5 else [rng.uniform(0.7, 0.95)] * 2
    x, y = int(rng.uniform(0, 1 - w) * width), int(rng.uniform(0, 1 - h) * height)
    return picture[y : y + int(h * height), x : x + int(w * width)]


def _bright(picture: Picture, rng: Random) -> Picture:
    levels = picture * rng.uniform(1.1, 1.5) + rng.uniform(0, 40)
    return np.clip(levels, 0, 255).astype(np.uint8)


def _saturated(picture: Picture, rng: Random) -> Picture:
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.minimum(hsv[..., 1] * rng.uniform(1.5, 2.5), 255)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _overlaid(picture: Picture, rng: Random) -> Picture:
    shown = picture.copy()
    height, width = picture.shape[:2]
    x, y = int(rng.uniform(0, 0.7) * width), int(rng.uniform(0, 0.8) * height)
    colour = tuple(int(level) for level in rng.integers(0, 255, 3))
    cv2.rectangle(shown, (x, y), (x + int(0.3 * width), y + int(0.2 * height)), colour, -1)
    cv2.putText(shown, "LIVE 12:30", (10, height - 20), 0, width / 500, (255, 255, 255), 2)
    return shown


def _jpeg(picture: Picture, rng: Random) -> Picture:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(12, 40))]
    return cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR)


ALTERED = {
    "as it is": lambda picture, rng: picture,
    "jpeg": _jpeg,
    "small": lambda picture, rng: cv2.resize(picture, None, fx=0.4, fy=0.4),
    "bright": _bright,
    "dark": lambda picture, rng: (picture * rng.uniform(0.5, 0.8)).astype(np.uint8),
    "grey": lambda picture, rng: cv2.merge([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)] * 3),
    "saturated": _saturated,
    "overlaid": _overlaid,
    "cropped": _crop,
    "cropped, bright": lambda picture, rng: _bright(_crop(picture, rng), rng),
}


def speed() -> None:
    """Print the milliseconds of a lookup among a million hashes, and the frames added a second."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, MILLION).astype(np.uint64)
    seconds = []
    for query in hashes[:20]:
        start = time.perf_counter()
        rows = index.nearest_rows(phash.hamming_distances(int(query), hashes), 60)
        seconds.append(time.perf_counter() - start)
        assert len(rows) == 60
    print(f"a lookup among {MILLION:,} hashes: {np.median(seconds) * 1000:.1f} ms")
    wide, high = SHAPE_WH
    frames = [
        StoredFrame(
            n,
            Fraction(n, 30),
            Fingerprint(
                rng.integers(0, 2**63, 6).astype(np.uint64),
                rng.integers(0, 32, 33).astype(np.uint8),
                rng.integers(0, 255, (high, wide)).astype(np.uint8),
            ),
        )
        for n in range(ADDED)
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        SceneStore(Path(folder) / "a.db", create=True) as db,
    ):
        clip = StoredClip(0, "a.mp4", "a", "a.mp4", 640, 360, Fraction(ADDED, 30), ADDED)
        start = time.perf_counter()
        db.add(clip, frames)
        print(f"added to the file: {ADDED / (time.perf_counter() - start):,.0f} frames a second")


def pictures(clip: Path, rng: Random, count: int) -> Iterator[tuple[Frame, str, Picture]]:
    """Yield random frames of a clip, each altered in every way: (frame, alteration, picture)."""
    frame_count = reader.probe(clip).frame_count or 0
    indices = rng.choice(frame_count, min(count, frame_count), replace=False)
    for frame in reader.frames_at(clip, indices.tolist()):
        for name, alter in ALTERED.items():
            yield frame, name, np.ascontiguousarray(alter(frame.image, rng))


def is_correct(result: SceneResult, name: str, seconds: Fraction) -> bool:
    """Return True if the match is in the clip of this name, within a second."""
    match = result.match
    return match is not None and match.clip.name == name and abs(match.seconds - seconds) <= 1


def accuracy(episodes: list[Path], foreign: list[Path], folder: Path) -> None:
    """Print the share of correct results by alteration, and of false matches."""
    rng, correct, distances = np.random.default_rng(0), defaultdict(list), defaultdict(list)
    start = time.perf_counter()
    library.add(episodes, folder / "all.db")
    frames = sum(reader.probe(clip).frame_count or 0 for clip in episodes)
    rate = frames / (time.perf_counter() - start)
    print(f"decoded, fingerprinted and added: {rate:.0f} frames a second")
    with SceneStore(folder / "all.db") as db:
        scenes = SceneIndex(db)
        start, count = time.perf_counter(), 0
        for clip in episodes:
            for frame, name, picture in pictures(clip, rng, DRAWN):
                result = scenes.find(picture)
                correct[name].append(is_correct(result, clip.name, frame.seconds))
                distances["of the show"].append(result.nearest.distance)
                count += 1
        each = (time.perf_counter() - start) / count
        print(f"a query, cropped or not: {each * 1000:.0f} ms")
        for clip in foreign:
            for _, _, picture in pictures(clip, rng, 10):
                distances["foreign"].append(scenes.find(picture).nearest.distance)
    for left_out in episodes:
        others = folder / f"without-{left_out.stem}.db"
        library.add([clip for clip in episodes if clip != left_out], others)
        with SceneStore(others) as db:
            scenes = SceneIndex(db)
            for _, _, picture in pictures(left_out, rng, 15):
                distances["foreign"].append(scenes.find(picture).nearest.distance)
    for name, each in correct.items():
        print(f"{name}\t{np.mean(each):.3f} of {len(each)}")
    for kind, each in distances.items():
        levels = np.quantile(each, (0, 0.01, 0.5, 0.99, 1))
        print(f"distance, {kind}: " + " ".join(f"{level:.2f}" for level in levels), len(each))
    false = np.mean(np.array(distances["foreign"]) < index.UNKNOWN_DISTANCE)
    print(f"false matches: {false:.4f} of {len(distances['foreign'])}")


def queries(queries_folder: Path, episodes: list[Path], folder: Path) -> None:
    """Print the share of correct results and of false matches for a folder of queries."""
    rates, results, false = {clip.stem: reader.probe(clip).rate for clip in episodes}, [], []
    with SceneStore(folder / "all.db") as db:
        scenes = SceneIndex(db)
        for query in json.loads((queries_folder / "queries.json").read_text()):
            result = scenes.find(next(iter(reader.frames(queries_folder / query["file"]))).image)
            if "episode" not in query:
                false.append(result.match is not None)
                continue
            seconds = query["frame"] / rates[query["episode"]]
            cropped = "crop" in query["alteration"]
            name = next(clip.name for clip in episodes if clip.stem == query["episode"])
            results.append((cropped, is_correct(result, name, seconds)))
    whole = [correct for cropped, correct in results if not cropped]
    share = f"{np.mean([correct for _, correct in results]):.3f} of {len(results)}"
    print(f"queries: {share}; not cropped {np.mean(whole):.3f}; false {sum(false)} of {len(false)}")


def _measure(task: str, clip: Path, db: Path, results: "multiprocessing.Queue[object]") -> None:
    cv2.setNumThreads(1)
    start = time.perf_counter()
    if task == "scenes":
        library.add([clip], db)
    else:
        frames = reader.frames(clip)
        for _ in shots.detect(frames) if task == "shots" else frames:
            pass
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    results.put((time.perf_counter() - start, cpu, usage.ru_maxrss / 1024))


def cost(clip: Path) -> None:
    """Print the time and memory of decoding, adding and cutting a clip; the size of an hour."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        db, plain = Path(folder) / "cost.db", 0.0
        for task in ("decode", "scenes", "shots"):
            results = context.Queue()
            child = context.Process(target=_measure, args=(task, clip, db, results))
            child.start()
            seconds, cpu, megabytes = results.get()
            child.join()
            plain = plain or seconds
            print(f"{task}: {seconds:.1f} s, {seconds / plain:.2f} times the decoding", end="; ")
            print(f"{cpu:.1f} s of processors; {megabytes:.0f} MB of memory")
        hours = float(reader.probe(clip).duration_seconds) / 3600
        print(f"database: {db.stat().st_size / hours / 1e6:.1f} MB an hour")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("episodes", nargs="*", type=Path)
    parser.add_argument("--cost", type=Path)
    parser.add_argument("--foreign", nargs="*", type=Path, default=[])
    parser.add_argument("--queries", type=Path)
    arguments = parser.parse_args()
    if arguments.cost:
        cost(arguments.cost)
    if arguments.episodes:
        speed()
        with tempfile.TemporaryDirectory() as folder:
            accuracy(arguments.episodes, arguments.foreign, Path(folder))
            if arguments.queries:
                queries(arguments.queries, arguments.episodes, Path(folder))
