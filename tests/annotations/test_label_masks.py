"""Label masks."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsipipe.annotations.masks import read_mask
from wsipipe.errors import AnnotationError

LABELS = np.array([[0, 1, 2], [2, 0, 7]], dtype=np.uint8)


def test_grey_png_by_value(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(LABELS).save(path)
    np.testing.assert_array_equal(read_mask(path), LABELS > 0)
    np.testing.assert_array_equal(read_mask(path, values=[2, 7]), LABELS >= 2)
    assert not read_mask(path, values=[9]).any()
    assert read_mask(path).dtype == bool


def test_palette_counts_by_index_not_by_colour(tmp_path):
    palette = Image.new("P", LABELS.shape[::-1])
    palette.putdata(LABELS.ravel().tolist())
    palette.putpalette([200, 0, 0] + [0, 0, 0] * 255)
    palette.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), LABELS > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_tiff_of_any_depth(tmp_path, dtype):
    labels = (LABELS.astype(dtype) * 100).astype(dtype)
    tifffile.imwrite(tmp_path / "mask.tif", labels)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif", values=[200]), LABELS == 2)


def test_black_and_white(tmp_path):
    Image.fromarray(LABELS > 0).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), LABELS > 0)


def test_grey_in_colour_counts_and_alpha_does_not(tmp_path):
    for channels in (3, 4):
        stacked = np.stack([LABELS] * channels, axis=-1)
        if channels == 4:
            stacked[..., 3] = 255
        Image.fromarray(stacked).save(tmp_path / "mask.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), LABELS > 0)
    Image.fromarray(np.stack([LABELS, np.full_like(LABELS, 255)], axis=-1)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), LABELS > 0)


def test_real_gland_mask(shared):
    path = sorted((shared / "glas").rglob("*.png"))[0]
    mask = read_mask(path)
    with Image.open(path) as image:
        histogram = image.histogram()
        assert mask.shape == image.size[::-1]
    assert mask.sum() == sum(histogram[1:256]) > 0


def test_what_is_no_mask_is_refused(tmp_path):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[1, 1] = 200, 0, 0
    Image.fromarray(colours).save(tmp_path / "colours.png")
    with pytest.raises(AnnotationError, match=r"colours.png: holds colours, not labels"):
        read_mask(tmp_path / "colours.png")
    Image.fromarray(colours).save(tmp_path / "mask.jpg")
    with pytest.raises(AnnotationError, match="JPEG"):
        read_mask(tmp_path / "mask.jpg")
    (tmp_path / "text.png").write_text("x,y,label")
    with pytest.raises(AnnotationError, match="is no picture"):
        read_mask(tmp_path / "text.png")
    with pytest.raises(AnnotationError, match="does not exist"):
        read_mask(tmp_path / "gone.png")
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_mask(tmp_path)


def test_a_mask_cut_in_the_middle(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(AnnotationError, match=r"mask.png: cannot be read as a picture"):
        read_mask(path)


def test_a_mask_of_a_whole_slide_is_too_large(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(LABELS).save(path)
    with pytest.raises(AnnotationError, match="more than 5 pixels"):
        read_mask(path, max_pixels=5)


@pytest.mark.parametrize("size", [(20_000, 10_001), (20_000, 20_000), (2_000_000, 2_000_000)])
def test_the_size_is_refused_before_a_pixel_is_read(tmp_path, size):
    # Below and above the sizes at which Pillow itself warns and refuses; the file holds no pixels at all.
    head = b"IHDR" + struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    path = tmp_path / "mask.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(part) for part in (head, data)))
    with pytest.raises(AnnotationError, match="more than 200,000,000 pixels"):
        read_mask(path)


def _chunk(part):
    return struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
