"""Grids of patches: found exactly where they are whole, nearly where they are rounded, refused where they are none."""

from __future__ import annotations

import numpy as np
import pytest

from wsipipe.errors import NumericsError
from wsipipe.numerics.patch_grid import find_grid


def cells(rows=30, cols=40, keep=0.7, seed=1):
    rng = np.random.default_rng(seed)
    return rng.permutation(np.argwhere(rng.random((rows, cols)) < keep))


def corners(places, step, phase=(0.0, 0.0)):
    return places[:, ::-1] * step + np.array(phase)


@pytest.mark.parametrize("told", [None, 256.0])
@pytest.mark.parametrize("phase", [(0.0, 0.0), (17.0, 200.0), (255.0, 1.0)])
def test_whole_grids_are_found_exactly(told, phase):
    places = cells()
    found = find_grid(corners(places, 256.0, phase), told=told)
    assert found.step == 256.0
    assert found.fits
    assert found.worst == 0
    placed = found.cells[:, ::-1] * found.step + found.phase
    np.testing.assert_array_equal(placed, corners(places, 256.0, phase))
    # A corner just below a whole step is the first cell moved to the left, so that rounding makes no empty cell.
    assert np.all(np.abs(found.phase) <= 256)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (256.064, None),
        (256.064, 256.0),
        (1013.861, 1014.0),
        (505.0, 512.0),
        (100.4, None),
        (13.28, 13.0),
        (13.28, None),
    ],
)
def test_steps_that_are_no_whole_px_are_fitted(step, told):
    places = cells(60, 90)
    found = find_grid(np.rint(corners(places, step, (10, 5))), told=told)
    assert found.fits
    assert found.step == pytest.approx(step, abs=2e-3)
    np.testing.assert_array_equal(found.cells, places)
    assert found.phase == pytest.approx((10, 5), abs=1)


def test_float32_um_are_a_grid():
    places = cells()
    um = (corners(places, 256.0)).astype(np.float32).astype(np.float64)
    found = find_grid(um / 0.2525, told=256 / 0.2525)
    assert found.fits
    np.testing.assert_array_equal(found.cells, places)


def test_gaps_between_all_patches_need_the_step_told():
    places = np.array([[0, 0], [0, 3], [4, 0], [7, 6]])
    assert find_grid(corners(places, 100.0), told=100.0).cells.tolist() == places.tolist()
    alone = np.array([[0.0, 0.0], [300.0, 500.0]])
    assert find_grid(alone, told=100.0).cells.tolist() == [[0, 0], [5, 3]]
    with pytest.raises(NumericsError, match="no two patches lie beside each other"):
        find_grid(alone)


def test_a_step_told_wrong_is_refused():
    with pytest.raises(NumericsError, match="neighbouring patches are 100 px apart, told is 64 px"):
        find_grid(corners(cells(), 100.0), told=64.0)
    with pytest.raises(NumericsError, match="100 px apart, told is 128"):
        find_grid(corners(cells(), 100.0), told=128.0)
    with pytest.raises(NumericsError, match="100 px apart, told is 50"):
        find_grid(corners(cells(), 100.0), told=50.0)


def test_two_grids_fit_none_and_the_larger_one_leads():
    first, second = corners(cells(20, 20), 100.0, (7, 9)), corners(cells(5, 5), 100.0, (3040, 2860))
    found = find_grid(np.concatenate([first, second]))
    assert not found.fits
    assert found.off[: len(first)].max() < 0.01
    assert found.off[len(first) :] == pytest.approx(0.49)
    assert found.phase == pytest.approx((7, 9))


def test_one_patch_is_a_grid_where_the_step_is_told():
    found = find_grid(np.array([[530.0, 250.0]]), told=256.0)
    assert found.cells.tolist() == [[1, 2]]
    assert found.phase == (18.0, 250.0 - 256.0)
