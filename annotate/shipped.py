"""Where the data that ships with the package lies: prompts, models, the demo's clip."""

from pathlib import Path

from annotate.errors import UnknownName

_HOMES = {  # kind -> its folder in a wheel, and in a checkout
    kind: (Path(__file__).parent / "shipped_data" / kind, Path(__file__).parents[1] / folder)
    for kind, folder in {"prompts": "prompts", "models": "models", "clips": "tests/clips"}.items()
}


def home(kind: str) -> Path:
    """The folder of `kind`: prompts, models or clips."""
    return next(folder for folder in _HOMES[kind] if folder.is_dir())


def shipped(kind: str, name: str) -> Path:
    """The file `name` of `kind`; a miss names the nearest.

    Raises:
        UnknownName: when no such file ships.
    """
    path = home(kind) / name
    if not path.is_file():
        known = [str(each.relative_to(home(kind))) for each in home(kind).rglob("*.*")]
        raise UnknownName(f"file in {kind}", name, known)
    return path
