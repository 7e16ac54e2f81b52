"""Regridding: identity where grids agree, right place where not, invalid cells never bleed in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.errors import NumericsError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.regrid import raster_grid, regrid_bands, sample_nearest


def whole(values, valid, source, target, *, source_rows=3, band_rows=4):
    bands = ((values[i : i + source_rows], valid[i : i + source_rows]) for i in range(0, len(values), source_rows))
    return np.concatenate(list(regrid_bands(bands, source, target, band_rows=band_rows)))


def test_equal_grids_give_the_same_values():
    values = np.random.default_rng(0).random((11, 7), np.float32)
    grid = CellGrid(11, 7, 16.0)
    np.testing.assert_array_equal(whole(values, np.ones_like(values, bool), grid, grid), values)


@given(st.floats(1.0, 40.0), st.integers(1, 5), st.integers(1, 7), st.floats(0, 9))
def test_a_plane_stays_a_plane(cell, source_rows, band_rows, origin):
    """Bilinear interpolation reproduces linear functions between the outermost centres, whatever the bands."""
    source = CellGrid(9, 6, cell, origin=(origin, 0.0))
    target = raster_grid(int(6 * cell + 20), int(9 * cell), cell)
    centres = source.centres(np.argwhere(np.ones(source.shape)))
    values = (0.01 * centres[:, 0] + 0.02 * centres[:, 1]).reshape(source.shape).astype(np.float32)
    out = whole(values, np.ones_like(values, bool), source, target, source_rows=source_rows, band_rows=band_rows)
    at = target.centres(np.argwhere(np.ones(target.shape)))
    inside = ((at > centres.min(0)) & (at < centres.max(0))).all(1)
    np.testing.assert_allclose(out.ravel()[inside], at[inside] @ [0.01, 0.02], rtol=1e-4, atol=1e-4)


def test_invalid_cells_do_not_bleed():
    values = np.array([[1.0, 1.0, 1e6, 1e6]], np.float32)
    out = whole(values, np.array([[True, True, False, False]]), CellGrid(1, 4, 8.0), CellGrid(2, 8, 4.0))
    np.testing.assert_array_equal(out[0], [1, 1, 1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize(("cell", "factor"), [(0.7, 1), (1.0, 1), (15.9, 4), (16.0, 8), (512.0, 32)])
def test_raster_pixels_are_powers_of_two_of_the_slide(cell, factor):
    grid = raster_grid(1001, 500, cell)
    assert grid.cell_px == factor
    assert grid.cols == -(-1001 // factor)


def test_missing_rows_are_told():
    with pytest.raises(NumericsError, match="ended at row 3, row"):
        list(
            regrid_bands(
                iter([(np.zeros((3, 2), np.float32), np.ones((3, 2), bool))]),
                CellGrid(9, 2, 4.0),
                CellGrid(9, 2, 4.0),
                band_rows=9,
            )
        )


def test_nearest_sampling_looks_under_the_centre():
    mask = np.array([[True, False], [False, True]])
    out = sample_nearest(mask, CellGrid(2, 2, 8.0), CellGrid(5, 5, 4.0), slice(1, 5))
    expected = np.kron(mask, np.ones((2, 2), bool))
    np.testing.assert_array_equal(out[:3, :4], expected[1:])
    assert not out[:, 4].any()
    assert not out[3].any()


def test_several_values_of_a_cell_go_through_alike():
    rng = np.random.default_rng(0)
    values, valid = rng.random((9, 6, 3), np.float32), rng.random((9, 6)) > 0.3
    source, target = CellGrid(9, 6, 16.0), CellGrid(36, 24, 4.0)
    together = whole(values, valid, source, target)
    for k in range(3):
        np.testing.assert_array_equal(together[..., k], whole(values[..., k], valid, source, target))
