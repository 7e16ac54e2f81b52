"""Geometry: cells find their points, nonsense is refused."""

from __future__ import annotations

import numpy as np
import pytest

from wsipipe.errors import GeometryError
from wsipipe.geometry import CellGrid, Region


@pytest.mark.parametrize(
    ("width", "cell", "cols"), [(1000, 100.0, 10), (1001, 100.0, 11), (300, 300 * (1 + 1e-9), 1), (1, 50.0, 1)]
)
def test_covering_grid_has_no_empty_column(width, cell, cols):
    assert CellGrid.covering(width, 10, cell).cols == cols


def test_points_fall_into_their_cells_and_centres_fall_back():
    grid = CellGrid(rows=4, cols=6, cell_px=12.8, origin=(3.2, 0.0))
    cells = np.array([[0, 0], [3, 5], [2, 1]])
    np.testing.assert_array_equal(grid.cells_of(grid.centres(cells)), cells)
    np.testing.assert_array_equal(grid.contains([[0, 0], [4, 0], [-1, 2]]), [True, False, False])


def test_points_in_the_margin_of_a_map_belong_to_its_edge():
    grid = CellGrid(rows=4, cols=6, cell_px=10, origin=(15.0, 15.0))
    xy = [(0, 0), (14.9, 30), (80, 3), (40, 60), (75, 55)]
    np.testing.assert_array_equal(grid.nearest_cells(xy), [(0, 0), (1, 0), (0, 5), (3, 2), (3, 5)])
    assert grid.nearest_cells(xy[3:4]).tolist() == grid.cells_of([(40, 54)]).tolist()


def test_region_clips_to_nothing_outside():
    assert Region(-10, 0, 20, 5).clipped(100, 3) == Region(0, 0, 10, 3)
    assert Region(100, 0, 20, 5).clipped(100, 3) is None


@pytest.mark.parametrize("make", [lambda: Region(0, 0, 0, 1), lambda: CellGrid(1, 1, float("nan"))])
def test_nonsense_is_refused_with_the_value(make):
    with pytest.raises(GeometryError, match=r"got"):
        make()
