"""What is packed is small, whatever it shows, and verifies as before."""

from fractions import Fraction

import numpy as np

from annotate.scenes import fingerprint, packing
from annotate.scenes.fingerprint import Fingerprint
from annotate.scenes.packing import StoredFrame


def frames(shapes):
    rng = np.random.default_rng(0)
    return [
        StoredFrame(
            3 * n,
            Fraction(n, 10),
            Fingerprint(
                rng.integers(0, 2**63, 6).astype(np.uint64),
                rng.integers(0, 32, 33).astype(np.uint8),
                shape,
            ),
        )
        for n, shape in enumerate(shapes)
    ]


def unpacked(packed):
    return packing.unpack_looks(packed.layouts, packed.rows, packed.fidelity, packed.levels)


def test_noise_takes_no_more_than_the_limit():
    """An hour of ten frames a second stays below 20 MB: 555 bytes a frame."""
    stored = frames(np.random.default_rng(1).integers(0, 256, (64, 36, 64), np.uint8))
    packed = packing.pack(stored)
    assert sum(map(len, vars(packed).values())) <= 540 * 64
    looks, levels = unpacked(packed), fingerprint.contrast_levels(stored[7].fingerprint.shape)
    assert 0.5 <= looks.fidelity.min() < 1
    template = fingerprint.normalize_contrast(stored[7].fingerprint.shape)
    agreement = fingerprint.block_agreement(looks.levels[7], template, 0, 0)
    assert abs(agreement / looks.fidelity[7] - 1) < 0.1
    assert np.corrcoef(levels.ravel(), looks.levels[7].ravel())[0, 1] > 0.4
    assert unpacked(packing.pack(stored[:3])).levels.shape == (3, 36, 64)


def test_indices_times_hashes_and_layouts_are_exact_and_repetitions_equal():
    shape = np.arange(36 * 64, dtype=np.uint8).reshape(36, 64)
    stored = frames([shape, shape[::-1].copy(), shape])
    packed = packing.pack(stored)
    indices, seconds, hashes = packing.unpack_frames(packed.frames, packed.seconds, packed.hashes)
    assert indices.tolist() == [0, 3, 6] and seconds == ["0", "1/10", "1/5"]
    assert np.array_equal(hashes, [each.fingerprint.hashes for each in stored])
    looks = unpacked(packed)
    assert np.array_equal(looks.layouts, [each.fingerprint.layout for each in stored])
    assert np.array_equal(looks.levels[0], looks.levels[2]) and len(packed.fidelity) == 2
    assert looks.fidelity[0] == looks.fidelity[2]
