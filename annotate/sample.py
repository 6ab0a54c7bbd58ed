"""Choose frames of a clip, and save them as pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from annotate import video
from annotate.errors import OutputError
from annotate.records import Frame

_ENCODERS = {"png": "PNG", "jpg": "JPEG"}


def choose(
    clip: Path | str,
    *,
    every: int = 1,
    rate: Fraction | float | None = None,
    keyframes: bool = False,
    start: int = 0,
    stop: int | None = None,
    maximum: int | None = None,
) -> Iterator[Frame]:
    """Frames of `clip` from `start` up to, not including, `stop`, in order.

    Every `every`-th, or `rate` a second, or only the keyframes (which alone are decoded); of these
    at most `maximum`, spread evenly.
    """
    if keyframes:
        inside = range(start, stop) if stop is not None else range(start, 2**63)
        chosen = (frame for frame in video.keyframes(clip) if frame.index in inside)
    else:
        chosen = video.frames(clip, every=every, rate=rate, start=start, stop=stop)
    return chosen if maximum is None else _spread(clip, [f.index for f in chosen], maximum)


def _spread(clip: Path | str, indices: list[int], maximum: int) -> Iterator[Frame]:
    places = np.linspace(0, len(indices) - 1, min(maximum, len(indices))).round().astype(int)
    return video.frames_at(clip, [indices[place] for place in places])


def save(frames: Iterable[Frame], folder: Path, *, image_format: str = "png") -> Iterator[Path]:
    """Write each frame as `CLIP-000075.png`, and `frames.csv` with file, video, frame, seconds.

    Raises:
        OutputError: nothing can be written there.
    """
    from PIL import Image

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "frames.csv.part").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file", "video", "frame", "seconds"])
            for frame in frames:
                path = folder / f"{Path(frame.video).stem}-{frame.index:06d}.{image_format}"
                draft = path.with_name(path.name + ".part")
                Image.fromarray(frame.image).save(draft, _ENCODERS[image_format], quality=95)
                draft.replace(path)
                table.writerow([path.name, frame.video, frame.index, frame.seconds])
                yield path
        (folder / "frames.csv.part").replace(folder / "frames.csv")
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there: {error.strerror}") from None
