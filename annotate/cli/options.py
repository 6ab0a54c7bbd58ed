"""Define the options that several commands share, and their shell completion."""

import enum
from pathlib import Path
from typing import Annotated

import typer


def complete_detector() -> list[str]:
    """The installed detectors."""
    from annotate.plugins import FAMILIES

    return FAMILIES["detectors"].names()


def complete_engine() -> list[str]:
    """The installed engines."""
    from annotate.plugins import FAMILIES

    return FAMILIES["propagators"].names()


def complete_segmenter() -> list[str]:
    """The installed segmenters."""
    from annotate.plugins import FAMILIES

    return FAMILIES["segmenters"].names()


def complete_format() -> list[str]:
    """The installed formats."""
    from annotate.plugins import FAMILIES

    return FAMILIES["formats"].names()


def complete_vocabulary() -> list[str]:
    """The vocabularies that ship."""
    from annotate import vocabulary

    return list(vocabulary.packaged_vocabularies())


def complete_model() -> list[str]:
    """The models that the manifest names."""
    from annotate.weights import manifest

    return list(manifest.all_models())


class ImageFormat(enum.StrEnum):
    """How pictures are written."""

    png = "png"
    jpg = "jpg"


ClipPath = Annotated[Path, typer.Argument(help="A video, a folder of images, or one image.")]
Force = Annotated[bool, typer.Option("--force", help="Write over whatever is at -o.")]
Start = Annotated[int, typer.Option(min=0, help="First frame to look at.")]
Stop = Annotated[int | None, typer.Option(min=1, help="Frame to stop before.")]
Every = Annotated[int, typer.Option(min=1, help="Take every N-th frame.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="Take so many frames a second.")]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Take keyframes only: fast.")]
MaxFrames = Annotated[
    int | None, typer.Option("--max-frames", min=1, help="At most N, spread evenly.")
]
PictureFormat = Annotated[ImageFormat, typer.Option("--format", help="How pictures are written.")]
VideoPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--video", metavar="NAME=PATH", help="A clip not where its items say; repeatable."
    ),
]
MinScore = Annotated[
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
_vocabulary_option = typer.Option(
    "-v", "--vocabulary", autocompletion=complete_vocabulary, help="A name, or a TOML file."
)
VocabularyOption = Annotated[str, _vocabulary_option]
OptionalVocabulary = Annotated[str | None, _vocabulary_option]


def key_value_pairs(values: list[str] | None, option: str = "--set") -> dict[str, str]:
    """What an option given several times as KEY=VALUE says."""
    from annotate.errors import AnnotateError
    from annotate.plugins import split_pair

    try:
        return dict(split_pair(text) for text in values or ())
    except AnnotateError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def plugin_options(settings: list[str] | None, **options: object) -> dict[str, str]:
    """What `--set` and options of their own say to a plugin; those not given are left out."""
    said = {key: value for key, value in options.items() if value is not None}
    return {
        **key_value_pairs(settings),
        **{key: str(v) for key, v in said.items() if v is not False},
    }


def clip_paths(values: list[str] | None) -> dict[str, Path]:
    """Where several `--video NAME=PATH` say that clips are."""
    return {name: Path(path) for name, path in key_value_pairs(values, "--video").items()}
