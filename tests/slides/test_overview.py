"""The whole slide at once, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from slidemaker import write_slide
from wsipipe.geometry import Region
from wsipipe.slides import open_slide, read_overview
from wsipipe.slides.handle import LazyReader


def test_means_of_blocks(tmp_path, picture):
    path = write_slide(tmp_path / "one.svs", picture, levels=1, compression="deflate")
    with open_slide(path) as reader:
        overview = read_overview(reader, 4.0)
    assert overview.shape == (96, 128, 3)
    # The triangle filter of an 8-px reduction has the mean and nearly the values of block means on smooth parts.
    means = picture.reshape(96, 8, 128, 8, 3).mean(axis=(1, 3))
    assert abs(overview.mean() - means.mean()) < 1
    assert np.corrcoef(overview.ravel(), means.ravel())[0, 1] > 0.98


def test_no_tiles_are_kept(tmp_path, picture):
    path = write_slide(tmp_path / "one.svs", picture)
    with open_slide(path) as reader:
        assert reader.backend == "direct"
        reader.read_region(Region(5, 5, 50, 50))
        assert len(reader.tile_file.cache) > 0
        before = read_overview(reader, 4.0)
        assert len(reader.tile_file.cache) == 0
        np.testing.assert_array_equal(read_overview(reader, 4.0), before)


def test_none_is_every_pixel(slide_path, picture):
    with open_slide(slide_path) as reader:
        assert read_overview(reader, None).shape == picture.shape


@pytest.mark.parametrize("mpp", [2.0, 8.0, 32.0])
def test_no_large_region_is_read_without_a_pyramid(tmp_path, monkeypatch, mpp):
    image = np.full((1800, 5200, 3), 230, np.uint8)
    image[300:900, 4000:4800] = (180, 60, 140)
    path = write_slide(tmp_path / "one.svs", image, levels=1)
    areas = []
    plain = LazyReader.read_region

    def record(self, region, level=0):
        areas.append(region.width * region.height)
        return plain(self, region, level)

    monkeypatch.setattr(LazyReader, "read_region", record)
    with open_slide(path) as reader:
        overview = read_overview(reader, mpp)
    assert max(areas) < 5_000_000
    assert len(areas) > 1
    scale = mpp / 0.5
    assert np.abs(overview[int(600 / scale), int(4400 / scale)].astype(int) - (180, 60, 140)).max() < 5
