import cv2
import numpy as np
import pytest
from synthetic_footage import view

from annotate.sampling import phash


def test_phash_equals_imagehash():
    """Equal to imagehash 4.3.2: stored hashes, and the package itself where it is installed."""
    pictures = [view(1), view(2), view(1)[..., 0]]
    hashes = [f"{value:016x}" for value in phash.phash(pictures)]
    assert hashes == EXPECTED
    imagehash = pytest.importorskip("imagehash")
    from PIL import Image

    assert hashes == [str(imagehash.phash(Image.fromarray(each))) for each in pictures]


EXPECTED = ["d19e90a4c8662f5f", "cc331a38e643f0bb", "c2e418a68e47ad7e"]


def test_other_sizes_tones_and_compression_change_few_bits():
    own = phash.phash([view(1)])[0]
    small = cv2.resize(view(1), (96, 54), interpolation=cv2.INTER_AREA)
    bright = np.clip(view(1) * 0.7 + 40, 0, 255).astype(np.uint8)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", view(1), [1, 20])[1], 1)
    altered = phash.hamming_distances(own, phash.phash([small, bright, jpeg]))
    assert altered.max() <= 6
    assert phash.hamming_distances(own, phash.phash([view(2)]))[0] > 15


def test_hamming_distance_counts_bits():
    hashes = np.array([0b1011, 0b0011, 2**63], np.uint64)
    assert phash.hamming_distances(0b1011, hashes).tolist() == [0, 1, 4]
    one, other = phash.bits(np.array([5, 6], np.uint64))
    assert ((one - other) ** 2).sum() == 2
    assert phash.bits(np.array([1], np.uint64))[0].tolist() == [0.0] * 63 + [1.0]
