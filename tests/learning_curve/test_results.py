import numpy as np
import pytest

from annotate.learning_curve.detector import Precision
from annotate.learning_curve.results import CurveResult, CurveRow


def row(arm, touches, seed, *ap50):
    values = np.array(ap50)
    return CurveRow(arm, touches, seed, touches, 3, 5, Precision(values, values / 2))


def result(*rows, perfect=((0, 0.5, 0.4, 0.6), (1, 0.7, 0.6, 0.8))):
    of_seed = {seed: row("perfect", 99, seed, *ap50) for seed, *ap50 in perfect}
    return CurveResult(rows, of_seed, 6)


def test_the_ratio_is_that_of_the_means_over_seeds_resample_by_resample():
    both = result(row("drawn", 10, 0, 0.2, 0.1, 0.3), row("drawn", 10, 1, 0.4, 0.4, 0.4))
    ratio = both.ratio("drawn", 10)
    assert ratio.value == pytest.approx(0.3 / 0.6)
    low, high = ratio.interval
    assert low >= 0.25 / 0.5 and high <= 0.35 / 0.7 + 1e-9  # of both resamples it is 0.5
    assert both.row_ratio(both.rows[1]).value == pytest.approx(0.4 / 0.7)


def test_two_arms_are_compared_at_equal_touches():
    two = result(
        row("clicked", 10, 0, 0.3, 0.3, 0.3),
        row("drawn", 10, 0, 0.2, 0.1, 0.3),
        row("clicked", 20, 0, 0.4, 0.4, 0.4),
        row("drawn", 20, 0, 0.4, 0.2, 0.1),
    )
    assert two.compare("clicked", "drawn", 10).value == pytest.approx(1.5)
    columns, rows = two.comparison_rows()
    assert columns == ["arms", "10", "20"]
    assert [each[0] for each in rows] == ["clicked / drawn"]
    assert rows[0][2].startswith("1.00 (")


@pytest.mark.parametrize(
    ("share", "touches"), [(0.2, 10.0), (0.4, 10.0), (0.6, 20.0), (0.8, 40.0), (0.9, None)]
)
def test_touches_to_a_share_are_read_off_a_line_over_their_logarithm(share, touches):
    curve = result(
        row("drawn", 10, 0, 0.4, 0.4), row("drawn", 40, 0, 0.8, 0.8), perfect=[(0, 1.0, 1.0)]
    )
    found = curve.touches_to("drawn", share)
    assert found == (None if touches is None else pytest.approx(touches))


def test_a_detector_that_finds_nothing_has_ratio_0_and_one_over_nothing_none():
    curve = result(
        row("drawn", 10, 0, 0.0, 0.0), row("clicked", 10, 0, 0.2, 0.2), perfect=[(0, 0.5, 0.5)]
    )
    assert curve.ratio("drawn", 10).value == 0
    assert curve.comparison_rows()[1] == [["clicked / drawn", "-"]]
