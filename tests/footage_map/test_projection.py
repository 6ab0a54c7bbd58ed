"""Projecting embeddings to a plane, and spreading them over the unit square."""

import numpy as np
import pytest

from annotate.footage_map import projection


def blobs(count=4, rows_per_blob=25, width=32):
    rng = np.random.default_rng(3)
    middles = rng.normal(size=(count, width)) * 5
    rows = np.concatenate([m + rng.normal(size=(rows_per_blob, width)) for m in middles])
    return rows.astype(np.float32), np.repeat(np.arange(count), rows_per_blob)


def neighbour_share(points, kinds, count=5):
    """Return the share of the nearest points that have the same kind."""
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    return (kinds[distances.argsort(1)[:, :count]] == kinds[:, None]).mean()


@pytest.mark.parametrize("size", [7, 1000])
def test_principal_components_do_not_depend_on_the_batch_size(size):
    rows, _ = blobs()
    components = projection.principal_components(
        lambda: np.array_split(rows, -(-len(rows) // size)), 6
    )
    left, scale, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(components), np.abs(left * scale)[:, :6], atol=2e-4)


@pytest.mark.parametrize("method", projection.PROJECTION_METHODS)
def test_similar_rows_stay_together_and_a_seed_is_repeatable(method, monkeypatch):
    monkeypatch.setattr(projection, "_TRAINING_STEPS", 150)  # enough for groups so far apart
    if method != "pca":
        pytest.importorskip({"autoencoder": "torch"}.get(method, method))
    rows, kinds = blobs()
    seconds = np.arange(len(rows)) / 2.0
    points = projection.project(rows, method, kinds, seconds, seed=1)
    np.testing.assert_array_equal(points, projection.project(rows, method, kinds, seconds, seed=1))
    assert neighbour_share(points, kinds) > 0.95
    assert neighbour_share(projection.spread_points(points), kinds) > 0.9


def test_the_autoencoder_keeps_frames_near_in_time_together():
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 16)).astype(np.float32)
    clips = np.repeat([0, 1], 60)
    points = projection.project(rows, "autoencoder", clips, np.tile(np.arange(60.0), 2))
    assert np.abs(points.mean(0)).max() < 0.1
    assert points.std(0) == pytest.approx([0.3, 0.3], abs=0.08)
    steps = np.linalg.norm(np.diff(points[:60], axis=0), axis=1).mean()
    jumps = np.linalg.norm(points[:60] - points[60:], axis=1).mean()
    assert steps < 0.95 * jumps


def test_spread_points_fill_the_square():
    rng = np.random.default_rng(0)
    clusters = np.concatenate([rng.normal(m, 0.01, (200, 2)) for m in ((0, 0), (1, 3), (4, 1))])
    filled = projection.spread_points(clusters)
    assert filled.min() >= 0 and filled.max() <= 1
    cells = {tuple(cell) for cell in (filled * 9.999).astype(int)}
    before = {tuple(cell) for cell in (clusters / clusters.max(0) * 9.999).astype(int)}
    assert len(cells) > 3 * len(before)


def test_a_single_frame_and_few_frames_have_positions():
    assert projection.spread_points(np.zeros((1, 2))).tolist() == [[0.5, 0.5]]
    assert np.isfinite(projection.spread_points(np.zeros((3, 2)))).all()
