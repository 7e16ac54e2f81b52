from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import Polygon, box

from wsipipe.annotations.outlines import outline
from wsipipe.geometry import CellGrid
from wsipipe.numerics.keyholes import keyhole
from wsipipe.numerics.polygons import outline_mask, rasterize

MASKS = st.tuples(st.integers(3, 12), st.integers(3, 12)).flatmap(lambda size: arrays(np.bool_, size))


def corners(polygon):
    return sum(len(ring.coords) - 1 for ring in (polygon.exterior, *polygon.interiors))


def test_without_holes_the_exterior_is_the_line() -> None:
    assert (
        keyhole(box(0, 0, 4, 3)).tolist()
        == [list(xy) for xy in shapely.geometry.polygon.orient(box(0, 0, 4, 3)).exterior.coords][:-1]
    )


def test_a_slit_leads_into_the_hole_and_back() -> None:
    polygon = box(0, 0, 10, 10) - box(2, 2, 4, 4)
    line = keyhole(polygon)
    assert len(line) == corners(polygon) + 2
    assert outline(line).equals(polygon)


@settings(max_examples=150, deadline=None)
@given(mask=MASKS)
def test_the_line_fills_what_the_polygon_fills(mask) -> None:
    grid = CellGrid(*mask.shape, 1.0)
    polygons = outline_mask(mask, grid)
    lines = [keyhole(polygon) for polygon in polygons]
    assert [len(line) for line in lines] == [corners(one) + 2 * len(one.interiors) for one in polygons]
    np.testing.assert_array_equal(rasterize([Polygon(line) for line in lines], grid), mask)  # even-odd
    again = [outline(line) for line in lines]  # nonzero
    assert [one.area for one in again] == pytest.approx([one.area for one in polygons], abs=1e-9)
    np.testing.assert_array_equal(rasterize(again, grid), mask)


def test_many_holes_in_holes_of_a_large_polygon() -> None:
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(300, 400)), 2)
    mask = noise > -0.1
    grid = CellGrid(*mask.shape, 4.0)
    largest = max(outline_mask(mask, grid), key=lambda polygon: polygon.area)
    assert len(largest.interiors) > 50
    line = keyhole(largest)
    np.testing.assert_array_equal(rasterize([Polygon(line)], grid), rasterize([largest], grid))
    slits = np.linalg.norm(np.diff(line, axis=0), axis=1).max()
    assert slits < 400, "slits are short: a small part of the 1600 px that the polygon spans"
