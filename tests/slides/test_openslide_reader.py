"""Slides through OpenSlide: levels with a non-integer downsample, damage, bounds."""

from __future__ import annotations

import numpy as np
import openslide
import pytest

from slidemaker import write_slide
from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides import open_slide
from wsipipe.slides.openslide_reader import OpenSlideReader


@pytest.fixture(scope="module")
def uneven(aperio_slide, picture):
    """A pyramid whose downsample is about 2.7: level px fall between level-0 px."""
    return aperio_slide(picture[:701, :999], downsample=2.7)


def test_openslide_itself_depends_on_the_start_of_a_region(uneven):
    """The reason for reading in fixed blocks; if this fails, blocks are no longer needed."""
    with openslide.OpenSlide(uneven) as slide:
        step = slide.level_downsamples[1]
        whole = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]))
        part = np.asarray(slide.read_region((round(160 * step), round(110 * step)), 1, (60, 60)))
    assert np.abs(whole[110:170, 160:220].astype(int) - part).max() > 5


@pytest.mark.parametrize("tile", [37, 128, 300])
def test_tiles_make_up_the_whole_on_uneven_levels(uneven, tile):
    with OpenSlideReader(uneven) as reader:
        assert not reader.level_downsamples[1].is_integer()
        width, height = reader.level_dimensions[1]
        whole = reader.read_region(Region(0, 0, width, height), 1)
        for y in range(0, height, tile):
            for x in range(0, width, tile):
                part = reader.read_region(Region(x, y, tile, tile), 1)[: height - y, : width - x]
                assert np.array_equal(part, whole[y : y + tile, x : x + tile])


def test_level_px_lie_within_half_a_level0_px(aperio_slide):
    """On a ramp, the displacement is the difference in value over the slope."""
    y, x = np.mgrid[:900, :1300]
    ramp = np.stack([x * 250 / 1300, y * 250 / 900, np.zeros_like(x)], axis=-1).astype(np.uint8)
    path = aperio_slide(ramp, downsample=2.7)
    with open_slide(path, reader="openslide") as ours, open_slide(path, reader="tiffslide") as exact:
        region = Region(0, 0, *(side - 2 for side in ours.level_dimensions[1]))
        difference = ours.read_region(region, 1).astype(int) - exact.read_region(region, 1)
    assert np.abs(difference).max() <= 1


def test_whole_downsamples_are_read_as_stored(aperio_slide, picture):
    path = aperio_slide(picture, downsample=2.0, levels=3)
    with open_slide(path, reader="openslide") as ours, open_slide(path, reader="tiffslide") as other:
        assert ours.level_downsamples == other.level_downsamples == (1.0, 2.0, 4.0)
        for level in range(3):
            region = Region(33, 41, 150, 120)
            assert np.array_equal(ours.read_region(region, level), other.read_region(region, level))


def test_damaged_tiles_name_the_place_and_leave_the_rest_readable(tmp_path, picture):
    path = write_slide(tmp_path / "damaged.svs", picture, levels=1)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40_000] = bytes(40_000)
    path.write_bytes(data)
    for backend in ("openslide", "tiffslide"):
        with open_slide(path, reader=backend) as reader:
            before = reader.read_region(Region(0, 0, 64, 64))
            with pytest.raises(
                SlideError, match=rf"damaged\.svs: cannot be read at x 0, y 0, .*{backend} says .*again"
            ):
                reader.read_region(Region(0, 0, *reader.dimensions))
            assert np.array_equal(reader.read_region(Region(0, 0, 64, 64)), before)


class _Offset:
    """Stands for a handle on a slide that OpenSlide gives bounds for."""

    level_dimensions = ((100, 80),)
    level_downsamples = (1.0,)

    def __init__(self, path):
        keys = ("x", "y", "width", "height")
        self.properties = {f"openslide.bounds-{k}": v for k, v in zip(keys, ("10", "20", "30", "40"), strict=True)}

    def close(self):
        pass


def test_bounds_are_the_scanned_area(monkeypatch, slide_path):
    monkeypatch.setattr(openslide, "OpenSlide", _Offset)
    assert OpenSlideReader(slide_path).bounds == Region(10, 20, 30, 40)
