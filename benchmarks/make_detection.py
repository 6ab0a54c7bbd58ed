"""Make clips to train a detector on and to measure it: monsters and red target designators.

    pip install vizdoom==1.3.2
    python benchmarks/make_detection.py detector/clips --train 24 --val 8 --gold 10
    annotate build detector/clips/train*.items.jsonl -o detector/train --every 10 --format jpg

A clip has four shots of 50 frames in one map of Freedoom. In each shot one to three monsters are
summoned; the kinds take turns, so that each part has all of them. In half of the frames of a shot
one monster carries a designator: four red corner brackets. A head-up display with red text and a
red frame stays in one place in all clips of `train`, in another in `val`, and in another in each
clip of `gold`. No map is in two parts. NAME.items.jsonl has the boxes of every frame with tracks,
classes `designator` and `monster`; NAME.kinds.json the kind of each track. Masks and boxes are of
what is visible; a monster of fewer than 64 visible pixels is not in the items.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from make_designators import Box, Hud, blend, cover_brackets, cover_text, start_game
from make_gameplay import (
    HELD_OUT,
    MONSTER_WEIGHTS,
    Gaze,
    Random,
    retreat,
    step_game,
    swerve,
    wander,
)
from make_unseen import KINDS

from annotate.items import boxes, journal, masks
from annotate.items.records import Header, Item, Object, Picture
from annotate.video import reader
from annotate.video.writer import VideoWriter

SIZE_WH = (640, 360)
SHOTS, FRAMES_PER_SHOT = 4, 50
ALL_KINDS = sorted({*KINDS, *MONSTER_WEIGHTS})
VAL_MAPS = [9, 20, 25, 27, 31]
MAPS = {
    "train": [n for n in range(1, 33) if n not in HELD_OUT and n not in VAL_MAPS],
    "val": VAL_MAPS,
    "gold": sorted(HELD_OUT),
}
SEEDS = {"train": 801, "val": 802, "gold": 803}
MIN_AREA = 64  # visible pixels of a monster
MARGIN = 0.12  # of the longer side of a monster's box, between it and its designator
DESIGNATOR_TRACK = 1_000_000  # added to the track of the monster

Xy = tuple[float, float]


@dataclass(frozen=True)
class HudPlace:
    """Where the text and the red frame of the head-up display are, as shares of the picture."""

    text: Xy
    frame: Xy

    @classmethod
    def of_part(cls, part: str, random: Random) -> "HudPlace":
        """Return the place of a part; that of `gold` is drawn by lot."""
        if part == "gold":
            text = (float(random.uniform(0.02, 0.8)), float(random.uniform(0.05, 0.85)))
            return cls(text, (float(random.uniform(0.02, 0.85)), float(random.uniform(0.03, 0.7))))
        return {
            "train": cls((0.02, 0.88), (0.88, 0.03)),
            "val": cls((0.78, 0.88), (0.03, 0.05)),
        }[part]


def draw_hud(image: Picture, hud: Hud, place: HudPlace, hull: int) -> Picture:
    """Draw two lines of red text and an empty red frame."""
    width, height = hud.size_wh
    for row, text in enumerate((f"HULL {hull}%", "HEAT 42%")):
        at = (place.text[0] * width, (place.text[1] + 0.04 * row) * height)
        image = blend(image, cover_text(text, at, hud.size_wh), hud.rgb, hud.alpha)
    left, top, side = place.frame[0] * width, place.frame[1] * height, 0.16 * height
    covered = np.zeros(hud.size_wh[::-1])
    outer = [round(left), round(top), round(left + side), round(top + side)]
    covered[outer[1] : outer[3], outer[0] : outer[2]] = 1
    covered[outer[1] + 2 : outer[3] - 2, outer[0] + 2 : outer[2] - 2] = 0
    return blend(image, covered, hud.rgb, hud.alpha)


@dataclass
class Clip:
    """The pictures of a clip, the objects of each, and the kind of each track."""

    pictures: list[Picture] = field(default_factory=list)
    objects: list[tuple[Object, ...]] = field(default_factory=list)
    kinds: dict[int, str] = field(default_factory=dict)


def visible_monsters(state: Any) -> dict[int, tuple[str, Box]]:
    """Return the kind and the box of each monster that is visible, by its id."""
    found = {}
    for each in state.labels:
        mask = state.labels_buffer == each.value
        if each.object_name in ALL_KINDS and mask.sum() >= MIN_AREA:
            box = masks.box(mask)
            assert box is not None
            found[int(each.object_id)] = (each.object_name, box)
    return found


def watch(game: Any, random: Random) -> Iterator[Any]:
    """Yield the states of a shot, in which the player looks at the nearest monster and sways."""
    gaze, speed, swing = Gaze(ALL_KINDS), random.uniform(0.03, 0.1), random.uniform(1, 5)
    for k in range(FRAMES_PER_SHOT):
        state = game.get_state()
        if state is None:
            return
        yield state
        turn = gaze.turn(state, float(swing * np.sin(speed * k * 2)))
        step_game(game, turn, 4 * float(np.sin(speed * k)), 6 * float(np.cos(speed * k)), 0)


def bracket_box(box: Box) -> Box:
    """Return the square round a monster on which its designator is drawn."""
    x1, y1, x2, y2 = box
    half = max(x2 - x1, y2 - y1) * (0.5 + MARGIN)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    half = max(half, 9)
    return x - half, y - half, x + half, y + half


def designate(image: Picture, hud: Hud, box: Box) -> tuple[Picture, Box | None]:
    """Draw a designator round a monster; returns the box of its visible strokes."""
    covered = cover_brackets(bracket_box(box), hud.thickness, hud.size_wh)
    drawn = masks.box(covered >= 0.4)
    return blend(image, covered, hud.rgb, hud.alpha), drawn


def add_shot(clip: Clip, game: Any, random: Random, hud: Hud, place: HudPlace) -> None:
    """Record a shot."""
    start = int(random.integers(0, FRAMES_PER_SHOT))  # of the half with a designator
    designated = None
    for k, state in enumerate(watch(game, random)):
        image, objects = state.screen_buffer.copy(), []
        found = visible_monsters(state)
        for track, (kind, box) in found.items():
            track += 1000 * (len(clip.pictures) // FRAMES_PER_SHOT)
            clip.kinds[track] = kind
            objects.append(Object("monster", box, track=track))
        if found and (k - start) % FRAMES_PER_SHOT < FRAMES_PER_SHOT // 2:
            if designated not in found:
                designated = max(found, key=lambda each: boxes.area(found[each][1]))
            image, drawn = designate(image, hud, found[designated][1])
            if drawn is not None:
                track = DESIGNATOR_TRACK + designated
                objects.append(Object("designator", drawn, track=track))
        clip.pictures.append(draw_hud(image, hud, place, int(random.integers(100))))
        clip.objects.append(tuple(objects))


def make_clip(part: str, number: int) -> Clip:
    """Play a game; games that end early are played again with other lots."""
    for attempt in range(20):
        random = np.random.default_rng((SEEDS[part], number, attempt))
        game, clip = start_game(random, MAPS[part], SIZE_WH), Clip()
        hud, place = Hud.draw_lots(random, 0), HudPlace.of_part(part, random)
        game.send_game_command("notarget")
        kinds = [*random.permutation(ALL_KINDS)]
        for _ in range(SHOTS):
            wander(game, random, int(random.integers(30, 150)))
            for _ in range(int(random.integers(1, 4))):
                game.send_game_command(f"summon {kinds.pop()}")
                swerve(game, random, int(random.integers(2, 12)))
            retreat(game, random, int(random.integers(2, 30)))
            add_shot(clip, game, random, hud, place)
        game.close()
        seen = sum(bool(objects) for objects in clip.objects)
        if len(clip.pictures) == SHOTS * FRAMES_PER_SHOT and seen > len(clip.pictures) // 2:
            return clip
    raise RuntimeError(f"{part}{number}: no game was long enough")


def write_clip(clip: Clip, folder: Path, name: str) -> None:
    """Write the video, the items and the kinds."""
    path = folder / f"{name}.mp4"
    with VideoWriter(path, 30, SIZE_WH) as writer:
        for picture in clip.pictures:
            writer.write(picture)
    videos = reader.header_entry(reader.probe(path))
    header = Header(
        "import", vocabulary={"labels": ["designator", "monster"]}, model="", videos=videos
    )
    items = (
        Item(path.name, frame, Fraction(frame, 30), *SIZE_WH, objects)
        for frame, objects in enumerate(clip.objects)
    )
    journal.write(folder / f"{name}.items.jsonl", header, items)
    (folder / f"{name}.kinds.json").write_text(json.dumps(clip.kinds), encoding="utf-8")


def main() -> None:
    """Write the clips that are not there yet, the parts in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for part, count in (("train", 24), ("val", 8), ("gold", 10)):
        parser.add_argument(f"--{part}", type=int, default=count, help="clips of this part")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, max(arguments.train, arguments.val, arguments.gold) + 1):
        for part in MAPS:
            name = f"{part}{number:02d}"
            done = (arguments.folder / f"{name}.kinds.json").exists()
            if number <= getattr(arguments, part) and not done:
                clip = make_clip(part, number)
                write_clip(clip, arguments.folder, name)
                counts = [sum(o.label == c for f in clip.objects for o in f) for c in ("monster",)]
                print(
                    f"{name}: {counts[0]} boxes of monsters, {len(clip.kinds)} tracks", flush=True
                )


if __name__ == "__main__":
    main()
