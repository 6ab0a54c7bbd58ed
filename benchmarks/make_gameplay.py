"""Make clips of gameplay with exact masks, as training data of the networks of `light`.

    python -m venv doom && doom/bin/pip install vizdoom==1.3.2 opencv-python-headless numpy
    doom/bin/python benchmarks/make_gameplay.py clips --games 60 --seed 11

A player wanders in a map of Freedoom 2, monsters and other objects are summoned in front of it, it
backs off, looks at them, and sometimes shoots. A game gives a few clips of 50 to 90 frames, each
with the masks of at most three objects. The monsters and maps of the clips `easy`, `medium` and
`hard`, on which `light` is measured, are left out. Printed is the number of clips after each game.
"""

import argparse
import pickle
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import vizdoom

# relative frequency of summoning
MONSTER_WEIGHTS = {
    "DoomImp": 3.0,
    "LostSoul": 2.0,
    "Arachnotron": 3.0,
    "Fatso": 3.0,
    "Archvile": 3.0,
    "PainElemental": 2.0,
    "WolfensteinSS": 3.0,
    "Cyberdemon": 1.5,
    "SpiderMastermind": 1.5,
}
STATIC_OBJECTS = [
    "ExplosiveBarrel",
    "TechLamp",
    "TechLamp2",
    "TechPillar",
    "EvilEye",
    "HeadCandles",
    "BigTree",
    "TorchTree",
    "BurningBarrel",
    "Candelabra",
    "RedTorch",
    "BlueTorch",
    "GreenTorch",
    "ShortRedTorch",
    "FloatingSkull",
    "HeartColumn",
    "TallGreenColumn",
    "TallRedColumn",
    "SkullColumn",
    "Megasphere",
    "Soulsphere",
    "BlueArmor",
    "GreenArmor",
    "Medikit",
    "Chainsaw",
    "RocketLauncher",
    "Backpack",
    "Column",
    "HeadOnAStick",
    "LiveStick",
    "Meat2",
    "Stalagtite",
    "InvulnerabilitySphere",
    "BFG9000",
    "PlasmaRifle",
]
SIZES = ("RES_640X360", "RES_640X480", "RES_800X600", "RES_1280X720")
HELD_OUT = {5, 8, 12, 15, 16, 21, 22, 29}  # maps of clips that `light` is measured on
MIN_FRAMES = 20  # an object is used if so many frames show it
MIN_AREA_SHARE = 0.0012  # on such a share of their pixels
MAX_OBJECTS = 3  # objects of a clip

Random = np.random.Generator
Encoded = npt.NDArray[np.uint8]


Clip = dict[str, Any]  # names, JPEGs of the frames, and for each object PNGs of its masks by frame


def start_game(random: Random, maps: Sequence[int]) -> vizdoom.DoomGame:
    """Start a game on a random map, with a random picture size and head-up display."""
    game, home = vizdoom.DoomGame(), Path(vizdoom.__file__).parent
    game.set_doom_game_path(str(home / "freedoom2.wad"))
    game.set_doom_scenario_path(str(home / "freedoom2.wad"))
    game.set_doom_map(f"MAP{random.choice(maps):02d}")
    game.set_seed(int(random.integers(1 << 30)))
    size = SIZES[int(random.integers(len(SIZES)))]
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, size))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_labels_buffer_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_render_hud(bool(random.random() < 0.5))
    game.set_render_weapon(bool(random.random() < 0.7))
    game.set_render_crosshair(bool(random.random() < 0.3))
    game.set_render_particles(True)
    game.set_render_decals(True)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(100000)
    game.set_doom_skill(int(random.integers(1, 5)))
    button = vizdoom.Button
    game.set_available_buttons(
        [
            button.TURN_LEFT_RIGHT_DELTA,
            button.MOVE_FORWARD_BACKWARD_DELTA,
            button.MOVE_LEFT_RIGHT_DELTA,
            button.ATTACK,
        ]
    )
    game.add_game_args("+sv_cheats 1 +sv_noautoaim 0")
    game.init()
    return game


def step_game(game: vizdoom.DoomGame, *buttons: float) -> None:
    """Play one frame with these buttons: turn, forward, right, shoot."""
    if not game.is_episode_finished() and not game.is_player_dead():
        game.make_action([float(each) for each in buttons], 1)


@dataclass
class Gaze:
    """Turns the player to the nearest monster of some kinds, or to where the last one went.

    `aim` is how far from the middle the last one was, as a share of the picture's width.
    """

    kinds: Collection[str]
    aim: float | None = None

    def turn(self, state: Any, sway: float) -> float:
        """Return by how much to turn, given what the state shows and how the player sways."""
        if visible := [each for each in state.labels if each.object_name in self.kinds]:
            target = max(visible, key=lambda each: each.width * each.height)
            self.aim = (target.x + target.width / 2) / state.screen_buffer.shape[1] - 0.5
            return sway + (float(np.clip(self.aim * 12, -6, 6)) if abs(self.aim) > 0.3 else 0)
        return sway if self.aim is None else 5 * float(np.sign(self.aim))


