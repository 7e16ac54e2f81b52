from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsipipe.annotations.masks import read_labels
from wsipipe.errors import StoreError, WsipipeError
from wsipipe.geometry import CellGrid
from wsipipe.store.label_raster import LabelRaster
from wsipipe.store.raster import as_mask, write_pyramid

MASK = np.random.default_rng(0).random((300, 411)) > 0.5
LABELS = MASK.astype(np.uint8)


def whole(path):
    raster = LabelRaster(path)
    bands = list(raster.bands())
    assert (raster.rows, raster.cols) == (sum(map(len, bands)), bands[0].shape[1])
    return np.concatenate(bands), [len(band) for band in bands]


@pytest.mark.parametrize(
    ("options", "heights"),
    [
        ({"tile": (128, 128), "compression": "zlib"}, [128, 128, 44]),
        ({"tile": (512, 256)}, [300]),
        ({"rowsperstrip": 90, "compression": "lzw"}, [90, 90, 90, 30]),
        ({}, [300]),
    ],
)
def test_tiff_of_any_layout(tmp_path, options, heights):
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, LABELS, **options)
    found, bands = whole(path)
    np.testing.assert_array_equal(found, MASK)
    assert bands == heights


@pytest.mark.parametrize("flavour", ["plain", "ome"])
def test_our_own_masks(tmp_path, flavour):
    path = tmp_path / "m.mask.tif"
    write_pyramid(path, [as_mask(MASK)], grid=CellGrid(*MASK.shape, 4.0), mpp=None, flavour=flavour, tile=128)
    np.testing.assert_array_equal(whole(path)[0], MASK)


def test_first_page_of_a_pyramid_counts(tmp_path):
    path = tmp_path / "m.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(LABELS, tile=(128, 128))
        writer.write(LABELS[::2, ::2], tile=(128, 128), subfiletype=1)
    np.testing.assert_array_equal(whole(path)[0], MASK)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp"])
def test_pictures_of_pillow(tmp_path, name):
    Image.fromarray(LABELS).save(tmp_path / name)
    np.testing.assert_array_equal(whole(tmp_path / name)[0], MASK)
    Image.fromarray(MASK).save(tmp_path / f"bits-{name}")
    np.testing.assert_array_equal(whole(tmp_path / f"bits-{name}")[0], MASK)


def test_grey_rgb_is_taken_and_colours_are_not(tmp_path):
    path, rgb = tmp_path / "m.tif", np.repeat(LABELS[..., None] * 255, 3, axis=2)
    tifffile.imwrite(path, rgb, photometric="rgb", tile=(128, 128))
    np.testing.assert_array_equal(whole(path)[0], MASK)
    rgb[5, 5] = (255, 0, 0)
    tifffile.imwrite(path, rgb, photometric="rgb", tile=(128, 128))
    with pytest.raises(StoreError, match="holds colours, not labels"):
        whole(path)


def test_what_is_no_mask_is_named(tmp_path):
    jpeg, floats, cut, text = (tmp_path / name for name in ("j.tif", "f.tif", "c.tif", "t.tif"))
    tifffile.imwrite(jpeg, LABELS * 255, tile=(128, 128), compression="jpeg")
    tifffile.imwrite(floats, LABELS.astype(np.float32))
    tifffile.imwrite(cut, LABELS, tile=(128, 128), compression="zlib")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    text.write_text("no picture")
    for path, told in ((jpeg, "blurs labels"), (floats, "float32 values"), (cut, "damaged"), (text, "no picture")):
        with pytest.raises(WsipipeError, match=told) as caught:
            whole(path)
        assert str(path) in str(caught.value)
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        LabelRaster(tmp_path / "none.tif")


def test_memory_is_that_of_a_band(tmp_path):
    path, side = tmp_path / "big.tif", 4096
    tiles = (np.full((256, 256), index % 2, np.uint8) for index in range((side // 256) ** 2))
    tifffile.imwrite(path, tiles, shape=(side, side), dtype="uint8", tile=(256, 256), compression="zlib")
    tracemalloc.start()
    assert sum(int(band.sum()) for band in LabelRaster(path).bands()) == side**2 // 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < side**2 / 2


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("bool", {}),
        ("bool", {"rowsperstrip": 90}),
        ("uint8", {"rowsperstrip": 90, "compression": "zlib"}),
        ("uint8", {"tile": (128, 128)}),
        ("uint16", {}),
        ("uint16", {"tile": (128, 128), "compression": "zlib"}),
    ],
)
def test_where_0_is_stored_for_white_all_readers_agree(tmp_path, dtype, options):
    path, values = tmp_path / "m.tif", MASK if dtype == "bool" else np.random.default_rng(0).integers(0, 3, MASK.shape)
    stored = ~values.astype(dtype)  # the largest value less this one
    tifffile.imwrite(path, stored, photometric="miniswhite", **options)
    labels = np.concatenate(list(LabelRaster(path).labels()))
    np.testing.assert_array_equal(labels, values)
    np.testing.assert_array_equal(read_labels(path), values)


@pytest.mark.parametrize(
    "options", [{"rowsperstrip": 5000}, {"rowsperstrip": 5000, "compression": "lzw"}, {"tile": (5008, 2048)}]
)
def test_what_is_made_of_a_single_strip_or_tile_is_made_of_pieces(tmp_path, options):
    path, shape = tmp_path / "m.tif", (5000, 2048)
    values = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
    tifffile.imwrite(path, values, **options)
    bands = list(LabelRaster(path).bands())
    np.testing.assert_array_equal(np.concatenate(bands), values)
    assert max(band.size for band in bands) <= 1 << 22


def test_memory_beside_a_single_strip_is_that_of_a_piece(tmp_path):
    path, shape = tmp_path / "m.tif", (8192, 8192)
    tifffile.imwrite(path, np.ones(shape, np.uint8), rowsperstrip=shape[0], compression="zlib")
    tracemalloc.start()
    assert sum(int(band.sum()) for band in LabelRaster(path).bands()) == 8192**2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * 8192**2
