from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from wsipipe.errors import NumericsError
from wsipipe.numerics import correlation
from wsipipe.numerics.contrast import contrast_map
from wsipipe.numerics.correlation import correlation_maps

INSIDE, OUTSIDE = [[2, 3], [10, 4]], [[6, 1], [0, 0], [11, 8]]


@pytest.fixture
def features():
    return np.random.default_rng(5).normal(size=(12, 9, 6)).astype(np.float32)


def as_printed(features, inside, outside, eta, where):
    """Eq. 5 word for word, in float64."""
    s_p = correlation_maps(features, inside).astype(np.float64)
    s_q = correlation_maps(features, outside).astype(np.float64)
    out = []
    for p in s_p:
        maps = [np.maximum(p - eta * q, 0) ** 2 for q in s_q]
        maps = [(m - m[where].min()) / (m[where].max() - m[where].min()) for m in maps]
        out.append(np.where(where, np.mean(maps, axis=0), 0))
    return np.array(out)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_is_equation_5_averaged_over_the_out_of_target_points(features, eta):
    got = contrast_map(features, INSIDE, OUTSIDE, eta=eta)
    where = np.ones(features.shape[:2], bool)
    np.testing.assert_allclose(got, as_printed(features, INSIDE, OUTSIDE, eta, where), atol=2e-6)
    assert got.shape == (2, 12, 9)
    assert got.dtype == np.float32


def test_normalisation_leaves_out_cells_that_do_not_count(features):
    valid = np.random.default_rng(0).random((12, 9)) < 0.6
    got = contrast_map(features, INSIDE, OUTSIDE, valid=valid)
    np.testing.assert_allclose(got, as_printed(features, INSIDE, OUTSIDE, 0.6, valid), atol=2e-6)
    assert np.all(got[:, ~valid] == 0)


def test_a_lower_end_above_zero_is_stretched_to_zero():
    angle = np.linspace(0.1, 0.6, 40).reshape(8, 5)  # all alike enough for every difference to stay positive
    features = np.stack([np.cos(angle), np.sin(angle)], -1)
    got = contrast_map(features, [[0, 0]], [[7, 4]], eta=0.2, prototype=1)
    assert got.min() == 0
    assert got.max() == 1


def test_cells_like_the_target_stand_out():
    target = np.zeros((20, 16), bool)
    target[5:15, 4:12] = True
    features = np.where(target[..., None], [1.0, 0.2, 0.1], [0.1, 1.0, 0.3])
    features += 0.05 * np.random.default_rng(0).normal(size=features.shape)
    got = contrast_map(features, [[10, 8]], [[1, 1]])[0]
    assert got[target].min() > 0.5 > got[~target].max()


def test_without_out_of_target_points_correlation_alone_speaks(features):
    with pytest.warns(UserWarning, match="no out-of-target points"):
        got = contrast_map(features, INSIDE, np.empty((0, 2)))
    squares = np.maximum(correlation_maps(features, INSIDE), 0) ** 2
    expected = squares / squares.max((1, 2), keepdims=True)  # somewhere a correlation is negative: the least is 0
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_maps_without_contrast_are_zero(value):
    features = np.full((6, 5, 64), value, np.float32)
    if value:
        assert np.all(contrast_map(features, [[1, 1]], [[4, 4]]) == 0)
    else:
        with pytest.warns(UserWarning, match=r"without features: \(row 1, col 1\)"):
            assert np.all(contrast_map(features, [[1, 1]], [[4, 4]]) == 0)


def test_points_on_empty_cells_give_empty_maps_and_a_warning(features):
    features[0:3, 2:5] = 0
    with pytest.warns(UserWarning, match=r"without features: \(row 1, col 3\)"):
        got = contrast_map(features, [[1, 3], [10, 4]], OUTSIDE)
    assert np.all(got[0] == 0)
    assert got[1].max() > 0.9


def test_memory_does_not_hold_all_pairs_at_once(monkeypatch):
    monkeypatch.setattr(correlation, "CHUNK_VALUES", 1 << 16)
    features = np.random.default_rng(0).normal(size=(200, 200, 4)).astype(np.float32)
    points = np.random.default_rng(1).integers(0, 200, (30, 2))
    tracemalloc.start()
    contrast_map(features, points[:15], points[15:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (15 + 15 + 15 + 8) * 200 * 200 * 4  # correlations, results and what is in hand; not 225 pairs


def test_nothing_is_changed(features):
    before = features.copy()
    contrast_map(features, INSIDE, OUTSIDE)
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("eta", [-0.1, 1.1, np.nan])
def test_impossible_eta_is_refused(features, eta):
    with pytest.raises(NumericsError, match=r"eta lies in \[0, 1\], got"):
        contrast_map(features, INSIDE, OUTSIDE, eta=eta)


def test_no_in_target_point_is_refused(features):
    with pytest.raises(NumericsError, match="no in-target points"):
        contrast_map(features, [], OUTSIDE)


def test_points_outside_are_named_by_their_kind(features):
    with pytest.raises(NumericsError, match=r"in-target point \(row 12, col 0\) lies outside a map of 12 x 9"):
        contrast_map(features, [[12, 0]], OUTSIDE)
    with pytest.raises(NumericsError, match=r"out-of-target point \(row 0, col 9\)"):
        contrast_map(features, INSIDE, [[0, 9]])


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        (np.ones((9, 12), bool), r"got bool \(9, 12\)"),
        (np.ones((12, 9)), "got float64"),
        (np.zeros((12, 9), bool), "no cell is valid"),
        ([[True]], "got list"),
    ],
)
def test_other_masks_are_refused(features, valid, message):
    with pytest.raises(NumericsError, match=message):
        contrast_map(features, INSIDE, OUTSIDE, valid=valid)
