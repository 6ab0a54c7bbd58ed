"""Compare colours inside boxes with those outside: table, plot and vocabulary entry.

Channels are compared by their histograms over the same frames. Hue percentiles are counted from
the emptiest part of the hue circle, so that reds are not split at 0 degrees.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.detectors.colour.ranges import COLOUR_SPACES, Interval
from annotate.errors import OutputError, PromptError
from annotate.items.records import Box, Frame, Mask
from annotate.video import reader

Histogram = npt.NDArray[np.float64]  # (256,): pixels at each level of a channel

PERCENTILES = 5, 25, 50, 75, 95
_MIN_HUE_LEVEL = 51  # of 255: with less saturation or value than a fifth, a hue means nothing
_UNIT_PER_LEVEL = {"hue_degrees": 360 / 256, "saturation": 1 / 255, "value": 1 / 255}  # of a level


@dataclass(frozen=True)
class ColourReport:
    """Counts of every channel's levels inside the boxes and outside, and the entry they suggest."""

    label: str
    inside: Mapping[str, Histogram]
    outside: Mapping[str, Histogram]
    toml_entry: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of a row's cells."""
        return ("channel", "where", *(f"{percent} %" for percent in PERCENTILES))

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """For each channel, the percentiles inside the boxes, then outside."""
        return [
            (
                channel,
                where,
                *(_format_level(channel, p) for p in percentiles(channel, counts[channel])),
            )
            for channel in self.inside
            for where, counts in (("inside", self.inside), ("outside", self.outside))
        ]


def compare_clip(
    clip: str | os.PathLike[str], regions: Sequence[tuple[int, Box]], label: str
) -> ColourReport:
    """Compare the colours inside boxes on a clip's frames with those outside, on the same frames.

    Raises:
        PromptError: no boxes, or a box with no pixels.
        VideoError: as `video.frames_at`.
    """
    indices = {frame for frame, _ in regions}
    return compare_frames(reader.frames_at(clip, indices), regions, label)


def compare_frames(
    frames: Iterable[Frame], regions: Sequence[tuple[int, Box]], label: str
) -> ColourReport:
    """As `report`, of frames in hand. `regions` are (frame index, xyxy)."""
    if not regions:
        raise PromptError("no boxes: give one round the thing, FRAME,X1,Y1,X2,Y2")
    channels = [channel for space in COLOUR_SPACES.values() for channel in space]
    within = {channel: np.zeros(256) for channel in channels}
    without = {channel: np.zeros(256) for channel in channels}
    held = []
    for frame in frames:
        boxed = _box_mask(frame, [box for index, box in regions if index == frame.index])
        held.append(frame.image[boxed])
        for counts, pixels in ((within, held[-1]), (without, frame.image[~boxed])):
            for channel, levels in _channel_levels(pixels).items():
                counts[channel] += np.bincount(levels, minlength=256)
    hues = _characteristic_hues(within["hue_degrees"], without["hue_degrees"])
    entry = _toml_entry(label, np.concatenate(held), hues, [box for _, box in regions])
    return ColourReport(label, within, without, entry)


def _box_mask(frame: Frame, boxes: Iterable[Box]) -> Mask:
    """Which pixels are in any of the boxes."""
    boxed = np.zeros(frame.image.shape[:2], bool)
    for box in boxes:
        x1, y1, x2, y2 = (max(0, round(edge)) for edge in box)
        if not boxed[y1:y2, x1:x2].size:
            raise PromptError(f"frame {frame.index}: no pixel is inside the box {box}")
        boxed[y1:y2, x1:x2] = True
    return boxed


