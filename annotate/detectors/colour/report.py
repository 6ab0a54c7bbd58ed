"""Compare the colours inside boxes with those outside: table, plot and vocabulary entry.

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
from annotate.files import atomic_file, refuse_existing
from annotate.items.records import Box, Frame, Mask
from annotate.video import reader

Histogram = npt.NDArray[np.float64]  # (256,): pixels at each level of a channel

PERCENTILES = 5, 25, 50, 75, 95
_MIN_HUE_LEVEL = 51  # of 255; below it, in saturation or value, a hue is noise
# channel -> its units per level of 0..255; 1 for the channels that are not listed
_UNIT_PER_LEVEL = {"hue_degrees": 360 / 256, "saturation": 1 / 255, "value": 1 / 255}


@dataclass(frozen=True)
class ColourReport:
    """Histograms of each channel inside and outside the boxes, and a suggested `colour` entry."""

    label: str
    inside: Mapping[str, Histogram]
    outside: Mapping[str, Histogram]
    toml_entry: str

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


def compare_clip(
    clip: str | os.PathLike[str], regions: Sequence[tuple[int, Box]], label: str
) -> ColourReport:
    """Compare the colours inside boxes on a clip's frames with those outside, on the same frames.

    Raises:
        PromptError: there are no boxes, or a box has no pixels.
        VideoError: see `reader.frames_at`.
    """
    indices = {frame for frame, _ in regions}
    return compare_frames(reader.frames_at(clip, indices), regions, label)


def compare_frames(
    frames: Iterable[Frame], regions: Sequence[tuple[int, Box]], label: str
) -> ColourReport:
    """Compare colours as `compare_clip` does, on frames; `regions` are (frame index, xyxy)."""
    if not regions:
        raise PromptError("no boxes: give at least one box round the object, as FRAME,X1,Y1,X2,Y2")
    channels = [channel for space in COLOUR_SPACES.values() for channel in space]
    inside = {channel: np.zeros(256) for channel in channels}
    outside = {channel: np.zeros(256) for channel in channels}
    object_pixels = []
    for frame in frames:
        mask = _box_mask(frame, [box for index, box in regions if index == frame.index])
        object_pixels.append(frame.image[mask])
        for counts, pixels in ((inside, object_pixels[-1]), (outside, frame.image[~mask])):
            for channel, levels in _channel_levels(pixels).items():
                counts[channel] += np.bincount(levels, minlength=256)
    hues = _characteristic_hues(inside["hue_degrees"], outside["hue_degrees"])
    entry = _toml_entry(label, np.concatenate(object_pixels), hues, [box for _, box in regions])
    return ColourReport(label, inside, outside, entry)


def _box_mask(frame: Frame, boxes: Iterable[Box]) -> Mask:
    """Find the pixels that are in any of the boxes; (H, W) bool."""
    mask = np.zeros(frame.image.shape[:2], bool)
    for box in boxes:
        x1, y1, x2, y2 = (max(0, round(edge)) for edge in box)
        if not mask[y1:y2, x1:x2].size:
            raise PromptError(f"frame {frame.index}: no pixel is inside the box {box}")
        mask[y1:y2, x1:x2] = True
    return mask


def _channel_levels(pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    """Compute the levels 0..255 of each channel of (n, 3) RGB pixels; hues of vivid pixels only."""
    red, green, blue = pixels.T
    hue, saturation, value = _rgb_to_hsv(pixels).T
    hue = hue[(saturation >= _MIN_HUE_LEVEL) & (value >= _MIN_HUE_LEVEL)]
    names = [channel for space in COLOUR_SPACES.values() for channel in space]
    return dict(zip(names, (red, green, blue, hue, saturation, value), strict=True))


def _rgb_to_hsv(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Convert (n, 3) RGB to HSV, every channel 0..255."""
    if not len(pixels):
        return pixels
    hsv: npt.NDArray[np.uint8] = np.asarray(cv2.cvtColor(pixels[None], cv2.COLOR_RGB2HSV_FULL))[0]
    return hsv


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


def _toml_entry(
    label: str, pixels: npt.NDArray[np.uint8], hues: Interval | None, boxes: Sequence[Box]
) -> str:
    """Write the `colour` entry of a vocabulary: ranges of the pixels, and sizes of the boxes."""
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
    chosen = np.ones(len(pixels), bool)
    if hues is not None:
        low, high = hues
        chosen = (hue.astype(int) - low) % 256 <= (high - low) % 256
        chosen &= (saturation >= _MIN_HUE_LEVEL) & (value >= _MIN_HUE_LEVEL)
        lines.append(f"hue_degrees = [{low * 360 / 256:.0f}, {high * 360 / 256:.0f}]")
    for name, levels in (("saturation", saturation), ("value", value)):
        low_share, high_share = np.percentile(levels[chosen], [5, 95]) / 255
        lines.append(f"{name} = [{low_share:.2f}, {1 if hues else high_share:.2f}]")
    return "\n".join(lines) + "\n"


def _characteristic_hues(inside: Histogram, outside: Histogram) -> Interval | None:
    """Find the hue levels, low and high on the circle, that are typical of the inside, if any."""
    if inside.sum() < 1:
        return None
    kernel = np.hanning(15) / np.hanning(15).sum()
    shares = [each / max(each.sum(), 1) for each in (inside, outside)]
    smooth_in, smooth_out = (
        np.convolve(np.tile(share, 3), kernel, "same")[256:512] for share in shares
    )
    peak = int((smooth_in - smooth_out).argmax())
    typical = (smooth_in > 1.5 * smooth_out) & (smooth_in > 0.05 * smooth_in[peak])
    if not typical[peak]:
        return None
    from_peak = np.roll(typical, -peak)
    if from_peak.all():
        return None
    above, below = int(from_peak.argmin()) - 1, int(from_peak[::-1].argmin())
    return (peak - below) % 256, (peak + above) % 256


def plot(report: ColourReport, out: Path, *, force: bool = False) -> None:
    """Plot the histograms of each channel, inside against outside, as a PNG.

    Raises:
        OutputError: `out` is no PNG, exists already without `force`, or cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check_output(out, force)
    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.label}: the colours inside the boxes, and outside")
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
