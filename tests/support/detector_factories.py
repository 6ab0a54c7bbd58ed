"""How each detector that needs something is made for a test: a context that gives its options."""

from contextlib import contextmanager

from sample_data import SHARED
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
def options(name):
    """What `detect.load(name, ...)` has to be given; its server runs as long as the context."""
    if name not in MAKING:
        yield {}
        return
    with MAKING[name]() as given:
        yield given


MAKING = {
    "cascade": _cascade,
    "ensemble": _ensemble,
    "moondream": _moondream,
    "vlm": _vlm,
    "yolo": _yolo,
}
