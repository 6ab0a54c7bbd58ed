"""Make gameplay clips with exact masks, to train the networks of the engine `light`.

    python -m venv doom && doom/bin/pip install vizdoom==1.3.2 opencv-python-headless numpy
    doom/bin/python benchmarks/make_gameplay.py clips --games 60 --seed 11

A player walks through a map of Freedoom 2. Monsters and other objects are summoned in front of the
player, who backs off, looks at them, and sometimes shoots. A game gives a few clips of 50 to 90
frames, each with the masks of at most three objects. The monsters and maps of the clips `easy`,
`medium` and `hard`, on which `light` is measured, are in none of them.
"""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import vizdoom

# relative frequency of each monster
MONSTERS = {
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
OBJECTS = [
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
HELD_OUT = {5, 8, 12, 15, 16, 21, 22, 29}  # maps of the clips that `light` is measured on
MIN_FRAMES = 20  # frames of a clip that must show an object
MIN_AREA = 0.0012  # share of a frame's pixels that the object must cover there
MAX_OBJECTS = 3  # of a clip

Random = np.random.Generator
Encoded = npt.NDArray[np.uint8]

# names; the frames as JPEG; for each object, its masks by frame as PNG
Clip = dict[str, Any]


def game(random: Random, maps: Sequence[int]) -> vizdoom.DoomGame:
    """Start a game on a random map, with a random resolution and display."""
    started, home = vizdoom.DoomGame(), Path(vizdoom.__file__).parent
    started.set_doom_game_path(str(home / "freedoom2.wad"))
    started.set_doom_scenario_path(str(home / "freedoom2.wad"))
    started.set_doom_map(f"MAP{random.choice(maps):02d}")
    started.set_seed(int(random.integers(1 << 30)))
    size = SIZES[int(random.integers(len(SIZES)))]
    started.set_screen_resolution(getattr(vizdoom.ScreenResolution, size))
    started.set_screen_format(vizdoom.ScreenFormat.RGB24)
    started.set_labels_buffer_enabled(True)
    started.set_window_visible(False)
    started.set_sound_enabled(False)
    started.set_render_hud(bool(random.random() < 0.5))
    started.set_render_weapon(bool(random.random() < 0.7))
    started.set_render_crosshair(bool(random.random() < 0.3))
    started.set_render_particles(True)
    started.set_render_decals(True)
    started.set_mode(vizdoom.Mode.PLAYER)
    started.set_episode_timeout(100000)
    started.set_doom_skill(int(random.integers(1, 5)))
    button = vizdoom.Button
    started.set_available_buttons(
        [
            button.TURN_LEFT_RIGHT_DELTA,
            button.MOVE_FORWARD_BACKWARD_DELTA,
            button.MOVE_LEFT_RIGHT_DELTA,
            button.ATTACK,
        ]
    )
    started.add_game_args("+sv_cheats 1 +sv_noautoaim 0")
    started.init()
    return started


def act(started: vizdoom.DoomGame, *buttons: float) -> None:
    """Press the buttons for one frame: turn, forward, right, shoot."""
    if not started.is_episode_finished() and not started.is_player_dead():
        started.make_action([float(each) for each in buttons], 1)


def wander(started: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Go forward; the turn changes every 25 frames."""
    turn = 0.0
    for k in range(frames):
        if k % 25 == 0:
            turn = random.normal() * 3
        act(started, turn + random.normal(), random.uniform(8, 30), 0, 0)


def swerve(started: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Go backward and sideways."""
    for _ in range(frames):
        turn = random.normal() * 2 + random.choice([-8, 8])
        act(started, turn, -random.uniform(5, 25), random.normal() * 8, 0)


def retreat(started: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Go backward."""
    for _ in range(frames):
        act(started, random.normal(), -random.uniform(0, 25), random.normal() * 5, 0)


def summon(started: vizdoom.DoomGame, random: Random) -> list[str]:
    """Walk, summon one to three objects, and go backward; returns the names of the objects."""
    wander(started, random, int(random.integers(5, 250)))
    names: list[str] = []
    share = np.array(list(MONSTERS.values())) / sum(MONSTERS.values())
    for _ in range(int(random.integers(1, 4))):
        still = random.random() < 0.3
        name = str(random.choice(OBJECTS) if still else random.choice(list(MONSTERS), p=share))
        if names and random.random() < 0.25:
            name = names[-1]
        friend = not still and random.random() < 0.3
        started.send_game_command(f"{'summonfriend' if friend else 'summon'} {name}")
        names.append(name)
        swerve(started, random, int(random.integers(1, 10)))
    retreat(started, random, int(random.integers(2, 50)))
    return names


def play(
    started: vizdoom.DoomGame, names: list[str], random: Random
) -> list[tuple[Any, list[Any], Any]]:
    """Play while the player looks at the objects; returns frames, labels and label images."""
    policy = random.choice(["still", "track", "pan", "strafe"])
    shoots, speed, swing = random.random() < 0.35, random.uniform(0.03, 0.2), random.uniform(1, 6)
    aim, recorded = None, []
    for k in range(int(random.integers(50, 90))):
        state = started.get_state()
        if state is None:
            break
        labels = [(each.object_id, each.object_name, each.value) for each in state.labels]
        recorded.append((state.screen_buffer.copy(), labels, state.labels_buffer.copy()))
        turn, ahead, right = random.normal() * 0.3, 0.0, 0.0
        if policy != "still":
            wanted = [each for each in state.labels if each.object_name in names]
            if wanted:
                at = max(wanted, key=lambda each: each.width * each.height)
                aim = (at.x + at.width / 2) / state.screen_buffer.shape[1] - 0.5
                follow = np.clip(aim * 20, -8, 8) if abs(aim) > 0.2 or policy == "track" else 0
                sway = swing * np.sin(speed * k * 2) if policy == "pan" else random.normal()
                turn = float(follow + sway)
            elif aim is not None:
                turn = 6 * float(np.sign(aim))
            if policy == "strafe":
                right = 10 * float(np.sin(speed * k))
            ahead = 4 * float(np.sin(speed * k * 0.7))
        act(started, turn, ahead, right, int(shoots and (k // 6) % 2))
    return recorded


def clip(recorded: list[tuple[Any, list[Any], Any]], random: Random) -> Clip | None:
    """Make a clip of the objects that are large for long enough; None if there are none.

    Monsters are taken first; another object only where there are no monsters.
    """
    areas: dict[int, dict[int, tuple[int, int]]] = {}
    names: dict[int, str] = {}
    for frame, (_, labels, buffer) in enumerate(recorded):
        counts = np.bincount(buffer.ravel(), minlength=256)
        for object_id, name, value in labels:
            if value and counts[value] and (name in MONSTERS or name in OBJECTS):
                areas.setdefault(object_id, {})[frame] = int(value), int(counts[value])
                names[object_id] = name
    min_area = MIN_AREA * recorded[0][0][..., 0].size if recorded else 0
    large = [
        object_id
        for object_id in areas
        if sum(a >= min_area for _, a in areas[object_id].values()) >= MIN_FRAMES
    ]
    if not large:
        return None
    large = [
        object_id
        for *_, object_id in sorted(
            (names[object_id] not in MONSTERS, random.random(), object_id) for object_id in large
        )
    ]
    large = large[:MAX_OBJECTS] if names[large[0]] in MONSTERS else large[:1]
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(50, 92))]

    def encode_masks(object_id: int) -> dict[int, Encoded]:
        return {
            frame: cv2.imencode(".png", (recorded[frame][2] == value).astype(np.uint8) * 255)[1]
            for frame, (value, _) in areas[object_id].items()
        }

    frames = [cv2.imencode(".jpg", each[..., ::-1], quality)[1] for each, *_ in recorded]
    masks = {object_id: encode_masks(object_id) for object_id in large}
    return {
        "names": {object_id: names[object_id] for object_id in large},
        "frames": frames,
        "masks": masks,
    }


def main() -> None:
    """Play games, and write a file for each clip."""
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
        started = game(random, maps)
        for _ in range(int(random.integers(3, 6))):
            started.new_episode()
            started.send_game_command("god")
            if random.random() < 0.3:
                started.send_game_command("notarget")
            made = clip(play(started, summon(started, random), random), random)
            if made is not None:
                path = arguments.folder / f"{arguments.seed}_{written:04d}.pkl"
                path.write_bytes(pickle.dumps(made))
                written += 1
        started.close()
        print(f"{number + 1} of {arguments.games} games: {written} clips", flush=True)


if __name__ == "__main__":
    main()
