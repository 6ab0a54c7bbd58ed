import numpy as np
from synthetic_footage import view

from annotate.scenes import fingerprint


def test_layout_of_one_colour_has_only_means():
    """Mid-grey: quantised as in ISO/IEC 15938-3, all AC coefficients are 0 (16 of 0 to 31)."""
    grey = np.full((90, 160, 3), 128, np.uint8)
    layout = fingerprint.colour_layout(grey)
    assert layout.shape == (fingerprint.LAYOUT_SIZE,)
    assert (layout[0], layout[21], layout[27]) == (32, 32, 32)
    assert set(np.delete(layout, [0, 21, 27]).tolist()) == {16}


def test_layout_distance_depends_on_colour():
    own, red = view(1), view(1).copy()
    red[..., 0] = 255 - red[..., 0] // 4
    others = np.array([fingerprint.colour_layout(each) for each in (own, red, view(2))])
    distances = fingerprint.layout_distances(others[0], others)
    assert distances[0] == 0 and distances[1:].min() > 5
