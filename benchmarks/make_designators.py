"""Make clips of target designators near and across the picture's edges, with exact boxes.

    pip install vizdoom==1.3.2
    python benchmarks/make_designators.py designators/a --part 0 --seed 701
    python benchmarks/make_designators.py designators/b --part 1 --seed 702
    python benchmarks/colour.py accuracy designators/b

Part 0 is for choosing settings, part 1 for reporting; their maps differ. A clip is a row of scenes
of two frames: a place in Freedoom, monsters and red things, some of them dyed red, then red decoys
(fur, bricks, blood, lights, text, a whole frame), then the designator: four red corner brackets,
half-transparent and anti-aliased, as `shared/gameplay` has them, at 4:2:0 with H.264. Four scenes
of five have one that an edge cuts or nearly touches, one of ten has none. NAME.gt.json is COCO:
`bbox` is the box of the visible strokes, `truncated` is 1 where an edge cuts them,
`visible_corners` counts the corners inside the picture, and `contrast` is the mean RGB distance of
the strokes to what they cover. Maps and monsters of `shared/gameplay` are left out.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import vizdoom
from make_gameplay import Random, step_game
from red_decoys import DECOYS, dye_red

from annotate.items.records import Picture

MAPS = [(1, 3, 6, 11, 14, 18, 23, 26, 30), (2, 4, 10, 13, 17, 19, 24, 28)]  # of part 0, part 1
MONSTERS = ["Archvile", "Cyberdemon", "SpiderMastermind", "WolfensteinSS"]
RED_THINGS = [
    "RedTorch",
    "ShortRedTorch",
    "TallRedColumn",
    "HeartColumn",
    "GibbedMarine",
    "BloodyTwitch",
    "Meat2",
    "EvilEye",
    "DoomImpBall",
    "ColonGibs",
    "BrainStem",
    "ExplosiveBarrel",
]
# size of the picture, and the thickness of its designator
SIZES = [((640, 360), 2), ((640, 480), 3), ((800, 600), 3), ((1280, 720), 4)]
FRAMES_PER_SCENE, SCENES_PER_GAME = 2, 4
ARM_SHARE = 0.24  # of a side, from each of its ends
MIN_COVERAGE = 0.4  # share of a pixel that a stroke covers, for the pixel to be in the mask
MIN_STROKE_PX = 16  # a designator of fewer visible pixels is not drawn

Box = tuple[float, float, float, float]
Coverage = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hud:
    """How the head-up display of a clip looks."""

    size_wh: tuple[int, int]
    thickness: float
    rgb: tuple[int, int, int]
    alpha: float
    has_text: bool
    has_frame: bool

    @classmethod
    def draw_lots(cls, random: Random, number: int) -> "Hud":
        """Choose by lot; sizes take turns."""
        size_wh, thickness = SIZES[number % len(SIZES)]
        rgb = (
            int(random.integers(205, 256)),
            int(random.integers(22, 55)),
            int(random.integers(28, 52)),
        )
        has_text, has_frame = random.random() < 0.7, random.random() < 0.4
        return cls(size_wh, thickness, rgb, random.uniform(0.8, 0.95), has_text, has_frame)


def start_game(random: Random, maps: Sequence[int], size_wh: tuple[int, int]) -> Any:
    """Start a game without monsters of its own on one of the maps."""
    game, home = vizdoom.DoomGame(), Path(vizdoom.__file__).parent
    game.set_doom_game_path(str(home / "freedoom2.wad"))
    game.set_doom_scenario_path(str(home / "freedoom2.wad"))
    game.set_doom_map(f"MAP{random.choice(maps):02d}")
    game.set_seed(int(random.integers(1 << 30)))
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{size_wh[0]}X{size_wh[1]}"))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_labels_buffer_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_render_hud(bool(random.random() < 0.5))
    game.set_render_weapon(bool(random.random() < 0.7))
    game.set_render_decals(True)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(100000)
    button = vizdoom.Button
    game.set_available_buttons(
        [
            button.TURN_LEFT_RIGHT_DELTA,
            button.MOVE_FORWARD_BACKWARD_DELTA,
            button.MOVE_LEFT_RIGHT_DELTA,
            button.ATTACK,
        ]
    )
    game.add_game_args("+sv_cheats 1 -nomonsters")
    game.init()
    game.new_episode()
    game.send_game_command("god")
    return game


def play_scene(game: Any, random: Random) -> Iterator[tuple[Picture, npt.NDArray[np.bool_]]]:
    """Go on a little, summon, and give frames with the masks of the monsters in them."""
    turn = random.normal() * 4
    for _ in range(int(random.integers(10, 70))):
        step_game(game, turn + random.normal(), random.uniform(8, 30), 0, 0)
    for _ in range(int(random.integers(1, 4))):
        name = str(random.choice(MONSTERS if random.random() < 0.6 else RED_THINGS))
        game.send_game_command(f"summon {name}")
        step_game(game, random.normal() * 8, -random.uniform(0, 20), random.normal() * 8, 0)
    shoots = random.random() < 0.3
    for _ in range(int(random.integers(1, 8))):
        step_game(game, random.normal() * 2, -random.uniform(0, 15), 0, int(shoots))
    for _ in range(FRAMES_PER_SCENE):
        step_game(game, random.normal(), 0, 0, int(shoots))
        state = game.get_state()
        if state is None:
            return
        values = [each.value for each in state.labels if each.object_name in MONSTERS]
        yield state.screen_buffer.copy(), np.isin(state.labels_buffer, values)


@dataclass(frozen=True)
class Look:
    """What one scene does to the picture, the same on all its frames."""

    zoom: float
    gain: float
    monsters_red: bool
    decoys: tuple[str, ...]
    seed: int

    @classmethod
    def draw_lots(cls, random: Random) -> "Look":
        """Choose by lot."""
        zoom = float(random.choice([1, 1, 1, 1, 1, 1, 2.5, 3.5]))
        gain = random.uniform(1.3, 2) if random.random() < 0.1 else 1.0
        kinds = [kind for kind in DECOYS if random.random() < 0.22]
        return cls(zoom, gain, random.random() < 0.5, tuple(kinds), int(random.integers(1 << 30)))

    def apply(self, image: Picture, monsters: npt.NDArray[np.bool_]) -> Picture:
        """Zoom, dye the monsters, brighten, and draw the decoys."""
        if self.monsters_red and monsters.any():
            image = dye_red(image, monsters)
        height, width = image.shape[:2]
        shift = (1 - self.zoom) / 2
        matrix = np.array([[self.zoom, 0, shift * width], [0, self.zoom, shift * height]])
        image = cv2.warpAffine(image, matrix, (width, height))
        image = cv2.convertScaleAbs(image, alpha=self.gain)
        random = np.random.default_rng(self.seed)  # decoys stay where they are
        for kind in self.decoys:
            DECOYS[kind](image, random)
        return image


def place(random: Random, size_wh: tuple[int, int]) -> Box:
    """Choose where a designator is, xyxy: a square near or across an edge, or anywhere."""
    width, height = size_wh
    side = height * float(np.exp(random.uniform(np.log(0.05), np.log(1.15))))
    side = max(side, 16)
    x, y = random.uniform(0, width), random.uniform(0, height)
    if random.random() < 0.8:
        near = random.choice(["x", "y", "both"])
        inside = random.uniform(-0.15, 0.6, 2) * side  # from the edge to the middle of the square
        if near != "y":
            x = random.choice([inside[0], width - inside[0]])
        if near != "x":
            y = random.choice([inside[1], height - inside[1]])
    half = side / 2
    return float(x - half), float(y - half), float(x + half), float(y + half)


def cover_brackets(box: Box, thickness: float, size_wh: tuple[int, int]) -> Coverage:
    """Compute the share of every pixel that the four brackets cover, (H, W) 0..1."""
    x1, y1, x2, y2 = box
    arm = ARM_SHARE * (x2 - x1)
    bars = []
    for left, right in ((x1, x1 + arm), (x2 - arm, x2)):
        bars += [(left, y1, right, y1 + thickness), (left, y2 - thickness, right, y2)]
    for top, bottom in ((y1, y1 + arm), (y2 - arm, y2)):
        bars += [(x1, top, x1 + thickness, bottom), (x2 - thickness, top, x2, bottom)]
    covered = np.zeros(size_wh[::-1])
    for left, top, right, bottom in bars:
        across, down = (
            np.clip(np.minimum(high, np.arange(n) + 1) - np.maximum(low, np.arange(n)), 0, 1)
            for low, high, n in ((left, right, size_wh[0]), (top, bottom, size_wh[1]))
        )
        np.maximum(covered, down[:, None] * across, out=covered)
    return covered


def blend(image: Picture, covered: Coverage, rgb: Sequence[int], alpha: float) -> Picture:
    """Lay a colour over the picture where it is covered."""
    share = (alpha * covered)[..., None]
    return np.rint(image * (1 - share) + np.array(rgb) * share).astype(np.uint8)


def cover_text(text: str, xy: tuple[float, float], size_wh: tuple[int, int]) -> Coverage:
    """Compute the coverage of a line of text whose top left corner is at `xy`."""
    height = size_wh[1]
    drawn = np.zeros(size_wh[::-1], np.uint8)
    at = (round(xy[0]), round(xy[1] + 0.022 * height))
    cv2.putText(
        drawn, text, at, cv2.FONT_HERSHEY_DUPLEX, height / 1000, 255, 1 + height // 400, cv2.LINE_AA
    )
    return drawn / 255


def draw_hud(image: Picture, hud: Hud, random: Random) -> Picture:
    """Draw what is red as well in the head-up display, and a friend's designator in cyan."""
    width, height = hud.size_wh
    if hud.has_text:
        for row, text in enumerate((f"HULL {random.integers(100)}%", "HEAT 42%")):
            at = (0.02 * width, (0.9 + 0.04 * row) * height)
            image = blend(image, cover_text(text, at, hud.size_wh), hud.rgb, hud.alpha)
    if hud.has_frame:
        left, top, side = int(0.9 * width), int(0.02 * height), int(0.15 * height)
        framed = np.zeros(hud.size_wh[::-1])
        cv2.rectangle(framed, (left, top), (min(left + side, width - 4), top + side), 1.0, 2)
        image = blend(image, framed, hud.rgb, hud.alpha)
    if random.random() < 0.25:
        friend = cover_brackets(place(random, hud.size_wh), hud.thickness, hud.size_wh)
        image = blend(image, friend, (40, 200, 220), hud.alpha)
    return image


