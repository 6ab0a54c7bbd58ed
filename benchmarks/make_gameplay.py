"""Make clips of gameplay with exact masks, to train what tells `light` what a click means.

    python -m venv doom && doom/bin/pip install vizdoom==1.3.2 opencv-python-headless numpy
    doom/bin/python benchmarks/make_gameplay.py clips --games 60 --seed 11

A player wanders in a map of Freedoom 2, monsters and things are summoned before it, it backs off
and looks at them, and now and then shoots. A game gives a few clips of 50 to 90 frames, each with
the masks of at most three things. The monsters and maps of the clips `easy`, `medium` and `hard`,
by which `light` is scored, are in none of them.
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

# how often each is summoned
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
THINGS = [
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
SEEN, LEAST = 20, 0.0012  # a thing counts when that many frames show it on such a share of pixels
MOST = 3  # things of a clip

Random = np.random.Generator
Encoded = npt.NDArray[np.uint8]


Clip = dict[str, Any]  # names, JPEGs of the frames, and for each thing PNGs of its masks by frame


def game(random: Random, maps: Sequence[int]) -> vizdoom.DoomGame:
    """A started game on one of the maps, of a size and with a head-up display drawn by lot."""
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
    """Turn, go forward, go right, shoot: for one frame."""
    if not started.is_episode_finished() and not started.is_player_dead():
        started.make_action([float(each) for each in buttons], 1)


def wander(started: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Go ahead, turning otherwise every 25 frames."""
    turn = 0.0
    for k in range(frames):
        if k % 25 == 0:
            turn = random.normal() * 3
        act(started, turn + random.normal(), random.uniform(8, 30), 0, 0)


def swerve(started: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Back off sideways."""
    for _ in range(frames):
        turn = random.normal() * 2 + random.choice([-8, 8])
        act(started, turn, -random.uniform(5, 25), random.normal() * 8, 0)


def retreat(started: vizdoom.DoomGame, random: Random, frames: int) -> None:
    """Back off."""
    for _ in range(frames):
        act(started, random.normal(), -random.uniform(0, 25), random.normal() * 5, 0)


def summon(started: vizdoom.DoomGame, random: Random) -> list[str]:
    """Wander off, have one to three things appear, and back away; returns what they are."""
    wander(started, random, int(random.integers(5, 250)))
    names: list[str] = []
    share = np.array(list(MONSTERS.values())) / sum(MONSTERS.values())
    for _ in range(int(random.integers(1, 4))):
        still = random.random() < 0.3
        name = str(random.choice(THINGS) if still else random.choice(list(MONSTERS), p=share))
        if names and random.random() < 0.25:
            name = names[-1]
        friend = not still and random.random() < 0.3
        started.send_game_command(f"{'summonfriend' if friend else 'summon'} {name}")
        names.append(name)
        swerve(started, random, int(random.integers(1, 10)))
    retreat(started, random, int(random.integers(2, 50)))
    return names


def watched(
    started: vizdoom.DoomGame, names: list[str], random: Random
) -> list[tuple[Any, list[Any], Any]]:
    """Frames, their labels and label pictures, while the player looks at what was summoned."""
    policy = random.choice(["still", "track", "pan", "strafe"])
    shoots, speed, swing = random.random() < 0.35, random.uniform(0.03, 0.2), random.uniform(1, 6)
    aim, seen = None, []
    for k in range(int(random.integers(50, 90))):
        state = started.get_state()
        if state is None:
            break
        labels = [(each.object_id, each.object_name, each.value) for each in state.labels]
        seen.append((state.screen_buffer.copy(), labels, state.labels_buffer.copy()))
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
    return seen


def clip(seen: list[tuple[Any, list[Any], Any]], random: Random) -> Clip | None:
    """What is worth keeping of it: monsters first, a thing only where there are none."""
    areas: dict[int, dict[int, tuple[int, int]]] = {}
    names: dict[int, str] = {}
    for frame, (_, labels, buffer) in enumerate(seen):
        counts = np.bincount(buffer.ravel(), minlength=256)
        for of, name, value in labels:
            if value and counts[value] and (name in MONSTERS or name in THINGS):
                areas.setdefault(of, {})[frame] = int(value), int(counts[value])
                names[of] = name
    least = LEAST * seen[0][0][..., 0].size if seen else 0
    large = [of for of in areas if sum(a >= least for _, a in areas[of].values()) >= SEEN]
    if not large:
        return None
    large = [
        of for *_, of in sorted((names[of] not in MONSTERS, random.random(), of) for of in large)
    ]
    large = large[:MOST] if names[large[0]] in MONSTERS else large[:1]
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(50, 92))]

    def drawn(of: int) -> dict[int, Encoded]:
        return {
            frame: cv2.imencode(".png", (seen[frame][2] == value).astype(np.uint8) * 255)[1]
            for frame, (value, _) in areas[of].items()
        }

    frames = [cv2.imencode(".jpg", each[..., ::-1], quality)[1] for each, *_ in seen]
    masks = {of: drawn(of) for of in large}
    return {"names": {of: names[of] for of in large}, "frames": frames, "masks": masks}


def main() -> None:
    """Play, and write a file for each clip."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--games", type=int, default=60)
    arguments.add_argument("--seed", type=int, default=11)
    asked = arguments.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    maps = [each for each in range(1, 33) if each not in HELD_OUT]
    written = 0
    for number in range(asked.games):
        random = np.random.default_rng((asked.seed, number))
        started = game(random, maps)
        for _ in range(int(random.integers(3, 6))):
            started.new_episode()
            started.send_game_command("god")
            if random.random() < 0.3:
                started.send_game_command("notarget")
            found = clip(watched(started, summon(started, random), random), random)
            if found is not None:
                path = asked.folder / f"{asked.seed}_{written:04d}.pkl"
                path.write_bytes(pickle.dumps(found))
                written += 1
        started.close()
        print(f"{number + 1} of {asked.games} games: {written} clips", flush=True)


if __name__ == "__main__":
    main()
