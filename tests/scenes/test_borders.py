"""Bars around a picture are no part of what is stored."""

import numpy as np
import pytest

from annotate.scenes import borders, library
from annotate.video.reader import probe
from annotate.video.writer import VideoWriter


def content(seed, moved=0):
    """Make a picture of large blocks, which compression keeps."""
    blocks = np.random.default_rng(seed).integers(30, 230, (9, 12, 3), np.uint8)
    return np.roll(np.kron(blocks, np.ones((16, 16, 1), np.uint8)), moved, axis=1)


def with_bars(picture, sideways, level=0):
    bars = ((0, 0), (80, 80), (0, 0)) if sideways else ((60, 60), (0, 0), (0, 0))
    return np.pad(picture, bars, constant_values=level)


def test_the_content_of_a_picture_is_found():
    assert borders.content_box(with_bars(content(1), True)) == (80, 0, 272, 144)
    assert borders.content_box(with_bars(content(1), False, 255)) == (0, 60, 192, 204)
    assert borders.content_box(np.full((9, 9, 3), 40, np.uint8)) is None


@pytest.mark.parametrize("sideways", [True, False])
def test_foreign_pictures_between_the_same_bars_are_unknown(tmp_path, sideways):
    from annotate.video.images import save_image

    clip, db = tmp_path / "known.mp4", tmp_path / "scenes.db"
    size = with_bars(content(1), sideways).shape[1::-1]
    with VideoWriter(clip, 10, size) as writer:
        for n in range(20):
            black = n < 3
            writer.write(with_bars(content(1, n) * (not black), sideways))
    library.add([clip], db)
    box = borders.clip_content_box(probe(clip))
    assert (
        max(abs(a - b) for a, b in zip(box.size_wh, (192, 144), strict=True)) <= 8
    )  # pixels that compression blurs
    pictures = []
    for seed in (1, 2, 3):
        pictures.append(tmp_path / f"{seed}.png")
        save_image(with_bars(content(seed, 9), sideways), pictures[-1])
    known, *foreign = [result.match for _, result in library.find(pictures, db)]
    assert known is not None
    assert foreign == [None, None]