def _channel_levels(pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    """Every channel's levels 0..255 of (n, 3) RGB pixels; hues only where there is colour."""
    red, green, blue = pixels.T
    hue, saturation, value = _rgb_to_hsv(pixels).T
    hue = hue[(saturation >= _MIN_HUE_LEVEL) & (value >= _MIN_HUE_LEVEL)]
    names = [channel for space in COLOUR_SPACES.values() for channel in space]
    return dict(zip(names, (red, green, blue, hue, saturation, value), strict=True))


def _rgb_to_hsv(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(n, 3) RGB as HSV, every channel 0..255."""
    if not len(pixels):
        return pixels
    hsv: npt.NDArray[np.uint8] = np.asarray(cv2.cvtColor(pixels[None], cv2.COLOR_RGB2HSV_FULL))[0]
    return hsv


def percentiles(channel: str, counts: Histogram) -> list[float]:
    """The levels below which each of PERCENTILES lie, in the channel's unit; NaN of no pixels.

    Hues are counted from the emptiest part of the circle, so that reds are not torn apart.
    """
    if not counts.sum():
        return [float("nan")] * len(PERCENTILES)
    start = _emptiest_level(counts) if channel == "hue_degrees" else 0
    below = np.roll(counts, -start).cumsum() / counts.sum()
    levels = np.searchsorted(below, np.array(PERCENTILES) / 100)
    unit = _UNIT_PER_LEVEL.get(channel, 1)
    return [float((level + start) % 256 * unit) for level in levels]


def _emptiest_level(counts: Histogram) -> int:
    """The level in the middle of the 64 that hold least, on a circle."""
    held = np.convolve(np.tile(counts, 2), np.ones(64), "valid")[:256]
    return (int(held.argmin()) + 32) % 256


def _format_level(channel: str, value: float) -> str:
    return f"{value:.2f}" if channel in ("saturation", "value") else f"{value:.0f}"


def _toml_entry(
    label: str, pixels: npt.NDArray[np.uint8], hues: Interval | None, boxes: Sequence[Box]
) -> str:
    """TOML for a vocabulary: ranges round the thing's own pixels, sizes round the boxes'."""
    key = label if re.fullmatch(r"[\w-]+", label, re.ASCII) else json.dumps(label)
    sides = [side for x1, y1, x2, y2 in boxes for side in (x2 - x1, y2 - y1)]
    aspects = [(x2 - x1) / (y2 - y1) for x1, y1, x2, y2 in boxes]
    lines = [
        f"[classes.{key}.colour]",
        f"size = [{max(1, int(min(sides) / 2))}, {round(max(sides) * 2)}] # pixels",
        f"aspect = [{min(aspects) * 0.8:.2f}, {max(aspects) * 1.25:.2f}] # width / height",
        "",
        f"[[classes.{key}.colour.ranges]]",
        'space = "hsv"',
    ]
    hue, saturation, value = _rgb_to_hsv(pixels).T
    own = np.ones(len(pixels), bool)
    if hues is not None:
        low, high = hues
        own = (hue.astype(int) - low) % 256 <= (high - low) % 256
        own &= (saturation >= _MIN_HUE_LEVEL) & (value >= _MIN_HUE_LEVEL)
        lines.append(f"hue_degrees = [{low * 360 / 256:.0f}, {high * 360 / 256:.0f}]")
    for name, levels in (("saturation", saturation), ("value", value)):
        least, most = np.percentile(levels[own], [5, 95]) / 255
        lines.append(f"{name} = [{least:.2f}, {1 if hues else most:.2f}]")
    return "\n".join(lines) + "\n"


def _characteristic_hues(inside: Histogram, outside: Histogram) -> Interval | None:
    """From which level to which, on the circle, hues are commoner inside; None where none are."""
    if inside.sum() < 1:
        return None
    soft = np.hanning(15) / np.hanning(15).sum()
    shares = [each / max(each.sum(), 1) for each in (inside, outside)]
    within, without = (np.convolve(np.tile(s, 3), soft, "same")[256:512] for s in shares)
    peak = int((within - without).argmax())
    own = (within > 1.5 * without) & (within > 0.05 * within[peak])
    if not own[peak]:
        return None
    turned = np.roll(own, -peak)
    if turned.all():
        return None
    forth, back = int(turned.argmin()) - 1, int(turned[::-1].argmin())
    return (peak - back) % 256, (peak + forth) % 256


def plot(report: ColourReport, out: Path, *, force: bool = False) -> None:
    """Draw every channel's levels, inside against outside, as a PNG.

    Raises:
        OutputError: `out` is no PNG, is there already and `force` is not given, or no such folder.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check_output(out, force)
    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.label}: the colours inside the boxes, and outside")
    for axes, channel in zip(figure.subplots(2, 3).flat, report.inside, strict=True):
        _plot_channel(axes, channel, report)
    draft = out.with_name(out.name + ".part")
    try:
        figure.savefig(draft, format="png", dpi=110, metadata={"Software": None})
        draft.replace(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot write there: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _check_output(out: Path, force: bool) -> None:
    if out.suffix.lower() != ".png":
        raise OutputError(f"{out}: the plot is a PNG: give a name that ends in .png")
    if out.exists() and not force:
        raise OutputError(f"{out}: is there already: give another -o, or --force to write over it")


def _plot_channel(axes: Any, channel: str, report: ColourReport) -> None:
    """One channel's two histograms, each summing to 1."""
    levels = np.arange(256) * _UNIT_PER_LEVEL.get(channel, 1)
    sides = (("inside", report.inside, "#d62728"), ("outside", report.outside, "#7f7f7f"))
    for where, counts, colour in sides:
        share = counts[channel] / max(counts[channel].sum(), 1)
        axes.fill_between(levels, share, step="mid", alpha=0.45, color=colour, label=where)
    axes.set_xlabel(channel.replace("_", " "))
    axes.set_xlim(levels[0], levels[-1])
    axes.set_yscale("function", functions=(np.sqrt, np.square))  # rare colours count too
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    if channel == "red":
        axes.legend(frameon=False)
