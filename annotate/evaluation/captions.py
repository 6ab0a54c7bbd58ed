"""Caption crops of growing size round a box, to learn how close a model must look.

The crops reach from a margin of two pixels round the box to the whole picture. Each is captioned
alone. `annotate.evaluation.caption_terms` analyses the captions.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from annotate.detectors.run import DETECTORS, header_settings
from annotate.errors import AnnotateError, ItemsError, OutputError
from annotate.files import refuse_foreign
from annotate.items.journal import check_same_settings
from annotate.items.records import Box, Header, Picture, Vocabulary, record_to_json
from annotate.locking.locks import locked_folder
from annotate.plugins import optional_member
from annotate.progress import Notes
from annotate.video import reader
from annotate.vlm.budget import UsageTotal

_DUMMY_VOCABULARY = Vocabulary("nothing to look for", {"object": {}}, "")
WindowXyxy = tuple[int, int, int, int]  # xyxy, whole pixels
MIN_OFFSET = 2.0  # pixels: the margin of the closest crop, on each side of the box
_MAX_ASPECT_RATIO = 2.0  # of a crop, where the picture allows


@runtime_checkable
class Captioner(Protocol):
    """A detector that can also describe a picture."""

    def caption(self, image: Picture) -> str:
        """Describe a picture, (H, W, 3) RGB, in words."""


def load_captioner(name: str, options: Mapping[str, str]) -> tuple[Captioner, Mapping[str, Any]]:
    """Load a detector that can describe pictures, and return it with its settings.

    Raises:
        UnknownName: no such detector or option.
        AnnotateError: the detector has no `caption`.
    """
    if not issubclass(DETECTORS.plugin_class(name), Captioner):
        raise AnnotateError(f"{name} finds boxes, but describes nothing: it has no `caption`")
    captioner: Any = DETECTORS.load(
        name, _DUMMY_VOCABULARY, **DETECTORS.parse_options(name, options)
    )
    return captioner, header_settings(captioner)


def notes_of(captioner: Captioner) -> list[str]:
    """Describe what was asked, what it cost, and what a captioner noted, a sentence each."""
    usage: UsageTotal | None = optional_member(captioner, "usage")
    notes: Notes | None = optional_member(captioner, "notes")
    asked = usage.questions + usage.cached if usage else 0
    lines = [usage.summary(asked, 0)] if usage and asked else []
    return lines + (notes.lines() if notes else [])


@dataclass(frozen=True)
class Crop:
    """A window round the box, with a margin of `offset` pixels on each side.

    `share` is the area of the box divided by that of the window.
    """

    number: int
    offset: float
    window: WindowXyxy
    share: float


@dataclass(frozen=True)
class Description:
    """A crop and its caption."""

    crop: Crop
    text: str


def make_crops(box: Box, size_wh: tuple[int, int], count: int, seed: int = 0) -> list[Crop]:
    """Choose `count` crops round a box; the first is the closest, the last the whole picture.

    The margins of the others are drawn evenly on a logarithmic scale. A crop is clipped to the
    picture; that of a long thin box is widened until its sides differ by a factor of 2 at most.
    """
    rng = random.Random(seed)
    farthest = max(box[0], box[1], size_wh[0] - box[2], size_wh[1] - box[3], MIN_OFFSET)
    low, high = math.log(MIN_OFFSET), math.log(farthest)
    offsets = [MIN_OFFSET, *(math.exp(rng.uniform(low, high)) for _ in range(count - 2)), farthest]
    return [
        _make_crop(number, offset, box, size_wh) for number, offset in enumerate(offsets[:count])
    ]


def _make_crop(number: int, offset: float, box: Box, size_wh: tuple[int, int]) -> Crop:
    x1, y1, x2, y2 = box
    width, height = x2 - x1 + 2 * offset, y2 - y1 + 2 * offset
    width, height = max(width, height / _MAX_ASPECT_RATIO), max(height, width / _MAX_ASPECT_RATIO)
    spans = [
        (
            max(0, math.floor((low + high - side) / 2)),
            min(whole, math.ceil((low + high + side) / 2)),
        )
        for low, high, side, whole in ((x1, x2, width, size_wh[0]), (y1, y2, height, size_wh[1]))
    ]
    (left, right), (top, bottom) = spans
    area = (right - left) * (bottom - top)
    window = (left, top, right, bottom)
    return Crop(number, round(offset, 2), window, round((x2 - x1) * (y2 - y1) / area, 6))


@dataclass(frozen=True)
class Job:
    """Which crops to describe, and by which model; `settings` are those of the model."""

    captioner: Captioner
    name: str
    settings: Mapping[str, Any]
    clip: Path
    frame: int
    box: Box
    count: int = 200
    seed: int = 0

    def header(self) -> Header:
        """Return the header of the file of descriptions."""
        settings = {"describer": self.name, **self.settings, "frame": self.frame, "box": self.box}
        settings |= {"count": self.count, "seed": self.seed}
        return Header("study", settings, videos=reader.header_entry(reader.probe(self.clip)))


def describe_crops(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Description], None] = lambda description: None,
) -> list[Description]:
    """Describe every crop, and write a JSON line for each to `out`; a stopped run is resumed.

    Raises:
        SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    refuse_foreign(out)
    with locked_folder(out.parent):
        return _describe_crops(job, out, force, progress)


def _describe_crops(
    job: Job, out: Path, force: bool, progress: Callable[[Description], None]
) -> list[Description]:
    frame = reader.seek(job.clip, job.frame)
    crops = make_crops(job.box, frame.size_wh, job.count, job.seed)
    descriptions = _resume(out, job.header(), crops, force)
    for description in descriptions:
        progress(description)
    try:
        with out.open("a", encoding="utf-8", newline="\n") as file:
            for crop in crops[len(descriptions) :]:
                left, top, right, bottom = crop.window
                image = np.ascontiguousarray(frame.image[top:bottom, left:right])
                descriptions.append(Description(crop, job.captioner.caption(image)))
                file.write(record_to_json(asdict(descriptions[-1])) + "\n")
                file.flush()
                progress(descriptions[-1])
    except OSError as error:
        raise OutputError(f"{out}: cannot write there: {error.strerror or error}") from None
    return descriptions


def _resume(out: Path, header: Header, crops: Sequence[Crop], force: bool) -> list[Description]:
    """Read the descriptions of an equal run, and cut the file off after its last whole line.

    `journal.resume` is not used: it reads and writes items, and a description is not an item.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = out.read_text(encoding="utf-8") if out.exists() and not force else ""
        first, *rest = [line for line in text.splitlines(keepends=True) if line.endswith("\n")] or [
            header.to_json() + "\n"
        ]
        check_same_settings(out, Header.from_json(first, f"{out}:1").differences(header))
        out.write_text("".join([first, *rest]), encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"{out}: cannot write there: {error.strerror or error}") from None
    try:
        texts = [str(json.loads(line)["text"]) for line in rest]
    except (ValueError, KeyError, TypeError):
        raise ItemsError(f"{out}: damaged: a line is not a description") from None
    return [Description(crop, text) for crop, text in zip(crops, texts, strict=False)]
