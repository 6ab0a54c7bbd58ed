import numpy as np

from annotate.scenes.index import nearest_rows


def test_nearest_rows_spread_ties_evenly():
    distances = np.array([3, 9, 1, 9, 9, 9, 9, 2], np.uint8)
    assert nearest_rows(distances, 3).tolist() == [0, 2, 7]
    assert nearest_rows(distances, 5).tolist() == [0, 1, 2, 6, 7]
    assert nearest_rows(distances, 99).tolist() == list(range(8))
