import cv2
import numpy as np
import pytest
from synthetic_footage import view

from annotate.sampling import phash
from annotate.sampling.duplicates import farthest_points
from annotate.scenes import fingerprint


def test_phash_is_imagehash_s():
    """As imagehash 4.3.2 hashed them; where it is installed it says so again."""
    pictures = [view(1), view(2), view(1)[..., 0]]
    found = [f"{value:016x}" for value in phash.phash(pictures)]
    assert found == KNOWN
    imagehash = pytest.importorskip("imagehash")
    from PIL import Image

    assert found == [str(imagehash.phash(Image.fromarray(each))) for each in pictures]


KNOWN = ["d19e90a4c8662f5f", "cc331a38e643f0bb", "c2e418a68e47ad7e"]


def test_other_sizes_tones_and_compression_change_few_bits():
    own = phash.phash([view(1)])[0]
    small = cv2.resize(view(1), (96, 54), interpolation=cv2.INTER_AREA)
    bright = np.clip(view(1) * 0.7 + 40, 0, 255).astype(np.uint8)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", view(1), [1, 20])[1], 1)
    altered = phash.hamming_distances(own, phash.phash([small, bright, jpeg]))
    assert altered.max() <= 6
    assert phash.hamming_distances(own, phash.phash([view(2)]))[0] > 15


def test_distance_is_of_bits():
    assert phash.hamming_distances(
        0b1011, np.array([0b1011, 0b0011, 2**63], np.uint64)
    ).tolist() == [
        0,
        1,
        4,
    ]
    one, other = phash.bits(np.array([5, 6], np.uint64))
    assert ((one - other) ** 2).sum() == 2
    assert phash.bits(np.array([1], np.uint64))[0].tolist() == [0.0] * 63 + [1.0]


def test_the_layout_of_one_colour_is_its_means():
    """Of mid-grey: quantised as ISO/IEC 15938-3 has it, all frequencies none (16 of 0 to 31)."""
    grey = np.full((90, 160, 3), 128, np.uint8)
    found = fingerprint.colour_layout(grey)
    assert found.shape == (fingerprint.LAYOUT_SIZE,)
    assert (found[0], found[21], found[27]) == (32, 32, 32)
    assert set(np.delete(found, [0, 21, 27]).tolist()) == {16}


def test_layouts_tell_colours_apart():
    own, red = view(1), view(1).copy()
    red[..., 0] = 255 - red[..., 0] // 4
    others = np.array([fingerprint.colour_layout(each) for each in (own, red, view(2))])
    apart = fingerprint.layout_distances(others[0], others)
    assert apart[0] == 0 and apart[1:].min() > 5


def test_the_farthest_first():
    line = [[0.0], [1.0], [9.0], [5.0]]
    assert farthest_points(line, 3) == [3, 0, 2]
    assert farthest_points(line, 2) == farthest_points(line, 4)[:2]
    assert farthest_points(line, 9, chosen=[2]) == [0, 3, 1]
    assert farthest_points([[1.0, 2.0]] * 3, 9) == [0, 1, 2]
    assert farthest_points([], 3) == []


def test_the_farthest_cover_every_cluster():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (8, 16))
    rows = np.repeat(centres, 50, axis=0) + rng.normal(0, 0.1, (400, 16))
    assert {place // 50 for place in farthest_points(rows, 8)} == set(range(8))
