"""Contexts with the options that some detectors need in tests."""

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sample_data import SHARED
from untrained import untrained_model
from vlm_server import serving


@contextmanager
def _moondream():
    with serving() as model:
        yield {"endpoint": model.url, "wait_seconds": 0.01}


@contextmanager
def _vlm():
    with serving() as model:
        yield {
            "url": model.url,
            "model": "sees",
            "box_format": "relative 1000 xyxy",
            "wait_seconds": 0.01,
        }


@contextmanager
def _yolo():
    real = SHARED / "models" / "yolo11n_int8_openvino_model"
    yield {"model": str(real)} if real.is_dir() else {}


@contextmanager
def _ensemble():
    yield {"members": "colour"}


@contextmanager
def _cascade():
    yield {"first": "colour", "second": "colour"}


@contextmanager
def _trained():
    with TemporaryDirectory() as folder:
        yield {"model": str(untrained_model(Path(folder), ("person", "designator")))}


@contextmanager
def options(name):
    """Yield the options for `DETECTORS.load(name, ...)`; a server runs within the context."""
    if name not in FACTORIES:
        yield {}
        return
    with FACTORIES[name]() as given:
        yield given


FACTORIES = {
    "cascade": _cascade,
    "ensemble": _ensemble,
    "moondream": _moondream,
    "trained": _trained,
    "vlm": _vlm,
    "yolo": _yolo,
}
