"""Rasters of several classes: a palette and names for labels, a channel for the probability of each."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide

from wsipipe.annotations.classes import TissueClass
from wsipipe.errors import NumericsError
from wsipipe.geometry import CellGrid
from wsipipe.store.label_raster import LabelRaster
from wsipipe.store.raster import raster_info, read_raster, write_pyramid

CLASSES = (TissueClass("Tumor", (200, 0, 0)), TissueClass("Fat \u00e0 c\u00f4t\u00e9", (0, 80, 255)))
ALL = slice(None)
GRID = CellGrid(150, 130, 2.0)


def labels():
    return np.repeat(np.repeat(np.random.default_rng(0).integers(0, 3, (15, 13)), 10, 0), 10, 1).astype(np.uint8)


@pytest.mark.parametrize("flavour", ["plain", "ome"])
def test_labels_come_back_with_names_and_are_shown_in_colours(tmp_path, flavour):
    path, picture = tmp_path / "m.tif", labels()
    write_pyramid(path, [picture], grid=GRID, mpp=1.0, flavour=flavour, tile=64, classes=CLASSES)
    assert raster_info(path).classes == CLASSES
    np.testing.assert_array_equal(read_raster(path, ALL, ALL), picture)
    np.testing.assert_array_equal(np.concatenate(list(LabelRaster(path).labels())), picture)
    np.testing.assert_array_equal(np.concatenate(list(LabelRaster(path).bands())), picture != 0)
    with tifffile.TiffFile(path) as file:
        for number, level in enumerate(file.series[0].levels):
            assert level.pages[0].photometric == tifffile.PHOTOMETRIC.PALETTE
            np.testing.assert_array_equal(level.asarray(), picture[:: 2**number, :: 2**number])
    with openslide.OpenSlide(str(path)) as slide:
        for level, size in enumerate(slide.level_dimensions):
            shown = np.asarray(slide.read_region((0, 0), level, size).convert("RGB"))
            colors = np.array([(255, 255, 255), *(of.color for of in CLASSES)], np.uint8)
            np.testing.assert_array_equal(shown, colors[picture[:: 2**level, :: 2**level]])


def test_probabilities_have_a_channel_for_each_class_that_is_no_colour(tmp_path):
    three = (*CLASSES, TissueClass("Stroma", (1, 2, 3)))
    picture = np.random.default_rng(0).integers(0, 256, (150, 130, 3)).astype(np.uint8)
    path = tmp_path / "p.tif"
    write_pyramid(path, [picture[:90], picture[90:]], grid=GRID, mpp=1.0, reduce="mean", tile=64, classes=three)
    info = raster_info(path)
    assert (info.channels, info.classes) == (3, three)
    np.testing.assert_array_equal(read_raster(path, slice(10, 140), ALL), picture[10:140])
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
        halved = file.pages[1].asarray()
    expected = picture.reshape(75, 2, 65, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - expected).max() <= 0.5
    with tiffslide.TiffSlide(str(path)) as slide:
        assert slide.level_dimensions[0] == (130, 150)


def test_channels_that_do_not_fit_the_classes_are_told(tmp_path):
    with pytest.raises(NumericsError, match=r"probabilities of 2 classes have so many channels, got \(3,\)"):
        write_pyramid(tmp_path / "p.tif", [np.zeros((150, 130, 3), np.uint8)], grid=GRID, mpp=1.0, classes=CLASSES)
    assert not any(tmp_path.iterdir())


def test_rasters_without_classes_say_nothing_of_them(tmp_path):
    path = tmp_path / "m.tif"
    write_pyramid(path, [labels()], grid=GRID, mpp=1.0)
    assert raster_info(path).classes == ()
    with tifffile.TiffFile(path) as file:
        assert "classes" not in file.pages[0].description
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
