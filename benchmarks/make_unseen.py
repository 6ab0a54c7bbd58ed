"""Make clips to measure `light`: nothing was trained on them, and no setting was chosen by them.

    pip install vizdoom==1.3.2
    python benchmarks/make_unseen.py unseen/calm calm --count 8 --seed 601
    python benchmarks/make_unseen.py unseen/fight fight --count 8 --seed 602
    python benchmarks/light.py clicks unseen/calm
    python benchmarks/light.py clicks unseen/fight

The monsters and maps are those that `make_gameplay.py` leaves out. A player who turns and sways
looks at two or three monsters. In a `fight`, the player sometimes shoots, the picture is zoomed
twice, and it flashes six times. Each clip NAME.mp4 has its masks in NAME.gt.json. Each monster that
covers 400 pixels or more on at least 60 frames has one click in NAME.points.csv, and three clicks,
spread over its frames, in NAME.points3.csv. A clip has one to four such monsters.
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
from make_gameplay import HELD_OUT, Random, act, game, retreat, swerve, wander
from stretches import SEEN, deepest

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
MIN_FRAMES, MAX_CLICKED = 60, 4  # frames that must show a monster; monsters clicked in a clip


@dataclass
class Clip:
    """The frames of a clip; for each monster, its name and its mask on each frame that shows it."""

    pictures: list[Picture] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    tracks: dict[int, dict[int, Rle]] = field(default_factory=dict)

    def clicked(self) -> dict[int, list[int]]:
        """List the frames of each monster that is large enough for long enough to be clicked."""
        seen = {
            object_id: [frame for frame, mask in track.items() if masks.area(mask) >= SEEN]
            for object_id, track in self.tracks.items()
        }
        return {
            object_id: frames for object_id, frames in seen.items() if len(frames) >= MIN_FRAMES
        }


def summon(started: vizdoom.DoomGame, random: Random) -> None:
    """Walk, summon two or three monsters, and go backward."""
    wander(started, random, int(random.integers(5, 200)))
    for _ in range(int(random.integers(2, 4))):
        name, friend = str(random.choice(KINDS)), random.random() < 0.35
        started.send_game_command(f"{'summonfriend' if friend else 'summon'} {name}")
        swerve(started, random, int(random.integers(4, 14)))
    retreat(started, random, int(random.integers(2, 30)))


def game_states(started: vizdoom.DoomGame, random: Random, *, fight: bool) -> Iterator[Any]:
    """Yield the states of the game while the player looks at the nearest monster."""
    shoots = fight and random.random() < 0.6
    aim, speed, swing = None, random.uniform(0.02, 0.08), random.uniform(2, 6)
    for k in range(FRAMES):
        state = started.get_state()
        if state is None:
            return
        yield state
        turn = float(swing * np.sin(speed * k * 2))
        if seen := [each for each in state.labels if each.object_name in KINDS]:
            at = max(seen, key=lambda each: each.width * each.height)
            aim = (at.x + at.width / 2) / state.screen_buffer.shape[1] - 0.5
            turn += float(np.clip(aim * 12, -6, 6)) if abs(aim) > 0.3 else 0
        elif aim is not None:
            turn = 5 * float(np.sign(aim))
        right = 8 * float(np.sin(speed * k * 0.7)) if fight else 0
        act(started, turn, 3 * float(np.sin(speed * k)), right, int(shoots and (k // 8) % 3 == 0))


def draw_effects(random: Random, *, fight: bool) -> tuple[Any, Any]:
    """Draw the zoom and the brightness factor of each frame, (FRAMES,) both."""
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
    """Play a game and record it; the clip is shorter if the game ends early."""
    started, clip = game(random, sorted(HELD_OUT)), Clip()
    started.new_episode()
    started.send_game_command("god")
    summon(started, random)
    zoom, gain = draw_effects(random, fight=fight)
    for frame, state in enumerate(game_states(started, random, fight=fight)):
        shown, high, wide = float(zoom[frame]), *state.labels_buffer.shape
        cut = np.array([[shown, 0, (1 - shown) * wide / 2], [0, shown, (1 - shown) * high / 2]])
        picture = cv2.warpAffine(state.screen_buffer, cut, (wide, high))
        clip.pictures.append(cv2.convertScaleAbs(picture, alpha=float(gain[frame])))
        which = cv2.warpAffine(state.labels_buffer, cut, (wide, high), flags=cv2.INTER_NEAREST)
        for each in state.labels:
            if each.object_name in KINDS and (mask := which == each.value).any():
                clip.names[each.object_id] = each.object_name
                clip.tracks.setdefault(each.object_id, {})[frame] = masks.encode(mask)
    started.close()
    return clip


def write(clip: Clip, clicked: dict[int, list[int]], folder: Path, name: str) -> None:
    """Write the clip, its ground truth and its clicks."""
    high, wide = clip.pictures[0].shape[:2]
    with VideoWriter(folder / f"{name}.mp4", 30, (wide, high)) as writer:
        for picture in clip.pictures:
            writer.write(picture)
    truth = {
        "images": [{"id": n, "width": wide, "height": high} for n in range(len(clip.pictures))],
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
        for object_id, frames in clicked.items():
            for frame in (frames[k * len(frames) // clicks] for k in range(clicks)):
                x, y = deepest(masks.decode(clip.tracks[object_id][frame]))
                rows.append((frame, object_id, int(x), int(y), 1, clip.names[object_id]))
        table = pd.DataFrame(rows, columns=["frame_id", "object_id", "x", "y", "label", "class"])
        table.to_csv(folder / f"{name}.{ending}.csv", index=False)


def annotations(clip: Clip) -> Iterator[dict[str, Any]]:
    """Make the COCO annotation of each mask."""
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
        clicked = clip.clicked()
        if len(clip.pictures) == FRAMES and 0 < len(clicked) <= MAX_CLICKED:
            written += 1
            name = f"{arguments.kind}{written}"
            write(clip, clicked, arguments.folder, name)
            print(f"{name} of game {games}: {len(clicked)} monsters", flush=True)


if __name__ == "__main__":
    main()
