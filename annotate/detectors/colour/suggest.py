"""Suggest the `colour` entry of a class from boxes round it, and try the entry on these boxes.

Two kinds of entries are made: for a patch, by the colours of all pixels in the boxes; and for a
rectangle that is drawn in thin strokes, by the colours and the arms of the strokes along the sides.
The entry that finds most of the boxes is suggested; of equals, the one with the fewest other boxes.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.detectors.colour.detector import ColourDetector
from annotate.detectors.colour.ranges import GreyImage, Interval, in_ranges, read_colour_specs
from annotate.items.boxes import iou_matrix
from annotate.items.records import Box, Frame, Mask, Picture, Vocabulary

Levels = npt.NDArray[np.uint8]  # (n, 3) HSV, every channel 0..255
Regions = Sequence[tuple[int, Box]]  # frame index and xyxy of each box

MIN_HUE_LEVEL = 51  # of 255; below it, in saturation or value, a hue is noise
_FOUND_IOU = 0.5  # from this IoU with a box on, a proposal has found it
_GAPS_PX = (0, 6)  # of a patch
_SIDE_SHARE = 0.2  # of a side, from each end: where a drawn rectangle has its strokes
_TOLERANCES = (0.06, 0.14)  # of a side: how far a box may be from the strokes
_MIN_TOLERANCE_PX = 4
_MIN_STROKE_CONTRAST = 24  # levels of 255 between a stroke and what is beside it
_MIN_STROKE_PIXELS = 30
_WHOLE_FRAME = 0.44  # arms from this share of a side on are a frame without openings
_USUAL_ARMS = (0.25, 0.5)  # of corner brackets, and of whole frames


@dataclass(frozen=True)
class Trial:
    """An entry tried on the boxes that it was made from.

    Of `box_count` boxes it finds `found_count`, with a mean confidence of `mean_score`; it proposes
    `other_count` other boxes on the same frames.
    """

    toml_entry: str
    box_count: int
    found_count: int
    other_count: int
    mean_score: float

    @property
    def _rank(self) -> tuple[float, ...]:
        return self.found_count, -self.other_count, round(self.mean_score, 1)

    @property
    def summary(self) -> str:
        """The result as one sentence, with advice where the entry is not enough."""
        text = (
            f"tried on its own boxes, the entry finds {self.found_count} of {self.box_count}, and "
            f"{self.other_count} others on the same frames"
        )
        if self.found_count < self.box_count:
            return f"{text}: give tighter boxes, boxes on more frames, or edit the entry"
        return text


@dataclass(frozen=True)
class _Entry:
    """The texts of an entry's values, in the order in which they are written."""

    size: str
    aspect: str
    channels: Mapping[str, str]
    gap_px: int = 0
    arms: Interval | None = None

    def to_toml(self, label: str) -> str:
        key = label if re.fullmatch(r"[\w-]+", label, re.ASCII) else json.dumps(label)
        lines = [f"[classes.{key}.colour]"]
        lines += [f"gap = {self.gap_px} # pixels between parts of one patch"] if self.gap_px else []
        lines += [f"size = {self.size} # pixels", f"aspect = {self.aspect} # width / height"]
        lines += ["", f"[[classes.{key}.colour.ranges]]", 'space = "hsv"']
        lines += [f"{name} = {text}" for name, text in self.channels.items()]
        if self.arms is not None:
            lines += ["", f"[classes.{key}.colour.outline]"]
            lines += [f"arms = [{self.arms[0]:.2f}, {self.arms[1]:.2f}] # shares of a side"]
            lines += ["corners = 2 # that are inside the picture"]
        return "\n".join(lines) + "\n"


def suggest_entry(frames: Sequence[Frame], regions: Regions, label: str) -> Trial:
    """Suggest an entry for the object in the boxes `regions`; `frames` is iterated several times.

    It is the best of the entries of a patch and of an outline, tried on these boxes.
    """
    entries = [*_patch_entries(frames, regions), *_outline_entries(frames, regions)]
    trials = [try_entry(each.to_toml(label), frames, regions) for each in entries]
    return max(trials, key=lambda trial: trial._rank)  # of equals the first


def try_entry(toml_entry: str, frames: Sequence[Frame], regions: Regions) -> Trial:
    """Run the colour detector with an entry of one class, and count the boxes that it finds.

    Raises:
        PromptError: the entry is wrong.
    """
    vocabulary = Vocabulary("suggested", tomllib.loads(toml_entry)["classes"], "")
    detector = ColourDetector(vocabulary)
    scores: list[float] = []
    others = 0
    for frame in frames:
        boxes = np.array([box for index, box in regions if index == frame.index], float)
        [proposed] = detector.propose([frame])
        if not len(proposed):
            continue
        iou = iou_matrix(boxes, proposed.xyxy)
        found = iou >= _FOUND_IOU
        confidence = np.asarray(proposed.confidence, float)
        scores += (found * confidence).max(1)[found.any(1)].tolist()
        others += int((~found.any(0)).sum())
    mean = float(np.mean(scores)) if scores else 0.0
    return Trial(toml_entry, len(regions), len(scores), others, mean)


