"""Make held-out clips to measure `light` on: used for no training and no choice of settings.

    pip install vizdoom==1.3.2
    python benchmarks/make_unseen.py unseen/calm calm --count 8 --seed 601
    python benchmarks/make_unseen.py unseen/fight fight --count 8 --seed 602
    python benchmarks/light.py clicks unseen/calm
    python benchmarks/light.py clicks unseen/fight

Two or three monsters, of kinds and on maps that `make_gameplay.py` leaves out, are watched by a
player that turns and sways; in a `fight` it shoots now and then, the picture is zoomed twice and
flashes six times. Each clip, NAME.mp4, has its masks in NAME.gt.json and, for each monster that 60
frames show on 400 pixels or more, one click in NAME.points.csv and three, spread over its frames,
in NAME.points3.csv. A clip has at most four such monsters, and at least one.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import vizdoom
from make_gameplay import HELD_OUT, Gaze, Random, retreat, start_game, step_game, swerve, wander
from stretches import MIN_AREA, deepest_point

from annotate.items import masks
from annotate.items.records import Picture, Rle
from annotate.video.writer import VideoWriter

KINDS = [
    "Demon",
    "HellKnight",
    "BaronOfHell",
    "Revenant",
    "Cacodemon",
    "ShotgunGuy",
    "ChaingunGuy",
    "Zombieman",
]
FRAMES = 260  # of a clip
MIN_VISIBLE_FRAMES = 60  # of a clicked monster
MAX_CLICKED = 4  # monsters of a clip


@dataclass
class Clip:
    """The pictures, and the name of each monster and its masks by frame."""

    pictures: list[Picture] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    tracks: dict[int, dict[int, Rle]] = field(default_factory=dict)

    def clickable_frames(self) -> dict[int, list[int]]:
        """List the frames on which each monster is large enough, if there are enough of them."""
        visible = {
            object_id: [frame for frame, mask in track.items() if masks.area(mask) >= MIN_AREA]
            for object_id, track in self.tracks.items()
        }
        return {
            object_id: frames
            for object_id, frames in visible.items()
            if len(frames) >= MIN_VISIBLE_FRAMES
        }


def summon(game: vizdoom.DoomGame, random: Random) -> None:
    """Walk, summon two or three monsters, and walk backwards."""
    wander(game, random, int(random.integers(5, 200)))
    for _ in range(int(random.integers(2, 4))):
        name, friend = str(random.choice(KINDS)), random.random() < 0.35
        game.send_game_command(f"{'summonfriend' if friend else 'summon'} {name}")
        swerve(game, random, int(random.integers(4, 14)))
    retreat(game, random, int(random.integers(2, 30)))


def watch(game: vizdoom.DoomGame, random: Random, *, fight: bool) -> Iterator[Any]:
    """Yield the states of the game while the player looks at the nearest monster."""
    shoots = fight and random.random() < 0.6
    gaze, speed, swing = Gaze(KINDS), random.uniform(0.02, 0.08), random.uniform(2, 6)
    for k in range(FRAMES):
        state = game.get_state()
        if state is None:
            return
        yield state
        turn = gaze.turn(state, float(swing * np.sin(speed * k * 2)))
        right = 8 * float(np.sin(speed * k * 0.7)) if fight else 0
        step_game(
            game, turn, 3 * float(np.sin(speed * k)), right, int(shoots and (k // 8) % 3 == 0)
        )


def camera_effects(random: Random, *, fight: bool) -> tuple[Any, Any]:
    """Draw the zoom and the brightness of each frame, both (FRAMES,)."""
    zoom, gain, frames = np.ones(FRAMES), np.ones(FRAMES), np.arange(FRAMES)
    if fight:
        for start in (int(random.integers(30, 80)), int(random.integers(120, 200))):
            max_zoom, ramp = random.choice([2.5, 3.5]), int(random.choice([1, 10]))
            from_end = np.minimum(frames - start, start + int(random.integers(25, 50)) - frames)
            zoom = np.maximum(zoom, 1 + (max_zoom - 1) * np.clip(from_end / ramp, 0, 1))
        for start in random.integers(10, FRAMES - 5, 6):
            gain[start : start + 2] = random.uniform(1.3, 2)
    return zoom, gain


def play(random: Random, *, fight: bool) -> Clip:
    """Play a game and return it as a clip, which is shorter than FRAMES if the game ends early."""
    game, clip = start_game(random, sorted(HELD_OUT)), Clip()
    game.new_episode()
    game.send_game_command("god")
    summon(game, random)
    zoom, gain = camera_effects(random, fight=fight)
    for frame, state in enumerate(watch(game, random, fight=fight)):
        frame_zoom = float(zoom[frame])
        height, width = state.labels_buffer.shape
        matrix = np.array(
            [
                [frame_zoom, 0, (1 - frame_zoom) * width / 2],
                [0, frame_zoom, (1 - frame_zoom) * height / 2],
            ]
        )
        picture = cv2.warpAffine(state.screen_buffer, matrix, (width, height))
        clip.pictures.append(cv2.convertScaleAbs(picture, alpha=float(gain[frame])))
        labels = cv2.warpAffine(
            state.labels_buffer, matrix, (width, height), flags=cv2.INTER_NEAREST
        )
        for each in state.labels:
            if each.object_name in KINDS and (mask := labels == each.value).any():
                clip.names[each.object_id] = each.object_name
                clip.tracks.setdefault(each.object_id, {})[frame] = masks.encode(mask)
    game.close()
    return clip


def write_clip(clip: Clip, frames_by_object: dict[int, list[int]], folder: Path, name: str) -> None:
    """Write the clip, its ground truth, and its clicks."""
    height, width = clip.pictures[0].shape[:2]
    with VideoWriter(folder / f"{name}.mp4", 30, (width, height)) as writer:
        for picture in clip.pictures:
            writer.write(picture)
    truth = {
        "images": [{"id": n, "width": width, "height": height} for n in range(len(clip.pictures))],
        "categories": [
            {"id": number, "name": kind, "supercategory": "Monster"}
            for number, kind in enumerate(KINDS, start=1)
        ],
        "annotations": [
            {"id": number, **each} for number, each in enumerate(annotations(clip), start=1)
        ],
    }
    (folder / f"{name}.gt.json").write_text(json.dumps(truth), encoding="utf-8")
    for clicks, ending in ((1, "points"), (3, "points3")):
        rows = []
        for object_id, frames in frames_by_object.items():
            for frame in (frames[k * len(frames) // clicks] for k in range(clicks)):
                x, y = deepest_point(masks.decode(clip.tracks[object_id][frame]))
                rows.append((frame, object_id, int(x), int(y), 1, clip.names[object_id]))
        table = pd.DataFrame(rows, columns=["frame_id", "object_id", "x", "y", "label", "class"])
        table.to_csv(folder / f"{name}.{ending}.csv", index=False)


def annotations(clip: Clip) -> Iterator[dict[str, Any]]:
    """Yield the COCO annotation of each mask."""
    for object_id, track in clip.tracks.items():
        for frame, mask in track.items():
            x1, y1, x2, y2 = masks.box(mask) or (0, 0, 0, 0)
            yield {
                "image_id": frame,
                "track_id": object_id,
                "category_id": KINDS.index(clip.names[object_id]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": masks.area(mask),
                "segmentation": mask,
                "iscrowd": 0,
            }


def main() -> None:
    """Play games until there are enough clips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=["calm", "fight"])
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=601)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    games, written = 0, 0
    while written < arguments.count:
        clip = play(np.random.default_rng((arguments.seed, games)), fight=arguments.kind == "fight")
        games += 1
        frames_by_object = clip.clickable_frames()
        if len(clip.pictures) == FRAMES and 0 < len(frames_by_object) <= MAX_CLICKED:
            written += 1
            name = f"{arguments.kind}{written}"
            write_clip(clip, frames_by_object, arguments.folder, name)
            print(f"{name} of game {games}: {len(frames_by_object)} monsters", flush=True)


if __name__ == "__main__":
    main()
