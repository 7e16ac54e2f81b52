from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import rasterio.features
import rasterio.transform
import scipy.ndimage
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Point, Polygon, box

from wsipipe.errors import NumericsError
from wsipipe.geometry import CellGrid
from wsipipe.numerics import polygons as polygons_module
from wsipipe.numerics.polygons import outline_mask, rasterize

MASKS = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda size: arrays(np.bool_, size))
# Pixels that touch diagonally, in the ways that break outlines.
TWO_APART = np.array([[1, 0], [0, 1]], bool)
OPEN_RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
TWIN_HOLES = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)
ISLAND = np.array(
    [[1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 0, 1, 0, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]],
    bool,
)


def grid_of(mask: NDArray[np.bool_], cell_px: float = 1.0, origin: tuple[float, float] = (0.0, 0.0)) -> CellGrid:
    return CellGrid(*mask.shape, cell_px, origin)


def blobs(rows: int, cols: int, sigma: float = 2.0) -> NDArray[np.bool_]:
    noise = np.random.default_rng(0).normal(size=(rows, cols))
    return np.asarray(scipy.ndimage.gaussian_filter(noise, sigma) > 0)


def test_one_pixel_is_a_square_in_level_0_px() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (polygon,) = outline_mask(mask, grid_of(mask, 16.5, (100.0, -7.0)))
    assert polygon.normalize() == box(100 + 2 * 16.5, -7 + 16.5, 100 + 3 * 16.5, -7 + 2 * 16.5).normalize()


def test_holes_are_kept_and_vertices_stand_only_at_turns() -> None:
    mask = np.ones((6, 8), bool)
    mask[2:4, 3:5] = False
    (polygon,) = outline_mask(mask, grid_of(mask))
    assert polygon.equals(box(0, 0, 8, 6) - box(3, 2, 5, 4))
    assert len(polygon.exterior.coords) == 5
    assert [len(hole.coords) for hole in polygon.interiors] == [5]


def test_an_empty_mask_has_no_polygon_and_back() -> None:
    mask = np.zeros((3, 4), bool)
    assert outline_mask(mask, grid_of(mask)) == []
    assert not rasterize([], grid_of(mask)).any()
    assert rasterize([], grid_of(mask)).shape == (3, 4)


def test_pixels_that_touch_diagonally_are_apart() -> None:
    first, second = outline_mask(TWO_APART, grid_of(TWO_APART))
    assert first.equals(box(0, 0, 1, 1))
    assert second.equals(box(1, 1, 2, 2))


def test_a_ring_that_closes_over_a_corner_has_a_hole() -> None:
    (polygon,) = outline_mask(OPEN_RING, grid_of(OPEN_RING))
    assert polygon.is_valid
    assert [Polygon(hole).area for hole in polygon.interiors] == [1]
    assert polygon.area == 7


def test_holes_that_touch_are_two() -> None:
    (polygon,) = outline_mask(TWIN_HOLES, grid_of(TWIN_HOLES))
    assert polygon.is_valid
    assert len(polygon.interiors) == 2


def test_an_island_within_corners_is_apart_and_its_lake_is_one_hole() -> None:
    land, island = outline_mask(ISLAND, grid_of(ISLAND))
    assert land.is_valid
    assert island.equals(box(2, 2, 3, 3))
    assert [Polygon(hole).area for hole in land.interiors] == [5]


@settings(max_examples=150, deadline=None)
@given(mask=MASKS, cell_px=st.sampled_from([1.0, 2.5, 16.01]), origin=st.sampled_from([(0.0, 0.0), (-3.25, 1000.0)]))
@example(mask=OPEN_RING, cell_px=1.0, origin=(0.0, 0.0))
@example(mask=TWIN_HOLES, cell_px=1.0, origin=(0.0, 0.0))
@example(mask=ISLAND, cell_px=1.0, origin=(0.0, 0.0))
def test_outlines_are_valid_exact_and_one_for_each_component(
    mask: NDArray[np.bool_], cell_px: float, origin: tuple[float, float]
) -> None:
    grid = grid_of(mask, cell_px, origin)
    polygons = outline_mask(mask, grid)
    assert all(polygon.is_valid for polygon in polygons)
    assert len(polygons) == scipy.ndimage.label(mask)[1]
    np.testing.assert_array_equal(rasterize(polygons, grid), mask)
    assert sum(polygon.area for polygon in polygons) == pytest.approx(mask.sum() * cell_px**2)


