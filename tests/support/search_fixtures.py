"""Fixtures of the search tests: two clips with a rare target, and a model that knows it."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from search_server import serving

from annotate.video.writer import VideoWriter

TARGET_COLOUR = (250, 220, 40)
SHOT_FRAMES = 30
EPISODES = {  # clip -> the frames of each of its shots that show the target
    "ep1.mp4": [(), range(30), (), ()],
    "ep2.mp4": [(), (), range(16, 30), ()],
}
TARGET_FRAMES = {"ep1.mp4": set(range(30, 60)), "ep2.mp4": set(range(76, 90))}


def shot_images(seed, target_frames, count=SHOT_FRAMES, size_wh=(160, 96)):
    """Yield the images of a shot: patches by the seed, and a yellow diamond as the target."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 200, (6, 10, 3)).astype(np.uint8)
    base = np.asarray(Image.fromarray(small).resize(size_wh, Image.Resampling.NEAREST))
    y, x = np.mgrid[: size_wh[1], : size_wh[0]]
    for n in range(count):
        image = base.copy()
        image[(abs(y - 90) < 3) & (abs(x - 5 * n) < 4)] = 255
        if n in target_frames:
            image[abs(x - 90) + abs(y - 50) < 18] = TARGET_COLOUR
        yield image


@pytest.fixture(scope="session")
def search_clips(tmp_path_factory):
    """Make a folder: two clips of four shots, `reference.png`, ground truth as `ep1.gt.json`."""
    folder = tmp_path_factory.mktemp("search_clips")
    for seed, (name, shots) in enumerate(EPISODES.items()):
        with VideoWriter(folder / name, Fraction(10), (160, 96)) as writer:
            for number, target_frames in enumerate(shots):
                for image in shot_images(10 * seed + number, target_frames):
                    writer.write(image)
        records = [
            {"start": SHOT_FRAMES * n, "end": SHOT_FRAMES * (n + 1), "rare_frames": len(frames)}
            for n, frames in enumerate(shots)
        ]
        (folder / f"{name[:3]}.gt.json").write_text(json.dumps({"shots": records}))
    image = next(shot_images(3, range(1)))
    Image.fromarray(image[28:72, 68:112]).save(folder / "reference.png")
    return folder


@pytest.fixture
def search_model(search_clips):
    """Serve a model that answers correctly about both clips."""
    with serving() as model:
        for name, target_frames in TARGET_FRAMES.items():
            model.learn(search_clips / name, target_frames)
        yield model


def find_command(search_clips, model, *more):
    """Make the arguments of `annotate find` with a model, into the folder `found`."""
    clips = [search_clips / name for name in EPISODES]
    reference = search_clips / "reference.png"
    options = ["--reference", reference, "--name", "the robot", "-o", "found", "-d", "vlm"]
    settings = ["--set", f"url={model.url}", "--set", "model=knows", "--set", "wait_seconds=0.01"]
    return ["find", *clips, *options, *settings, *more]


@pytest.fixture
def search_folder(search_clips, search_model, annotate, tmp_path):
    """Fill a folder of search results with one hit in each clip."""
    assert annotate(*find_command(search_clips, search_model))[0] == 0
    return tmp_path / "found"