def _patch_entries(frames: Sequence[Frame], regions: Regions) -> Iterator[_Entry]:
    colours = _Colours()
    for frame in frames:
        inside = box_mask(frame, regions)
        colours.add(rgb_to_hsv(frame.image[inside]), rgb_to_hsv(frame.image[~inside]))
    channels = next(colours.alternatives())
    for gap_px in _GAPS_PX:
        yield _Entry(_size(regions, 2, 2), _aspect(regions), channels, gap_px)


def _outline_entries(frames: Sequence[Frame], regions: Regions) -> Iterator[_Entry]:
    """Yield the entries of an outline: with the arms that were measured, and with usual arms."""
    size, aspect = _size(regions, 4, 6), _aspect(regions)
    for tolerance in _TOLERANCES:
        colours = _Colours(widened=True)
        for frame in frames:
            drawn = _stroke_pixels(frame.image) & side_mask(frame, regions, tolerance)
            outside = frame.image[~box_mask(frame, regions)]
            colours.add(rgb_to_hsv(frame.image[drawn]), rgb_to_hsv(outside))
        if colours.inside.sum() < _MIN_STROKE_PIXELS:
            continue
        for channels in colours.alternatives():
            entry = _Entry(size, aspect, channels)
            measured = _measure_arms(entry, frames, regions, tolerance)
            for arm in dict.fromkeys((measured, *_USUAL_ARMS)):
                is_whole = arm >= _WHOLE_FRAME
                arms = (0.5, 0.5) if is_whole else (max(0.05, 0.8 * arm), min(0.5, 1.12 * arm))
                yield replace(entry, arms=arms)


@dataclass
class _Colours:
    """The colours of the object's pixels, and histograms of the hues of both.

    The ranges of strokes are `widened`: blur and compression mix strokes with the background.
    """

    widened: bool = False
    inside: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(256))
    outside: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(256))
    pixels: list[Levels] = field(default_factory=list)

    def add(self, inside: Levels, outside: Levels) -> None:
        """Add the HSV pixels of a frame, those of the object and those of its surroundings."""
        self.pixels.append(inside)
        for counts, levels in ((self.inside, inside), (self.outside, outside)):
            counts += np.bincount(levels[_is_vivid(levels), 0], minlength=256)

    def alternatives(self) -> Iterator[dict[str, str]]:
        """Yield the intervals of the channels by name, for the most typical hues, then the next."""
        hues = characteristic_hues(self.inside, self.outside)
        yield self._channels(hues)
        if hues is not None:
            rest = np.where(_is_between(np.arange(256), hues), 0, self.inside)
            others = characteristic_hues(rest, self.outside)
            if others is not None and rest.sum() >= _MIN_STROKE_PIXELS:
                yield self._channels(others)

    def _channels(self, hues: tuple[int, int] | None) -> dict[str, str]:
        levels = np.concatenate(self.pixels)
        chosen: npt.NDArray[np.bool_] = np.ones(len(levels), bool)
        channels = {}
        if hues is not None:
            chosen = _is_between(levels[:, 0], hues) & _is_vivid(levels)
            low, high = (round(level * 360 / 256) for level in hues)
            channels["hue_degrees"] = f"[{low}, {high}]"
        for column, name in ((1, "saturation"), (2, "value")):
            low_share, high_share = np.percentile(levels[chosen, column], [5, 95]) / 255
            low_share *= 0.8 if self.widened else 1
            open_ended = hues is not None or (self.widened and name == "value")
            channels[name] = f"[{low_share:.2f}, {1 if open_ended else high_share:.2f}]"
        return channels


def _is_between(levels: npt.NDArray[Any], interval: tuple[int, int]) -> Mask:
    """Find the hue levels in an interval on the circle of 256; (n,) bool."""
    low, high = interval
    return np.asarray((levels.astype(int) - low) % 256 <= (high - low) % 256, bool)


def _is_vivid(levels: Levels) -> Mask:
    return np.asarray((levels[:, 1:] >= MIN_HUE_LEVEL).all(1), bool)


def rgb_to_hsv(pixels: npt.NDArray[np.uint8]) -> Levels:
    """Convert (n, 3) RGB to HSV, every channel 0..255."""
    if not len(pixels):
        return pixels
    hsv: Levels = np.asarray(cv2.cvtColor(pixels[None], cv2.COLOR_RGB2HSV_FULL))[0]
    return hsv


def characteristic_hues(
    inside: npt.NDArray[np.float64], outside: npt.NDArray[np.float64]
) -> tuple[int, int] | None:
    """Find the hue levels, low and high on the circle, that are typical of the inside, if any.

    `inside` and `outside` are (256,) histograms.
    """
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


def _size(regions: Regions, smaller: float, larger: float) -> str:
    """Write the limits of both sides, so many times smaller and larger than the boxes."""
    sides = [side for _, (x1, y1, x2, y2) in regions for side in (x2 - x1, y2 - y1)]
    return f"[{max(1, int(min(sides) / smaller))}, {round(max(sides) * larger)}]"


