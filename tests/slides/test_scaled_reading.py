"""Levels decoded smaller than they are: near the mean of their pixels, the same whatever the region."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from tilemaker import write_tiles
from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides import MppView, open_slide
from wsipipe.slides.direct_reader import DirectReader
from wsipipe.slides.openslide_reader import OpenSlideReader

KINDS = [("ycbcr", "420"), ("ycbcr", "422"), ("ycbcr", "444"), ("rgb", "444"), ("gray", "444")]
MPP = 0.5


class PlainReader(DirectReader):
    """Decodes every pixel."""

    def factors(self, level):
        return ()


@pytest.fixture(scope="module")
def image(picture):
    """(370, 502, 3): no factor divides the sides, and no tile."""
    return np.ascontiguousarray(picture[100:470, 100:602])


@pytest.fixture(scope="module")
def plain(image, tmp_path_factory):
    return write_tiles(tmp_path_factory.mktemp("scaled") / "plain.svs", [image])


def means(reader, factor, level=0):
    """Mean of every box of factor x factor px, white beyond the edges, (rows, cols, 3) float."""
    width, height = (-(-side // factor) for side in reader.level_dimensions[level])
    pixels = reader.read_region(Region(0, 0, width * factor, height * factor), level)
    return pixels.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))


def whole(reader, factor, level=0):
    width, height = (-(-side // factor) for side in reader.level_dimensions[level])
    return reader.read_scaled(Region(0, 0, width, height), level, factor)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(64, 64), (128, 48)])
@pytest.mark.parametrize(("space", "subsampling"), KINDS)
def test_near_the_mean_and_the_same_in_every_region(tmp_path, image, space, subsampling, size, factor):
    path = write_tiles(tmp_path / "s.svs", [image], size=size, space=space, subsampling=subsampling)
    with open_slide(path) as reader:
        assert reader.factors(0) == (2, 4, 8)
        everything = whole(reader, factor)
        # The colours of 4:2:2 are decoded at half the width.
        assert np.abs(everything - means(reader, factor)).mean() < (1 if subsampling != "422" else 2)
        rows, cols = everything.shape[:2]
        rng = np.random.default_rng(factor)
        for _ in range(20):
            x, y = int(rng.integers(0, cols)), int(rng.integers(0, rows))
            w, h = int(rng.integers(1, cols - x + 1)), int(rng.integers(1, rows - y + 1))
            assert np.array_equal(reader.read_scaled(Region(x, y, w, h), 0, factor), everything[y : y + h, x : x + w])


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_white_past_the_edge(plain, factor):
    with open_slide(plain) as reader:
        everything = whole(reader, factor)
        rows, cols = everything.shape[:2]
        around = reader.read_scaled(Region(-3, -2, cols + 10, rows + 6), 0, factor)
        assert np.array_equal(around[2 : 2 + rows, 3 : 3 + cols], everything)
        around[2 : 2 + rows, 3 : 3 + cols] = 255
        assert (around == 255).all()
        assert (reader.read_scaled(Region(cols, rows, 4, 5), 0, factor) == 255).all()


@pytest.mark.parametrize("factor", [4, 8])
def test_px_that_the_edge_cuts_are_the_mean_of_slide_and_white(plain, factor):
    with open_slide(plain) as reader:
        ours, expected = whole(reader, factor), np.rint(means(reader, factor))
    assert np.array_equal(ours[-1], expected[-1])
    assert np.array_equal(ours[:, -1], expected[:, -1])


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_tiles_left_out_are_the_mean_of_what_stands_for_them(tmp_path, image, factor):
    path = write_tiles(tmp_path / "gap.svs", [image], change=lambda index, data: b"" if index == 10 else data)
    side = 64 // factor
    with open_slide(path) as reader:
        assert reader.factors(0)
        there = Region(2 * side, side, side, side)  # 8 tiles in a row
        expected = np.rint(means(reader, factor))[side : 2 * side, 2 * side : 3 * side]
        assert np.array_equal(reader.read_scaled(there, 0, factor), expected)


def test_damaged_tiles_are_told_or_left_white(tmp_path, image):
    path = write_tiles(tmp_path / "bad.svs", [image], change=lambda index, data: data[:90] if index == 10 else data)
    with open_slide(path, reader="direct") as reader:
        assert reader.read_scaled(Region(0, 0, 16, 16), 0, 4).shape == (16, 16, 3)
        with pytest.raises(SlideError, match=r"bad\.svs: .*column 2, row 1 of level 0 cannot be read"):
            whole(reader, 4)
    with (
        DirectReader(OpenSlideReader(path), check=False, damaged="white") as reader,
        pytest.warns(UserWarning, match="left white"),
    ):
        assert (reader.read_scaled(Region(32, 16, 16, 16), 0, 4) == 255).all()


def test_only_jpeg_is_decoded_smaller(tmp_path, image):
    path = tmp_path / "deflate.tif"
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", compression="deflate", metadata=None)
    with open_slide(path) as reader:
        assert reader.backend == "direct"
        assert reader.factors(0) == ()


def test_levels_left_to_the_library_are_not(plain, monkeypatch):
    monkeypatch.setattr(DirectReader, "_agrees", lambda self, level: level == 0)
    with open_slide(plain) as reader:
        assert reader.factors(0)
        monkeypatch.setattr(reader, "_direct", {0: False})
        assert reader.factors(0) == ()


@pytest.mark.parametrize(
    ("ratio", "factor"), [(1, 1), (4, 1), (7.9, 1), (8, 2), (15.9, 2), (17.3, 4), (32, 8), (64, 8)]
)
def test_views_decode_smaller_where_they_still_shrink_fourfold(plain, ratio, factor):
    with open_slide(plain) as reader, PlainReader(OpenSlideReader(plain)) as every:
        ours, expected = MppView(reader, MPP * ratio), MppView(every, MPP * ratio)
        region = Region(0, 0, ours.width, ours.height)
        assert (ours.factor, expected.factor) == (factor, 1)
        assert np.abs(ours.read(region).astype(int) - expected.read(region)).mean() < (0.5 if factor > 1 else 1e-9)
    with open_slide(plain, reader="openslide") as reader:
        assert MppView(reader, MPP * ratio).factor == 1


@pytest.mark.parametrize(("space", "subsampling"), KINDS)
@pytest.mark.parametrize("ratio", [8, 16, 32])
def test_such_views_are_near_the_plain_ones_however_colours_are_stored(tmp_path, image, space, subsampling, ratio):
    path = write_tiles(tmp_path / "s.svs", [image], space=space, subsampling=subsampling)
    with open_slide(path) as reader, PlainReader(OpenSlideReader(path)) as every:
        ours, expected = MppView(reader, MPP * ratio), MppView(every, MPP * ratio)
        region = Region(0, 0, ours.width, ours.height)
        assert np.abs(ours.read(region).astype(int) - expected.read(region)).mean() < 0.7


@pytest.mark.parametrize("ratio", [8, 11.3, 33])
def test_any_tiling_of_such_a_view_gives_the_same_pixels(plain, ratio):
    with open_slide(plain) as reader:
        view = MppView(reader, MPP * ratio)
        everything = view.read(Region(-2, -1, view.width + 4, view.height + 3))
        for x in range(-2, view.width + 2, 5):
            part = view.read(Region(x, -1, 5, view.height + 3))
            assert np.array_equal(part[:, : everything.shape[1] - x - 2], everything[:, x + 2 : x + 7])
