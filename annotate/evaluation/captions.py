"""Caption crops of growing size round a box, to learn how near a model must look.

The crops reach from two pixels wider than the box to the whole picture, and are captioned one by
one. `annotate.evaluation.caption_terms` analyses the captions.
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

from annotate.detectors.run import DETECTORS, detector_settings
from annotate.errors import AnnotateError, ItemsError, OutputError, SettingsDiffer
from annotate.items.records import Box, Header, Picture, Vocabulary, record_to_json
from annotate.video import reader

_DUMMY_VOCABULARY = Vocabulary("nothing to look for", {"object": {}}, "")


@runtime_checkable
class Captioner(Protocol):
    """Anything with a `caption`."""

    def caption(self, image: Picture) -> str:
        """What is to be seen on a picture, (H, W, 3) RGB, in words."""


def load_captioner(name: str, options: Mapping[str, str]) -> tuple[Captioner, Mapping[str, Any]]:
    """The installed detector `name` as a describer, and the settings that shape what it says.

    Raises:
        UnknownName: no such detector or option.
        AnnotateError: it finds boxes, but does not describe.
    """
    if not issubclass(DETECTORS.plugin_class(name), Captioner):
        raise AnnotateError(f"{name} finds boxes, but describes nothing: it has no `caption`")
    chosen: Any = DETECTORS.load(name, _DUMMY_VOCABULARY, **DETECTORS.parse_options(name, options))
    return chosen, detector_settings(chosen)


WindowXyxy = tuple[int, int, int, int]  # xyxy, whole pixels

MIN_OFFSET = 2.0  # pixels that the closest crop is wider than the box, on each side
_MAX_ASPECT_RATIO = 2.0  # of a crop's sides to one another, where the picture allows


@dataclass(frozen=True)
class Crop:
    """A window round the box; `offset` is by how many pixels it is wider on each side.

    `share` is the box's part of the window's area.
    """

    number: int
    offset: float
    window: WindowXyxy
    share: float


@dataclass(frozen=True)
class Description:
    """A crop, and what a describer says of it."""

    crop: Crop
    text: str


def make_crops(box: Box, size_wh: tuple[int, int], count: int, seed: int = 0) -> list[Crop]:
    """`count` crops round a box in a picture of `size_wh`; the first is the closest, the last all.

    Offsets between are drawn evenly on a logarithmic scale. Near the edge a crop is cut off; of a
    long thin box it is widened across until one side is at most twice the other.
    """
    deal = random.Random(seed)
    farthest = max(box[0], box[1], size_wh[0] - box[2], size_wh[1] - box[3], MIN_OFFSET)
    low, high = math.log(MIN_OFFSET), math.log(farthest)
    offsets = [MIN_OFFSET, *(math.exp(deal.uniform(low, high)) for _ in range(count - 2)), farthest]
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
    """What is to be described, and by whom; `settings` are those that shape what is said."""

    captioner: Captioner
    name: str
    settings: Mapping[str, Any]
    clip: Path
    frame: int
    box: Box
    count: int = 200
    seed: int = 0

    def header(self) -> Header:
        """What the file of descriptions is stamped with."""
        told = {"describer": self.name, **self.settings, "frame": self.frame, "box": self.box}
        told |= {"count": self.count, "seed": self.seed}
        return Header("study", told, videos=reader.header_entry(reader.probe(self.clip)))


def describe_crops(
    job: Job,
    out: Path,
    *,
    force: bool = False,
    progress: Callable[[Description], None] = lambda said: None,
) -> list[Description]:
    """Have every crop described, a JSON line each in the file `out`; goes on where it was stopped.

    Raises:
        SettingsDiffer, OutputError, VideoError: see `annotate.errors`.
    """
    frame = reader.seek(job.clip, job.frame)
    asked = make_crops(job.box, frame.size_wh, job.count, job.seed)
    said = _resume(out, job.header(), asked, force)
    for known in said:
        progress(known)
    try:
        with out.open("a", encoding="utf-8", newline="\n") as file:
            for crop in asked[len(said) :]:
                left, top, right, bottom = crop.window
                image = np.ascontiguousarray(frame.image[top:bottom, left:right])
                said.append(Description(crop, job.captioner.caption(image)))
                file.write(record_to_json(asdict(said[-1])) + "\n")
                file.flush()
                progress(said[-1])
    except OSError as error:
        raise OutputError(f"{out}: cannot write there: {error.strerror or error}") from None
    return said


def _resume(out: Path, header: Header, crops: Sequence[Crop], force: bool) -> list[Description]:
    """What an equal run has written already; the file then ends behind its last whole line."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = out.read_text(encoding="utf-8") if out.exists() and not force else ""
        first, *rest = [line for line in text.splitlines(keepends=True) if line.endswith("\n")] or [
            header.to_json() + "\n"
        ]
        there = Header.from_json(first, f"{out}:1")
        if differ := there.differences(header):
            cure = "give another -o, or --force to write over it"
            raise SettingsDiffer(f"{out}: made with {'; '.join(differ)}: {cure}")
        out.write_text("".join([first, *rest]), encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"{out}: cannot write there: {error.strerror or error}") from None
    try:
        texts = [str(json.loads(line)["text"]) for line in rest]
    except (ValueError, KeyError, TypeError):
        raise ItemsError(f"{out}: damaged: not a description in every line") from None
    return [Description(crop, said) for crop, said in zip(crops, texts, strict=False)]
