from __future__ import annotations

import numpy as np
import pytest

from wsipipe.errors import NumericsError
from wsipipe.numerics import correlation
from wsipipe.numerics.correlation import correlation_maps


@pytest.fixture
def features():
    return np.random.default_rng(3).normal(size=(9, 7, 5)).astype(np.float32)


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_is_the_cosine_of_each_cell_with_the_point(features):
    got = correlation_maps(features, [[2, 3], [8, 0]], prototype=1)
    double = features.astype(np.float64)
    expected = [[[cosine(double[r, c], double[i, j]) for j in range(7)] for i in range(9)] for r, c in ((2, 3), (8, 0))]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got.dtype == np.float32
    assert got[0, 2, 3] == pytest.approx(1, abs=1e-6)


def test_prototype_is_the_mean_direction_of_the_cells_round_the_point(features):
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    got = correlation_maps(features, [[4, 4], [0, 6]], prototype=3)
    np.testing.assert_allclose(got[0, 1, 1], cosine(unit[3:6, 3:6].mean((0, 1)), unit[1, 1]), atol=1e-6)
    np.testing.assert_allclose(got[1, 8, 2], cosine(unit[0:2, 5:7].mean((0, 1)), unit[8, 2]), atol=1e-6)


def test_does_not_depend_on_the_strength_of_features(features):
    strength = np.random.default_rng(0).uniform(1e-3, 1e3, (9, 7, 1)).astype(np.float32)
    np.testing.assert_allclose(
        correlation_maps(features * strength, [[4, 4]]), correlation_maps(features, [[4, 4]]), atol=1e-5
    )


def test_cells_and_points_without_features_have_correlation_zero(features):
    features[0:3, 0:3] = 0
    got = correlation_maps(features, [[1, 1], [7, 5]])
    assert np.all(got[0] == 0)
    assert np.all(got[1, :3, :3] == 0)
    assert np.all(got[1, 3:] != 0)


@pytest.mark.parametrize("strength", [1e-30, 1e30])
def test_squares_neither_vanish_nor_overflow(features, strength):
    scaled = features * np.float32(strength)
    np.testing.assert_allclose(correlation_maps(scaled, [[4, 4]]), correlation_maps(features, [[4, 4]]), atol=1e-6)


def test_bands_of_rows_change_nothing(features, monkeypatch):
    whole = correlation_maps(features, [[4, 4], [1, 2]])
    monkeypatch.setattr(correlation, "CHUNK_VALUES", 2 * 7 * (5 + 2))
    np.testing.assert_allclose(correlation_maps(features, [[4, 4], [1, 2]]), whole, atol=1e-7)


def test_half_precision_is_read_and_nothing_is_changed(features):
    half = features.astype(np.float16)
    before = half.copy()
    np.testing.assert_allclose(correlation_maps(half, [[4, 4]]), correlation_maps(features, [[4, 4]]), atol=2e-3)
    np.testing.assert_array_equal(half, before)


@pytest.mark.parametrize("point", [[9, 0], [0, 7], [-1, 3]])
def test_points_outside_are_refused_with_their_value(features, point):
    with pytest.raises(NumericsError, match=rf"\(row {point[0]}, col {point[1]}\) lies outside a map of 9 x 7 cells"):
        correlation_maps(features, [[0, 0], point])


@pytest.mark.parametrize(
    ("points", "message"),
    [([[1.5, 2.0]], "whole cells"), ([1, 2], r"shape \(2,\)"), ([[1, 2, 3]], r"shape \(1, 3\)")],
)
def test_points_of_other_kinds_are_refused(features, points, message):
    with pytest.raises(NumericsError, match=message):
        correlation_maps(features, points)


@pytest.mark.parametrize("side", [0, 2, -1])
def test_even_prototypes_are_refused(features, side):
    with pytest.raises(NumericsError, match=f"odd number of cells as its side, got {side}"):
        correlation_maps(features, [[1, 1]], prototype=side)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(features, bad):
    features[5, 5, 2] = bad
    with pytest.raises(NumericsError, match="not finite"):
        correlation_maps(features, [[1, 1]])


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((4, 4), "f4", r"\(4, 4\)"), ((4, 0, 3), "f4", r"\(4, 0, 3\)"), ((4, 4, 3), "u1", "uint8")],
)
def test_other_arrays_are_refused(shape, dtype, message):
    with pytest.raises(NumericsError, match=message):
        correlation_maps(np.zeros(shape, dtype), [[1, 1]])
