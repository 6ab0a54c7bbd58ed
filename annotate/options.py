"""The options that several commands share, and how the shell completes them."""

import enum
from pathlib import Path
from typing import Annotated

import typer


def complete_detector() -> list[str]:
    """The installed detectors."""
    from annotate import detect

    return detect.names()


def complete_engine() -> list[str]:
    """The installed engines."""
    from annotate import propagate

    return propagate.names()


def complete_segmenter() -> list[str]:
    """The installed segmenters."""
    from annotate import segment

    return segment.names()


def complete_format() -> list[str]:
    """The installed formats."""
    from annotate import plugins

    return plugins.names("annotate.formats")


def complete_vocabulary() -> list[str]:
    """The vocabularies that ship."""
    from annotate import prompts

    return list(prompts.vocabularies())


def complete_model() -> list[str]:
    """The models that the manifest names."""
    from annotate import manifest

    return list(manifest.manifest())


class ImageFormat(enum.StrEnum):
    """How pictures are written."""

    png = "png"
    jpg = "jpg"


Clip = Annotated[Path, typer.Argument(help="A video, a folder of images, or one image.")]
Force = Annotated[bool, typer.Option("--force", help="Write over whatever is at -o.")]
Start = Annotated[int, typer.Option(min=0, help="First frame to look at.")]
Stop = Annotated[int | None, typer.Option(min=1, help="Frame to stop before.")]
Every = Annotated[int, typer.Option(min=1, help="Take every N-th frame.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="Take so many frames a second.")]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Take keyframes only: fast.")]
Most = Annotated[int | None, typer.Option("--max", min=1, help="At most N, spread evenly.")]
Pictures = Annotated[ImageFormat, typer.Option("--format", help="How pictures are written.")]
Videos = Annotated[
    list[str] | None,
    typer.Option(
        "--video", metavar="NAME=PATH", help="A clip not where its items say; repeatable."
    ),
]
Least = Annotated[
    float, typer.Option(min=0, max=1, help="Leave out what scores below; no score stays.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the plugin; repeatable."),
]
Device = Annotated[str | None, typer.Option(help="Where PyTorch runs: cpu, cuda, mps.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Size = Annotated[int | None, typer.Option(min=32, help="Side of the network's input, in pixels.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network first.")]
RandomWeights = Annotated[
    int | None,
    typer.Option(metavar="SEED", help="Weights that know nothing, to try the machinery."),
]
_words = typer.Option(
    "-v", "--vocabulary", autocompletion=complete_vocabulary, help="A name, or a TOML file."
)
Words = Annotated[str, _words]
PerhapsWords = Annotated[str | None, _words]


def pairs(given: list[str] | None, option: str = "--set") -> dict[str, str]:
    """What an option given several times as KEY=VALUE says."""
    split = [text.partition("=") for text in given or ()]
    for text, equals, _ in split:
        if not equals:
            raise typer.BadParameter(f"expected KEY=VALUE, got {text!r}", param_hint=option)
    return {key: value for key, _, value in split}


def told(given: list[str] | None, **options: object) -> dict[str, str]:
    """What `--set` and options of their own say to a plugin; those not given are left out."""
    said = {key: value for key, value in options.items() if value is not None}
    return {**pairs(given), **{key: str(v) for key, v in said.items() if v is not False}}


def paths(given: list[str] | None) -> dict[str, Path]:
    """Where several `--video NAME=PATH` say that clips are."""
    return {name: Path(path) for name, path in pairs(given, "--video").items()}