def wander(game: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Walk ahead, in another direction every 25 frames."""
    turn = 0.0
    for k in range(frames):
        if k % 25 == 0:
            turn = random.normal() * 3
        step_game(game, turn + random.normal(), random.uniform(8, 30), 0, 0)


def swerve(game: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Walk backwards and sideways."""
    for _ in range(frames):
        turn = random.normal() * 2 + random.choice([-8, 8])
        step_game(game, turn, -random.uniform(5, 25), random.normal() * 8, 0)


def retreat(game: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Walk backwards."""
    for _ in range(frames):
        step_game(game, random.normal(), -random.uniform(0, 25), random.normal() * 5, 0)


def summon(game: vizdoom.DoomGame, random: Random) -> list[str]:
    """Walk, summon one to three objects, and walk backwards; returns their names."""
    wander(game, random, int(random.integers(5, 250)))
    names: list[str] = []
    probabilities = np.array(list(MONSTER_WEIGHTS.values())) / sum(MONSTER_WEIGHTS.values())
    for _ in range(int(random.integers(1, 4))):
        is_static = random.random() < 0.3
        if is_static:
            name = str(random.choice(STATIC_OBJECTS))
        else:
            name = str(random.choice(list(MONSTER_WEIGHTS), p=probabilities))
        if names and random.random() < 0.25:
            name = names[-1]
        friend = not is_static and random.random() < 0.3
        game.send_game_command(f"{'summonfriend' if friend else 'summon'} {name}")
        names.append(name)
        swerve(game, random, int(random.integers(1, 10)))
    retreat(game, random, int(random.integers(2, 50)))
    return names


def watch(
    game: vizdoom.DoomGame, names: list[str], random: Random
) -> list[tuple[Any, list[Any], Any]]:
    """Record frames, labels and label buffers while the player looks at the summoned objects."""
    policy = random.choice(["still", "track", "pan", "strafe"])
    shoots, speed, swing = random.random() < 0.35, random.uniform(0.03, 0.2), random.uniform(1, 6)
    aim, recorded = None, []
    for k in range(int(random.integers(50, 90))):
        state = game.get_state()
        if state is None:
            break
        labels = [(each.object_id, each.object_name, each.value) for each in state.labels]
        recorded.append((state.screen_buffer.copy(), labels, state.labels_buffer.copy()))
        turn, ahead, right = random.normal() * 0.3, 0.0, 0.0
        if policy != "still":
            visible = [each for each in state.labels if each.object_name in names]
            if visible:
                target = max(visible, key=lambda each: each.width * each.height)
                aim = (target.x + target.width / 2) / state.screen_buffer.shape[1] - 0.5
                follow = np.clip(aim * 20, -8, 8) if abs(aim) > 0.2 or policy == "track" else 0
                sway = swing * np.sin(speed * k * 2) if policy == "pan" else random.normal()
                turn = float(follow + sway)
            elif aim is not None:
                turn = 6 * float(np.sign(aim))
            if policy == "strafe":
                right = 10 * float(np.sin(speed * k))
            ahead = 4 * float(np.sin(speed * k * 0.7))
        step_game(game, turn, ahead, right, int(shoots and (k // 6) % 2))
    return recorded


def make_clip(recorded: list[tuple[Any, list[Any], Any]], random: Random) -> Clip | None:
    """Make a clip of the recorded frames; static objects are used only if no monster is visible.

    Returns None if no object is large enough for long enough.
    """
    areas: dict[int, dict[int, tuple[int, int]]] = {}
    names: dict[int, str] = {}
    for frame, (_, labels, buffer) in enumerate(recorded):
        counts = np.bincount(buffer.ravel(), minlength=256)
        for object_id, name, value in labels:
            if value and counts[value] and (name in MONSTER_WEIGHTS or name in STATIC_OBJECTS):
                areas.setdefault(object_id, {})[frame] = int(value), int(counts[value])
                names[object_id] = name
    min_area = MIN_AREA_SHARE * recorded[0][0][..., 0].size if recorded else 0
    chosen = [
        object_id
        for object_id in areas
        if sum(a >= min_area for _, a in areas[object_id].values()) >= MIN_FRAMES
    ]
    if not chosen:
        return None
    chosen = [
        object_id
        for *_, object_id in sorted(
            (names[object_id] not in MONSTER_WEIGHTS, random.random(), object_id)
            for object_id in chosen
        )
    ]
    chosen = chosen[:MAX_OBJECTS] if names[chosen[0]] in MONSTER_WEIGHTS else chosen[:1]
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(50, 92))]

    def encode_masks(object_id: int) -> dict[int, Encoded]:
        return {
            frame: cv2.imencode(".png", (recorded[frame][2] == value).astype(np.uint8) * 255)[1]
            for frame, (value, _) in areas[object_id].items()
        }

    frames = [cv2.imencode(".jpg", each[..., ::-1], quality)[1] for each, *_ in recorded]
    masks = {object_id: encode_masks(object_id) for object_id in chosen}
    return {
        "names": {object_id: names[object_id] for object_id in chosen},
        "frames": frames,
        "masks": masks,
    }


def main() -> None:
    """Play the games, and write a file for each clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--games", type=int, default=60)
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    maps = [each for each in range(1, 33) if each not in HELD_OUT]
    written = 0
    for number in range(arguments.games):
        random = np.random.default_rng((arguments.seed, number))
        game = start_game(random, maps)
        for _ in range(int(random.integers(3, 6))):
            game.new_episode()
            game.send_game_command("god")
            if random.random() < 0.3:
                game.send_game_command("notarget")
            clip = make_clip(watch(game, summon(game, random), random), random)
            if clip is not None:
                path = arguments.folder / f"{arguments.seed}_{written:04d}.pkl"
                path.write_bytes(pickle.dumps(clip))
                written += 1
        game.close()
        print(f"{number + 1} of {arguments.games} games: {written} clips", flush=True)


if __name__ == "__main__":
    main()
