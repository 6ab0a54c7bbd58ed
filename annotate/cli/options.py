"""Define the options that several commands share, their shell completion, and old option names."""

import enum
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def complete_detector() -> list[str]:
    """List the installed detectors."""
    from annotate.plugins import FAMILIES

    return FAMILIES["detectors"].names()


def complete_engine() -> list[str]:
    """List the installed propagation engines."""
    from annotate.plugins import FAMILIES

    return FAMILIES["propagators"].names()


def complete_segmenter() -> list[str]:
    """List the installed segmenters."""
    from annotate.plugins import FAMILIES

    return FAMILIES["segmenters"].names()


def complete_format() -> list[str]:
    """List the installed dataset formats."""
    from annotate.plugins import FAMILIES

    return FAMILIES["formats"].names()


def complete_trainer() -> list[str]:
    """List the installed trainers."""
    from annotate.plugins import FAMILIES

    return FAMILIES["trainers"].names()


def complete_vocabulary() -> list[str]:
    """List the packaged vocabularies."""
    from annotate import vocabulary

    return list(vocabulary.packaged_vocabularies())


def complete_model() -> list[str]:
    """List the models of the manifest."""
    from annotate.weights import manifest

    return list(manifest.all_models())


class ImageFormat(enum.StrEnum):
    """The file format of images."""

    png = "png"
    jpg = "jpg"


class DuplicateMethod(enum.StrEnum):
    """How near-duplicates are detected."""

    ssim = "ssim"
    hash = "hash"
    embedding = "embedding"


