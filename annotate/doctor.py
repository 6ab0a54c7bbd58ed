"""What is installed, what is missing, and the command that gets it."""

import shutil
import sys
from importlib import metadata, util

from annotate import plugins, shipped
from annotate.errors import EXTRAS, AnnotateError

OK, MISSING = "ok", "missing"
Row = tuple[str, str, str]


def examine() -> list[Row]:
    """For each part: its name, its state, and what to do about it."""
    return [
        _python(),
        *_required(),
        _opencv(),
        *(_extra(package, extra) for package, extra in EXTRAS.items()),
        *_plugins(),
        _light(),
        _ffmpeg(),
    ]


def _python() -> Row:
    return f"Python {sys.version.split()[0]}", OK, ""


def _required() -> list[Row]:
    names = ["av", "numpy", "supervision", "pycocotools", "pandas", "onnxruntime", "matplotlib"]
    return [_package(name, "pip install --force-reinstall annotate-local") for name in names]


def _package(name: str, cure: str) -> Row:
    if util.find_spec(name) is None:
        return name, MISSING, cure
    return f"{name} {_version(name)}", OK, ""


def _version(name: str) -> str:
    dists = metadata.packages_distributions().get(name, [name])
    try:
        return metadata.version(dists[0])
    except metadata.PackageNotFoundError:
        return ""


def _opencv() -> Row:
    """Two OpenCVs write over each other's files in one folder."""
    dists = sorted(set(metadata.packages_distributions().get("cv2", [])))
    if not dists:
        return "cv2", MISSING, "pip install opencv-python-headless"
    if len(dists) > 1:
        cure = f"pip uninstall -y {' '.join(dists)} && pip install opencv-python-headless"
        return f"cv2 from {' and '.join(dists)}", "clash", cure
    return f"{dists[0]} {metadata.version(dists[0])}", OK, ""


def _extra(package: str, extra: str) -> Row:
    return _package(package, f"pip install 'annotate-local[{extra}]'")


def _plugins() -> list[Row]:
    rows = []
    for group, kind in plugins.KINDS.items():
        for name in plugins.names(group):
            try:
                plugins.find(group, name)
                rows.append((f"{kind} {name}", OK, ""))
            except (ImportError, AttributeError, AnnotateError) as error:
                rows.append((f"{kind} {name}", f"broken: {error}", "reinstall what it came with"))
    return rows


def _light() -> Row:
    try:
        shipped.shipped("models", "efficientnet-lite0-s16.onnx")
    except AnnotateError as error:
        return "weights of light", MISSING, str(error)
    return "weights of light", OK, "ships with annotate"


def _ffmpeg() -> Row:
    if shutil.which("ffmpeg"):
        return "ffmpeg (for benchmarks only)", OK, ""
    return "ffmpeg (for benchmarks only)", MISSING, "install it with your system's packages"
