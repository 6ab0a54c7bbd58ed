"""Compare the colours inside boxes with those outside: a table, a plot, a vocabulary entry.

Channels are compared by their histograms over the same frames. Hue percentiles are counted from
the emptiest part of the hue circle, so that reds are not split at 0 degrees.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotate.detectors.colour.ranges import COLOUR_SPACES
from annotate.detectors.colour.suggest import (
    MIN_HUE_LEVEL,
    Regions,
    Trial,
    box_mask,
    rgb_to_hsv,
    suggest_entry,
)
from annotate.errors import OutputError, PromptError
from annotate.files import atomic_file, refuse_existing
from annotate.items.records import Frame
from annotate.video import reader

Histogram = npt.NDArray[np.float64]  # (256,): pixels at each level of a channel

PERCENTILES = 5, 25, 50, 75, 95
# channel -> its units per level of 0..255; 1 for the channels that are not listed
_UNIT_PER_LEVEL = {"hue_degrees": 360 / 256, "saturation": 1 / 255, "value": 1 / 255}


@dataclass(frozen=True)
class ColourReport:
    """Histograms of each channel inside and outside the boxes, and a suggested `colour` entry."""

    label: str
    inside: Mapping[str, Histogram]
    outside: Mapping[str, Histogram]
    trial: Trial

    @property
    def toml_entry(self) -> str:
        """The suggested `colour` entry: a vocabulary of one class, as TOML."""
        return self.trial.toml_entry

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names of the table."""
        return ("channel", "where", *(f"{percent} %" for percent in PERCENTILES))

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The rows of the table: per channel, the percentiles inside the boxes, then outside."""
        return [
            (
                channel,
                where,
                *(_format_level(channel, p) for p in percentiles(channel, counts[channel])),
            )
            for channel in self.inside
            for where, counts in (("inside", self.inside), ("outside", self.outside))
        ]


def compare_clip(clip: str | os.PathLike[str], regions: Regions, label: str) -> ColourReport:
    """Compare the colours inside boxes on a clip's frames with those outside, on the same frames.

    Raises:
        PromptError: there are no boxes, or a box has no pixels.
        VideoError: see `reader.frames_at`.
    """
    # all in memory: a person has drawn the boxes, and the suggestions are tried on each frame
    frames = list(reader.frames_at(clip, {frame for frame, _ in regions}))
    return compare_frames(frames, regions, label)


def compare_frames(frames: Sequence[Frame], regions: Regions, label: str) -> ColourReport:
    """Compare colours as `compare_clip` does, on frames; `regions` are (frame index, xyxy)."""
    if not regions:
        raise PromptError("no boxes: give at least one box round the object, as FRAME,X1,Y1,X2,Y2")
    channels = [channel for space in COLOUR_SPACES.values() for channel in space]
    inside = {channel: np.zeros(256) for channel in channels}
    outside = {channel: np.zeros(256) for channel in channels}
    for frame in frames:
        _check_regions(frame, regions)
        mask = box_mask(frame, regions)
        for counts, pixels in ((inside, frame.image[mask]), (outside, frame.image[~mask])):
            for channel, levels in _channel_levels(pixels).items():
                counts[channel] += np.bincount(levels, minlength=256)
    return ColourReport(label, inside, outside, suggest_entry(frames, regions, label))


def _check_regions(frame: Frame, regions: Regions) -> None:
    for box in (box for index, box in regions if index == frame.index):
        x1, y1, x2, y2 = (max(0, round(edge)) for edge in box)
        if not frame.image[y1:y2, x1:x2].size:
            raise PromptError(f"frame {frame.index}: no pixel is inside the box {box}")


def _channel_levels(pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    """Compute the levels 0..255 of each channel of (n, 3) RGB pixels; hues of vivid pixels only."""
    red, green, blue = pixels.T
    hue, saturation, value = rgb_to_hsv(pixels).T
    hue = hue[(saturation >= MIN_HUE_LEVEL) & (value >= MIN_HUE_LEVEL)]
    names = [channel for space in COLOUR_SPACES.values() for channel in space]
    return dict(zip(names, (red, green, blue, hue, saturation, value), strict=True))


def percentiles(channel: str, counts: Histogram) -> list[float]:
    """Compute the percentiles `PERCENTILES` of a histogram, in the channel's unit; NaN if empty.

    Hues are counted from the emptiest part of the circle, so that reds are not split.
    """
    if not counts.sum():
        return [float("nan")] * len(PERCENTILES)
    start = _emptiest_level(counts) if channel == "hue_degrees" else 0
    cumulative = np.roll(counts, -start).cumsum() / counts.sum()
    levels = np.searchsorted(cumulative, np.array(PERCENTILES) / 100)
    unit = _UNIT_PER_LEVEL.get(channel, 1)
    return [float((level + start) % 256 * unit) for level in levels]


def _emptiest_level(counts: Histogram) -> int:
    """Find the middle of the 64 adjacent levels, on a circle, that hold the fewest pixels."""
    window_sums = np.convolve(np.tile(counts, 2), np.ones(64), "valid")[:256]
    return (int(window_sums.argmin()) + 32) % 256


def _format_level(channel: str, value: float) -> str:
    return f"{value:.2f}" if channel in ("saturation", "value") else f"{value:.0f}"


def plot(report: ColourReport, out: Path, *, force: bool = False, font: Path | None = None) -> None:
    """Plot the histograms of each channel, inside against outside, as a PNG.

    `font` is the file of a font that has the letters of the class's name.

    Raises:
        OutputError: `out` is no PNG, exists already without `force`, or cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check_output(out, force)
    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.label}: the colours inside the boxes, and outside", font=font)
    for axes, channel in zip(figure.subplots(2, 3).flat, report.inside, strict=True):
        _plot_channel(axes, channel, report)
    with atomic_file(out) as draft:
        figure.savefig(draft, format="png", dpi=110, metadata={"Software": None})


def _check_output(out: Path, force: bool) -> None:
    if out.suffix.lower() != ".png":
        raise OutputError(f"{out}: the plot is a PNG: give a name that ends in .png")
    refuse_existing(out, force)


def _plot_channel(axes: Any, channel: str, report: ColourReport) -> None:
    """Plot the two histograms of one channel, each with sum 1."""
    levels = np.arange(256) * _UNIT_PER_LEVEL.get(channel, 1)
    sides = (("inside", report.inside, "#d62728"), ("outside", report.outside, "#7f7f7f"))
    for where, counts, colour in sides:
        share = counts[channel] / max(counts[channel].sum(), 1)
        axes.fill_between(levels, share, step="mid", alpha=0.45, color=colour, label=where)
    axes.set_xlabel(channel.replace("_", " "))
    axes.set_xlim(levels[0], levels[-1])
    axes.set_yscale("function", functions=(np.sqrt, np.square))  # shows rare colours too
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    if channel == "red":
        axes.legend(frameon=False)