def _aspect(regions: Regions) -> str:
    aspects = [(x2 - x1) / (y2 - y1) for _, (x1, y1, x2, y2) in regions]
    return f"[{min(aspects) * 0.8:.2f}, {max(aspects) * 1.25:.2f}]"


def box_mask(frame: Frame, regions: Regions) -> Mask:
    """Find the pixels of a frame that are in any of its boxes; (H, W) bool."""
    mask = np.zeros(frame.image.shape[:2], bool)
    for index, box in regions:
        if index == frame.index:
            x1, y1, x2, y2 = (max(0, round(edge)) for edge in box)
            mask[y1:y2, x1:x2] = True
    return mask


def side_mask(frame: Frame, regions: Regions, tolerance: float) -> Mask:
    """Find the pixels near the ends of the sides of a frame's boxes, where corners are drawn."""
    mask = np.zeros(frame.image.shape[:2], bool)
    for index, (x1, y1, x2, y2) in regions:
        if index != frame.index:
            continue
        reach_x, reach_y = (_reach_px(side, tolerance) for side in (x2 - x1, y2 - y1))
        arm_x, arm_y = _SIDE_SHARE * (x2 - x1), _SIDE_SHARE * (y2 - y1)
        for corner_x, inward_x in ((x1, arm_x), (x2, -arm_x)):
            for corner_y, inward_y in ((y1, arm_y), (y2, -arm_y)):
                along = corner_x, corner_x + inward_x, corner_y - reach_y, corner_y + reach_y
                down = corner_x - reach_x, corner_x + reach_x, corner_y, corner_y + inward_y
                for a, b, top, bottom in (along, down):
                    left, right = sorted((max(0, round(a)), max(0, round(b))))
                    top, bottom = sorted((max(0, round(top)), max(0, round(bottom))))
                    mask[top:bottom, left:right] = True
    return mask


def _reach_px(side: float, tolerance: float) -> int:
    return max(_MIN_TOLERANCE_PX, round(tolerance * side))


def _stroke_pixels(image: Picture) -> Mask:
    """Find the pixels of thin strokes: a median filter would remove them; (H, W) bool."""
    window = 2 * max(3, round(image.shape[0] / 135)) + 1  # wider than two strokes
    smooth = cv2.medianBlur(image, window)
    strokes: Mask = np.asarray(cv2.absdiff(image, smooth)).max(2) >= _MIN_STROKE_CONTRAST
    return strokes


def _measure_arms(
    entry: _Entry, frames: Sequence[Frame], regions: Regions, tolerance: float
) -> float:
    """Measure how much of a side is drawn from each of its ends: a share, 0.05 to 0.5."""
    vocabulary = Vocabulary("outline", tomllib.loads(entry.to_toml("object"))["classes"], "")
    [spec] = read_colour_specs(vocabulary).values()
    profiles = []
    for frame in frames:
        coloured: Any = (in_ranges(frame.image, spec.ranges) & _stroke_pixels(frame.image)) * 1.0
        profiles += [
            _side_profiles(coloured, box, tolerance)
            for index, box in regions
            if index == frame.index
        ]
    with np.errstate(invalid="ignore"):
        profile = np.nanmean(np.concatenate(profiles), 0)
    level = float(np.nanmax(profile[1:8], initial=0))
    drawn = profile >= level / 2
    ended = np.flatnonzero(~drawn[3:]) + 3
    return round(float(np.clip((ended[0] if len(ended) else 50) / 100, 0.05, 0.5)), 2)


def _side_profiles(coloured: GreyImage, box: Box, tolerance: float) -> npt.NDArray[np.float64]:
    """Sample the strokes along the sides from each end, (8, 51): 1, 0, or NaN outside the image.

    Column n is at n percent of the side. The strokes may be some pixels away from the box.
    """
    x1, y1, x2, y2 = box
    reach_x, reach_y = (_reach_px(side, tolerance) for side in (x2 - x1, y2 - y1))
    shares = np.arange(51) / 100
    rows = []
    for corner_x, far_x in ((x1, x2), (x2, x1)):
        for corner_y, far_y in ((y1, y2), (y2, y1)):
            along_x, along_y = corner_x + shares * (far_x - corner_x), 0 * shares + corner_y
            down_x, down_y = 0 * shares + corner_x, corner_y + shares * (far_y - corner_y)
            rows.append(_strongest(coloured, along_x, along_y, 0, reach_y))
            rows.append(_strongest(coloured, down_x, down_y, reach_x, 0))
    return np.array(rows)


def _strongest(
    coloured: GreyImage,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    reach_x: int,
    reach_y: int,
) -> npt.NDArray[np.float64]:
    """Return the strongest pixel within reach of each position; NaN outside the image."""
    height, width = coloured.shape
    reach = max(reach_x, reach_y)
    steps = np.arange(-reach, reach + 1)[:, None]
    columns = np.rint(x + steps * (reach_x > 0)).astype(int)
    rows = np.rint(y + steps * (reach_y > 0)).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    values = np.where(inside, coloured[rows.clip(0, height - 1), columns.clip(0, width - 1)], -1.0)
    strongest = values.max(0)
    return np.where(strongest < 0, np.nan, strongest)
