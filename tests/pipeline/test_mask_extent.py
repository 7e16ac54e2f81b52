"""Masks of ours lie on their own grid, which may reach past the slide; those of others cover it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.mask_extent import MaskExtent, known_slide_size, mask_extent
from wsipipe.store.raster import write_pyramid


def ours(path, grid, **options):
    write_pyramid(path, [np.zeros(grid.shape, np.uint8)], grid=grid, mpp=None, **options)
    return path


@pytest.mark.parametrize("flavour", ["plain", "ome"])
@pytest.mark.parametrize(("width", "height"), [(300, 1034), (1034, 300), (20, 1026)])
def test_a_mask_of_ours_covers_its_own_grid(tmp_path, flavour, width, height):
    grid = CellGrid.covering(width, height, 32.0)
    extent = mask_extent(ours(tmp_path / "m.tif", grid, flavour=flavour), grid.shape, (width, height))
    assert extent == MaskExtent(grid.shape, (grid.cols * 32.0, grid.rows * 32.0))
    assert extent.step == (32.0, 32.0)
    cells = grid.centres(np.argwhere(np.ones(grid.shape, bool)))
    np.testing.assert_array_equal(extent.cols_at(cells[:, 0]), np.tile(np.arange(grid.cols), grid.rows))
    np.testing.assert_array_equal(extent.rows_at(cells[:, 1]), np.repeat(np.arange(grid.rows), grid.cols))


def test_a_mask_of_another_program_covers_the_slide(tmp_path):
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "m.png")
    extent = mask_extent(tmp_path / "m.png", (30, 40), (1026, 770))
    assert extent == MaskExtent((30, 40), (1026, 770))
    assert extent.cols_at(np.array([-5.0, 0.0, 25.6, 25.7, 1025.9, 2000.0])).tolist() == [0, 0, 0, 1, 39, 39]
    assert extent.on_slide((1026, 770)).all()


def test_an_origin_moves_the_pixels():
    extent = MaskExtent.of_grid(CellGrid(3, 4, 10.0, (5.0, 2.0)))
    assert extent.cols_at(np.array([4.0, 14.9, 15.0])).tolist() == [0, 0, 1]
    assert extent.rows_at(np.array([11.9, 12.0, 99.0])).tolist() == [0, 1, 2]
    assert extent.on_slide((40.0, 17.1)).tolist() == [[True] * 3 + [False]] * 2 + [[False] * 4]


def test_masks_of_other_slides_are_refused(tmp_path):
    path = ours(tmp_path / "m.tif", CellGrid(10, 33, 32.0))
    told = "m.tif: covers 1056 x 320 px, its slide 300 x 1034 px"
    with pytest.raises(AnnotationError, match=told):
        mask_extent(path, (10, 33), (300, 1034))
    with pytest.raises(AnnotationError, match="covers 1056 x 320 px, its slide 1000 x 300 px"):
        mask_extent(path, (10, 33), (1000, 300))
    mask_extent(path, (10, 33), (1000, 300), slack_px=32.0)  # a size told in cells of 32 px
    with pytest.raises(AnnotationError, match="is 33 x 10 px, its slide 1034 x 300 px"):
        mask_extent(None, (10, 33), (1034, 300))


def test_the_least_slide_that_a_raster_covers_keeps_all_of_its_pixels():
    for width in (1, 31, 32, 33, 1026):
        for cell in (1.0, 1.5, 32.0):
            grid = CellGrid.covering(width, 7, cell)
            least, _ = known_slide_size(grid, {})
            assert least <= width
            assert CellGrid.covering(int(least), 7, cell) == grid
    assert known_slide_size(grid, {"size_px": [1026, 7]}) == (1026.0, 7.0)