@settings(max_examples=100, deadline=None)
@given(mask=MASKS)
def test_outlines_equal_the_union_of_the_pixels(mask: NDArray[np.bool_]) -> None:
    polygons = outline_mask(mask, grid_of(mask))
    labels, count = scipy.ndimage.label(mask)
    for polygon, number in zip(polygons, range(1, count + 1), strict=True):
        pixels = shapely.union_all([box(col, row, col + 1, row + 1) for row, col in np.argwhere(labels == number)])
        assert polygon.equals(pixels)
        assert shapely.get_num_interior_rings(polygon) == shapely.get_num_interior_rings(pixels)


@settings(max_examples=100, deadline=None)
@given(mask=MASKS, cuts=st.lists(st.integers(0, 14), max_size=5))
def test_bands_give_what_the_whole_gives(mask: NDArray[np.bool_], cuts: list[int]) -> None:
    bands = np.split(mask, sorted(min(cut, len(mask)) for cut in cuts))
    whole = outline_mask(mask, grid_of(mask))
    pieces = outline_mask(iter(bands), grid_of(mask))
    assert len(whole) == len(pieces)
    assert all(a.equals_exact(b, 0) for a, b in zip(whole, pieces, strict=True))


@pytest.mark.parametrize("strip", [2**21, 5000])
def test_the_library_finds_the_same_outlines_on_a_larger_mask(monkeypatch: pytest.MonkeyPatch, strip: int) -> None:
    monkeypatch.setattr(polygons_module, "_STRIP_PIXELS", strip)
    mask = blobs(700, 600)
    transform = rasterio.transform.Affine(4, 0, 10, 0, 4, 20)
    found = rasterio.features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4, transform=transform)
    expected = sorted(shapely.geometry.shape(geometry).normalize().wkt for geometry, _ in found)
    polygons = outline_mask(mask, grid_of(mask, 4.0, (10.0, 20.0)))
    assert len(polygons) > 500
    ours = sorted(polygon.normalize().wkt for polygon in polygons)
    assert ours == expected


def test_any_dtype_is_a_mask() -> None:
    mask = blobs(60, 70)
    expected = outline_mask(mask, grid_of(mask))
    for other in (mask.astype(np.uint8) * 255, mask.astype(np.float32)):
        assert outline_mask(other, grid_of(mask)) == expected


def test_memory_does_not_grow_with_the_mask() -> None:
    band = np.zeros((256, 2000), bool)
    band[:, 500:600] = True
    peaks = []
    for count in (2, 40):
        tracemalloc.start()
        (polygon,) = outline_mask((band for _ in range(count)), CellGrid(256 * count, 2000, 1.0))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert polygon.equals(box(500, 0, 600, 256 * count))
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("bands", "problem"),
    [
        ([np.zeros((4, 5))], r"a band of this mask is \(n, 4\), got \(4, 5\)"),
        ([np.zeros(4)], r"got \(4,\)"),
        ([np.zeros((3, 4))], "the mask has 3 rows, its grid 4"),
        ([], "the mask has 0 rows, its grid 4"),
    ],
)
def test_masks_that_do_not_fit_are_told(bands: list[np.ndarray], problem: str) -> None:
    with pytest.raises(NumericsError, match=problem):
        outline_mask(bands, CellGrid(4, 4, 1.0))


def test_cells_are_in_a_polygon_by_their_centre() -> None:
    grid = CellGrid(20, 30, 8.0, (5.0, 3.0))
    circle = Point(100, 80).buffer(50)
    parts = MultiPolygon([circle, box(200, 100, 240, 140)])
    made = rasterize([parts], grid)
    centres = grid.centres([(row, col) for row in range(20) for col in range(30)])
    expected = shapely.contains_xy(parts, centres[:, 0], centres[:, 1]).reshape(20, 30)
    np.testing.assert_array_equal(made, expected)
    assert 0 < made.sum() < made.size