@dataclass
class Clip:
    """The pictures of a clip, and what COCO says of each designator."""

    hud: Hud
    pictures: list[Picture] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image: Picture, boxes: Sequence[Box], random: Random) -> None:
        """Draw the head-up display with designators on a picture, and keep both."""
        hud = self.hud
        image = draw_hud(image, hud, random)
        for box in boxes:
            covered = cover_brackets(box, hud.thickness, hud.size_wh)
            mask = covered >= MIN_COVERAGE
            if mask.sum() < MIN_STROKE_PX:
                continue
            before, image = image, blend(image, covered, hud.rgb, hud.alpha)
            change = np.linalg.norm(image[mask].astype(float) - before[mask], axis=1).mean()
            below = min(box[3] + 0.012 * hud.size_wh[1], 0.97 * hud.size_wh[1])
            readout = cover_text(
                f"{random.integers(2, 40)} m", (max(box[0], 0), below), hud.size_wh
            )
            image = blend(image, readout, hud.rgb, hud.alpha)
            self.annotations.append(self._annotation(box, mask) | {"contrast": round(change, 1)})
        self.pictures.append(image)

    def _annotation(self, box: Box, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
        (width, height), (x1, y1, x2, y2) = self.hud.size_wh, box
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        inside_x = [0 <= x < width for x in (x1, x2)]
        inside_y = [0 <= y < height for y in (y1, y2)]
        left, top = int(columns[0]), int(rows[0])
        return {
            "id": len(self.annotations) + 1,
            "image_id": len(self.pictures),
            "category_id": 1,
            "iscrowd": 0,
            "area": int(mask.sum()),
            "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
            "box_float": [round(each, 2) for each in box],
            "truncated": int(not all(inside_x + inside_y)),
            "visible_corners": int(sum(inside_x) * sum(inside_y)),
        }

    def write(self, folder: Path, name: str, crf: int) -> None:
        """Write NAME.mp4, H.264 4:2:0, and NAME.gt.json."""
        width, height = self.hud.size_wh
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            options = {"crf": str(crf), "preset": "medium", "g": "30"}
            stream: Any = container.add_stream("libx264", rate=30, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for image in self.pictures:
                picture = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(picture.reformat(format="yuv420p")))
            container.mux(stream.encode())
        truth = {
            "images": [
                {"id": n, "width": width, "height": height} for n in range(len(self.pictures))
            ],
            "categories": [{"id": 1, "name": "designator", "supercategory": "overlay"}],
            "annotations": self.annotations,
        }
        (folder / f"{name}.gt.json").write_text(json.dumps(truth), encoding="utf-8")


def make_clip(random: Random, number: int, maps: Sequence[int], scenes: int) -> Clip:
    """Play games until the clip has its scenes, and draw on them."""
    clip = Clip(Hud.draw_lots(random, number))
    while len(clip.pictures) < scenes * FRAMES_PER_SCENE:
        game = start_game(random, maps, clip.hud.size_wh)
        for _ in range(SCENES_PER_GAME):
            if len(clip.pictures) >= scenes * FRAMES_PER_SCENE or game.is_episode_finished():
                break
            look, count = Look.draw_lots(random), int(random.choice([0, 1, 2], p=[0.1, 0.85, 0.05]))
            boxes = [place(random, clip.hud.size_wh) for _ in range(count)]
            for image, monsters in list(play_scene(game, random)):
                clip.add(look.apply(image, monsters), boxes, random)
                step = random.normal(size=2) * 3
                boxes = [tuple(np.add(box, [*step, *step]).tolist()) for box in boxes]
        game.close()
    return clip


def main() -> None:
    """Write the clips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", type=int, choices=[0, 1], default=0)
    parser.add_argument("--seed", type=int, default=701)
    parser.add_argument("--count", type=int, default=8, help="clips")
    parser.add_argument("--scenes", type=int, default=40, help="scenes of a clip")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.count):
        random = np.random.default_rng((arguments.seed, number))
        clip = make_clip(random, number, MAPS[arguments.part], arguments.scenes)
        clip.write(arguments.folder, f"clip{number}", int(random.integers(24, 33)))
        cut = sum(each["truncated"] for each in clip.annotations)
        print(f"clip{number}: {len(clip.annotations)} designators, {cut} cut", flush=True)


if __name__ == "__main__":
    main()