ClipPath = Annotated[Path, typer.Argument(help="A video, a folder of images, or one image.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Start = Annotated[int, typer.Option(min=0, help="First frame to read.")]
Stop = Annotated[int | None, typer.Option(min=1, help="Frame to stop before.")]
Every = Annotated[int, typer.Option(min=1, help="Take every N-th frame.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="Take N frames a second.")]
Keyframes = Annotated[bool, typer.Option("--keyframes", help="Take keyframes only: fast.")]
MaxFrames = Annotated[
    int | None, typer.Option("--max-frames", min=1, help="Take at most N frames, spread evenly.")
]
Engine = Annotated[
    str,
    typer.Option(
        autocompletion=complete_engine,
        help="The propagation engine; `annotate propagators` lists all.",
    ),
]
FrameList = Annotated[
    Path | None,
    typer.Option("--frames", metavar="CSV", help="Take only the frames of this list."),
]
DetectorSpec = Annotated[
    str,
    typer.Option(
        "-d",
        "--detector",
        autocompletion=complete_detector,
        help="The detector, NAME[:KEY=VALUE,...]; `annotate detectors` lists all.",
    ),
]
ColourMask = Annotated[
    str | None, typer.Option(help="Black out all pixels but those of the colour of this class.")
]
NearColour = Annotated[
    str | None, typer.Option(help="Detect only near pixels of the colour of this class.")
]
Margin = Annotated[int, typer.Option(min=0, help="Pixels kept around those of --near.")]
Calibration = Annotated[
    Path | None, typer.Option(help="Score curves that `annotate calibrate-scores` wrote.")
]
SegmenterName = Annotated[
    str,
    typer.Option(
        autocompletion=complete_segmenter,
        help="The segmenter: slic or sam2, or the name of a plugin.",
    ),
]
MinBoxScore = Annotated[
    float, typer.Option(min=0, max=1, help="Ignore boxes of --from with a lower score.")
]
BothDirections = Annotated[
    bool, typer.Option("--both", help="Propagate backward from the first prompt, too.")
]
Fast = Annotated[bool, typer.Option("--fast", help="Faster, less exact.")]
Phrase = Annotated[str | None, typer.Option(help="What sam3 looks for, instead of prompts.")]
Duplicates = Annotated[
    DuplicateMethod,
    typer.Option(help="Drop frames similar to the last kept (ssim) or to any kept frame."),
]
DuplicateThreshold = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Similarity of duplicates: ssim 0.6, hash 0.84, embedding 0.95."
    ),
]
Everything = Annotated[
    bool, typer.Option("--everything", help="Keep every frame, also duplicates and blank ones.")
]
PictureFormat = Annotated[ImageFormat, typer.Option("--format", help="File format of the images.")]
VideoPaths = Annotated[
    list[str] | None,
    typer.Option("--video", metavar="NAME=PATH", help="Path of a clip that was moved; repeatable."),
]
MinScore = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Leave out objects with a lower score; those without a score stay."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set an option of the plugin; repeatable."),
]
Device = Annotated[str | None, typer.Option(help="Device for PyTorch: cpu, cuda, mps.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Size = Annotated[int | None, typer.Option(min=32, help="Side of the network's input, in pixels.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network first.")]
RandomWeights = Annotated[
    int | None,
    typer.Option(metavar="SEED", help="Use random weights: to test without a download."),
]
_vocabulary_option = typer.Option(
    "-v",
    "--vocabulary",
    autocompletion=complete_vocabulary,
    help="A TOML file, or a name that `annotate vocabularies` lists.",
)
VocabularyOption = Annotated[str, _vocabulary_option]
OptionalVocabulary = Annotated[str | None, _vocabulary_option]

# Command -> its options that had other names in earlier versions: old -> new.
_MAX_FRAMES = {"--max": "--max-frames"}
_MIN_SCORE = {"--least": "--min-score"}
_MAX_CLIPS = {"--max": "--max-clips"}
RENAMED_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "build": {**_MAX_FRAMES, **_MIN_SCORE},
    "calibrate": {"--way": "--mode"},
    "compare": {**_MAX_FRAMES, **_MIN_SCORE, "--batch": "--batch-size"},
    "draw": _MIN_SCORE,
    "find": {
        "--chunk": "--batch-size",
        "--looks": "--frames-per-shot",
        "--max": "--max-shots (local) or --max-pictures (vlm)",
    },
    "frames": _MAX_FRAMES,
    "phrases": {"--max": "--max-matches"},
    "poster": {"--tile": "--tile-width", "--tiles": "--tiles-across"},
    "propagate": _MIN_SCORE,
    "propose-points": {"--ask": "--phrase"},
    "restore": {"--why": "--reason"},
    "review": _MAX_FRAMES,
    "segment": _MAX_FRAMES,
    "similar": {**_MAX_CLIPS, "--way": "--method"},
    "unlike": _MAX_CLIPS,
}
RENAMED_COMMANDS: Mapping[str, str] = {"points": "propose-points"}


def parse_place(text: str) -> Path | str:
    """Return the path of a folder, or an address such as `s3://bucket/prefix` as it is."""
    from annotate.batch.stores.bucket import is_url

    return text if is_url(text) else Path(text)


def place_option(text: str) -> Any:
    """Make the option for the output of a batch, a folder or an address; `text` is its help."""
    return typer.Option("-o", "--output", parser=parse_place, metavar="FOLDER|URL", help=text)


def renamed_option(command: str, words: Sequence[str]) -> str | None:
    """Return a line that names the new option if the words of a command hold an old one."""
    renamed = RENAMED_OPTIONS.get(command, {})
    for word in words:
        if word == "--":
            break
        old = word.partition("=")[0]
        if old in renamed:
            return f"{old} was renamed: use {renamed[old]}"
    return None


def repeated_option(given: Iterable[Any]) -> str | None:
    """Return a line that names an option that is given twice but has one value, else None.

    `given` are the parameters of a command in the order of the command line.
    """
    seen = set()
    for each in given:
        if each.param_type_name != "option" or each.is_flag or each.multiple:
            continue
        if each in seen:
            return f"{each.opts[0]} is given twice: give it once"
        seen.add(each)
    return None


# Command -> the parameter with the path that it changes in place; others write to these.
_IN_PLACE = {"add": "db", "remove": "db", "split": "dataset", "restore": "folder"}
_OUTPUTS = ("output", "preview", "order")


def check_outputs(context: Any) -> None:
    """Check the paths that a command writes, before it begins.

    Raises:
        OutputError: nothing can be written there, or an input of the command is there.
    """
    from annotate import files

    names = (*_OUTPUTS, _IN_PLACE.get(context.command.name, ""))
    outputs = [context.params.get(name) for name in names]
    for output in outputs:
        if isinstance(output, Path) and str(output) != "-":
            files.check_writable(output)
            if output.exists():
                given = {k: each for k, each in context.params.items() if k not in names}
                files.refuse_input(output, _input_paths(given))


def _input_paths(parameters: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the paths in the values of a command, and those of the clips in files of items.

    A text names a path as a whole or in a part, as in NAME=PATH or FRAME:OBJECT:PNG. Only some
    options take the name of a folder as text.
    """
    from annotate.items import journal

    for name, value in parameters.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Path):
                yield each
                yield from journal.clip_paths(each)
            elif isinstance(each, str):
                parts = {each, each.partition("=")[2], *re.split("[=:,]", each)}
                exists = os.path.exists if name in ("videos", "settings") else os.path.isfile
                yield from (Path(part) for part in parts if part and exists(part))


def key_value_pairs(
    values: list[str] | None, option: str = "--set", expected: str = "KEY=VALUE"
) -> dict[str, str]:
    """Parse an option that is given several times as KEY=VALUE."""
    from annotate.errors import AnnotateError
    from annotate.plugins import split_pair

    try:
        return dict(split_pair(text, expected) for text in values or ())
    except AnnotateError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def plugin_spec(
    family: Any, text: str, settings: list[str] | None, **options: object
) -> tuple[str, dict[str, Any]]:
    """Parse a plugin given as `NAME` or `NAME:KEY=VALUE,...`, with `--set` and other options.

    Raises:
        UnknownName: no such plugin or option; names the nearest.
        AnnotateError: a text that cannot be parsed, or an option that is given twice.
    """
    from annotate.errors import AnnotateError

    name, own = family.split_spec(text)
    others = plugin_options(settings, **options)
    twice = sorted(own.keys() & others)
    if twice:
        raise AnnotateError(f"{text}: {twice[0]} is given twice: give it once")
    return name, family.parse_options(name, {**own, **others})


def plugin_options(settings: list[str] | None, **options: object) -> dict[str, str]:
    """Merge `--set` and the options of a command that were given into plugin options."""
    given = {
        key: str(value)
        for key, value in options.items()
        if value is not None and value is not False
    }
    return {**key_value_pairs(settings), **given}


def clip_paths(values: list[str] | None) -> dict[str, Path]:
    """Parse `--video NAME=PATH`: the path of each named clip."""
    pairs = key_value_pairs(values, "--video", "NAME=PATH")
    return {name: Path(path) for name, path in pairs.items()}


def parse_cuts(values: list[str] | None, clips: Sequence[str]) -> dict[str, list[int]]:
    """Parse `--cut CLIP:FRAME`, or FRAME in a dataset of one clip: the cuts of each clip.

    Examples:
        >>> parse_cuts(["120", "dock.mp4:60"], ["dock.mp4"])
        {'dock.mp4': [120, 60]}
    """
    cuts: dict[str, list[int]] = {}
    for text in values or ():
        clip, _, frame = text.rpartition(":")
        if not frame.isascii() or not frame.isdigit() or not (clip or len(clips) == 1):
            expected = f"CLIP:FRAME, such as {clips[0]}:120" if clips else "CLIP:FRAME"
            raise typer.BadParameter(f"expected {expected}, got {text!r}", param_hint="--cut")
        cuts.setdefault(clip or clips[0], []).append(int(frame))
    return cuts
