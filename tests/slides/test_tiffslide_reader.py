"""Slides through tiffslide: plain TIFF of many kinds."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides import open_slide


def test_level_px_are_exact_on_uneven_levels(aperio_slide, picture):
    path = aperio_slide(picture, downsample=1.7, levels=3)
    with open_slide(path, reader="tiffslide") as reader, tifffile.TiffFile(path) as tiff:
        assert len(reader.level_dimensions) == 3
        for level, page in enumerate((0, 2, 3)):
            stored = tiff.pages[page].asarray()
            for x, y in ((0, 0), (17, 33), (101, 99), (stored.shape[1] - 70, stored.shape[0] - 50)):
                pixels = reader.read_region(Region(x, y, 70, 50), level)
                assert np.array_equal(pixels, stored[y : y + 50, x : x + 70])


@pytest.mark.parametrize(
    ("shape", "dtype", "photometric", "planar"),
    [
        ((90, 120), np.uint8, "minisblack", None),
        ((90, 120, 3), np.uint16, "rgb", None),
        ((90, 120, 4), np.uint8, "rgb", None),
        ((3, 90, 120), np.uint8, "minisblack", "planes"),
    ],
)
def test_grey_sixteen_bits_alpha_and_planes(tmp_path, shape, dtype, photometric, planar):
    stored = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    extra = {"extrasamples": ["unassalpha"]} if shape[-1] == 4 else {}
    path = tmp_path / "kind.ome.tif"
    axes = "CYX" if planar else "YXS"[: stored.ndim]
    tifffile.imwrite(path, stored, photometric=photometric, metadata={"axes": axes}, tile=(32, 32), **extra)
    with open_slide(path, mpp=0.5, reader="tiffslide") as reader:
        pixels = reader.read_region(Region(10, 20, 50, 40)).astype(float)
    stored = np.moveaxis(stored, 0, -1) if planar else stored
    part = stored.reshape(90, 120, -1)[20:60, 10:60].astype(float) * 255 / np.iinfo(dtype).max
    if part.shape[2] == 4:
        alpha = part[..., 3:] / 255
        part = part[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels - part).max() <= 0.51


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.zeros((90, 120), np.float32), "float32 samples"),
        (np.zeros((90, 120, 6), np.uint8), "6 channels"),
    ],
)
def test_what_is_no_picture_is_refused_when_read(tmp_path, stored, message):
    path = tmp_path / "odd.tif"
    planar = {"planarconfig": "contig"} if stored.ndim == 3 else {}
    tifffile.imwrite(path, stored, photometric="minisblack", tile=(32, 32), metadata=None, **planar)
    with open_slide(path, mpp=0.5, reader="tiffslide") as reader, pytest.raises(SlideError, match=message):
        reader.read_region(Region(0, 0, 10, 10))


def test_a_stack_is_refused_when_opened(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((2, 5, 90, 120), np.uint8), photometric="minisblack")
    with pytest.raises(SlideError, match=r"stack\.tif: cannot be opened: tiffslide says"):
        open_slide(path, reader="tiffslide")


def test_tiles_that_were_never_scanned_are_white(tmp_path):
    path = tmp_path / "sparse.tif"
    tiles = (None if i in (1, 4) else np.full((64, 64, 3), 100, np.uint8) for i in range(6))
    with tifffile.TiffWriter(path) as writer:
        writer.write(tiles, shape=(100, 180, 3), dtype=np.uint8, tile=(64, 64), photometric="rgb", compression="zlib")
    expected = np.full((100, 180), 100)
    expected[:64, 64:128] = expected[64:, 64:128] = 255
    for backend in ("openslide", "tiffslide"):
        with open_slide(path, mpp=0.5, reader=backend) as reader:
            assert np.array_equal(reader.read_region(Region(30, 20, 140, 70))[..., 1], expected[20:90, 30:170])
