"""The stand-in for a slide shows the cells of its map where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsipipe.errors import SlideError
from wsipipe.geometry import CellGrid, Region
from wsipipe.slides import MppView
from wsipipe.slides.map_slide import MapSlide

VALID = np.array([[True, False, True], [False, False, True]])


def stand_in(width=340, height=230):
    grid = CellGrid(2, 3, 100.0, (20.0, 10.0))
    return MapSlide(Path("m.h5"), VALID, grid, dimensions=(width, height), mpp=0.5)


def test_cells_are_grey_and_the_rest_is_white():
    shown = stand_in().read_region(Region(-5, -5, 350, 240))
    expected = np.full((240, 350), 255)
    expected[15:115, 25:125] = expected[15:215, 225:325] = 214
    np.testing.assert_array_equal(shown, np.repeat(expected[..., None], 3, axis=2))


def test_levels_agree_with_level_0():
    slide = stand_in(340 * 8, 230 * 8)
    assert slide.level_downsamples == (1, 2, 4, 8)
    assert slide.level_dimensions[-1] == (340, 230)
    fine = slide.read_region(Region(0, 0, 340, 230))
    np.testing.assert_array_equal(slide.read_region(Region(0, 0, 85, 57), 2), fine[2::4, 2::4][:57, :85])
    with pytest.raises(SlideError, match="no level 4"):
        slide.read_region(Region(0, 0, 1, 1), 4)


def test_views_and_tissue_come_from_it():
    with stand_in() as slide:
        assert MppView(slide, 1.0).read(Region(0, 0, 170, 115)).shape == (115, 170, 3)
        assert slide.tissue.mask.tolist() == VALID.tolist()
        assert (slide.bounds, slide.mpp_source) == (Region(0, 0, 340, 230), "feature map")
