"""Annotate gameplay video with local models: from a clip to a dataset, from Python.

    import annotate

    for frame, detections in annotate.propagate("dock.mp4", "points.csv"):
        print(frame.index, detections.mask.sum(axis=(1, 2)))

The functions here have the names of the commands. Those that look at frames yield pairs of a
`Frame` and a `supervision.Detections`; with `output=` they write a file of items that a stopped run
continues, and return its path. Nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from annotate.api.datasets import (
        build,
        compare,
        diff,
        export,
        find,
        import_dataset,
        pull,
        push,
        read_items,
        split,
        train,
        write_coco,
    )
    from annotate.api.stages import detect, frames, propagate, segment
    from annotate.dataset.folder import Dataset
    from annotate.items.records import Frame, Item, Vocabulary
    from annotate.video.reader import FrameSelection

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Frame",
    "FrameSelection",
    "Item",
    "Vocabulary",
    "build",
    "compare",
    "detect",
    "diff",
    "export",
    "find",
    "frames",
    "import_dataset",
    "propagate",
    "pull",
    "push",
    "read_items",
    "segment",
    "split",
    "train",
    "write_coco",
]

_HOMES = {
    **dict.fromkeys(["detect", "frames", "propagate", "segment"], "annotate.api.stages"),
    "Dataset": "annotate.dataset.folder",
    "Frame": "annotate.items.records",
    "FrameSelection": "annotate.video.reader",
    "Item": "annotate.items.records",
    "Vocabulary": "annotate.items.records",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES.get(name, "annotate.api.datasets")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
