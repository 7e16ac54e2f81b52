"""Points from masks."""

from __future__ import annotations

import numpy as np
import pytest

from wsipipe.annotations.sampling import sample_points
from wsipipe.errors import AnnotationError


def test_points_lie_in_their_class_and_on_no_cell_twice():
    mask = np.random.default_rng(0).random((30, 50)) < 0.3
    points = sample_points(mask, pairs=40, seed=1, cell_px=4.0)
    assert points.label.tolist() == [1] * 40 + [0] * 40
    cols, rows = np.floor(points.xy / 4).astype(int).T
    np.testing.assert_array_equal(mask[rows, cols], points.label == 1)
    np.testing.assert_allclose(points.xy / 4 % 1, 0.5)
    assert len({*zip(rows, cols, strict=True)}) == 80


def test_the_seed_decides():
    mask = np.eye(20, dtype=bool)
    first, again, other = (sample_points(mask, pairs=5, seed=seed).xy for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_draws_are_uniform():
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, :4] = True
    counts = np.zeros(mask.shape)
    for seed in range(2000):
        points = sample_points(mask, pairs=1, seed=seed)
        for col, row in np.floor(points.xy).astype(int):
            counts[row, col] += 1
    # 125 expected per cell, standard deviation about 11.
    assert counts.min() > 75
    assert counts.max() < 180


def test_invalid_pixels_are_never_drawn():
    mask = np.zeros((10, 10), dtype=bool)
    mask[:5] = True
    valid = np.zeros_like(mask)
    valid[:, 3] = True
    assert set(sample_points(mask, pairs=5, seed=0, valid=valid).xy[:, 0].tolist()) == {3.5}


def test_impossible_wishes():
    with pytest.raises(AnnotationError, match="0 in-target pixels, fewer than the 2"):
        sample_points(np.zeros((4, 4), dtype=bool), pairs=2, seed=0)
    with pytest.raises(AnnotationError, match="1 out-of-target pixels, fewer than the 2"):
        sample_points(~np.eye(4, dtype=bool) | (np.arange(4) > 0), pairs=2, seed=0)
    with pytest.raises(AnnotationError, match="cannot sample 0 pairs"):
        sample_points(np.eye(4, dtype=bool), pairs=0, seed=0)
    with pytest.raises(AnnotationError, match=r"\(4, 4\) where \(2, 2\) is valid"):
        sample_points(np.eye(4, dtype=bool), pairs=1, seed=0, valid=np.ones((2, 2), dtype=bool))
