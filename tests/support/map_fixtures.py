"""Clips of flat colours for the footage map, and an embedder that describes their colours."""

from fractions import Fraction

import numpy as np
import pytest

from annotate.dataset import frame_sources
from annotate.footage_map import atlas
from annotate.video.reader import FrameSelection
from annotate.video.writer import VideoWriter

RED, GREEN, BLUE, GREY = (200, 20, 20), (20, 180, 30), (30, 30, 200), (120, 110, 100)


class ColourEmbedder:
    """Embeds a picture as the mean colours of its left, middle and right third."""

    name, width = "colours", 9

    def encode(self, pictures):
        thirds = [np.array_split(picture, 3, axis=1) for picture in pictures]
        return np.array([[t.mean((0, 1)) for t in each] for each in thirds]).reshape(-1, 9) + 1


def write_clip(path, colours, frames_per_colour=12):
    """Write a clip with a shot of each colour, over which a bar moves."""
    with VideoWriter(path, Fraction(10), (64, 48)) as writer:
        for colour in colours:
            for step in range(frames_per_colour):
                image = np.full((48, 64, 3), colour, np.uint8)
                image[:, 4 * step : 4 * step + 6] = 128
                writer.write(image)
    return path


@pytest.fixture
def map_clips(tmp_path):
    """Three clips of 24 frames; one.mp4 and two.mp4 have a red shot each."""
    return [
        write_clip(tmp_path / "one.mp4", [RED, GREEN]),
        write_clip(tmp_path / "two.mp4", [BLUE, RED]),
        write_clip(tmp_path / "three.mp4", [GREY, GREY]),
    ]


def gather_clips(clips, every=1, on_frame=lambda _: None):
    """Embed every N-th frame of clips."""
    sources = [frame_sources.open_source(clip, FrameSelection(every)) for clip in clips]
    return atlas.gather(sources, ColourEmbedder(), on_frame)
