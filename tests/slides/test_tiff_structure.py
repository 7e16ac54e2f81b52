"""TIFF files that are cut off are recognised without decoding them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from slidemaker import write_slide
from wsipipe.errors import SlideError
from wsipipe.slides.tiff_structure import check_tiff


def cut(path, target, length):
    target.write_bytes(path.read_bytes()[:length])
    return target


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
def test_cut_anywhere_is_told(slide_path, tmp_path, share):
    size = slide_path.stat().st_size
    broken = cut(slide_path, tmp_path / "cut.svs", int(size * share))
    with pytest.raises(SlideError, match=r"cut\.svs: is cut off: its directory points to byte \d+, the file has \d+"):
        check_tiff(broken)


def test_whole_file_passes_and_the_last_byte_counts(slide_path, tmp_path):
    check_tiff(slide_path)
    with pytest.raises(SlideError, match="cut off"):
        check_tiff(cut(slide_path, tmp_path / "cut.svs", slide_path.stat().st_size - 1))


@pytest.mark.parametrize("length", [4, 6, 10])
def test_a_mere_header(slide_path, tmp_path, length):
    with pytest.raises(SlideError, match="cut off"):
        check_tiff(cut(slide_path, tmp_path / "cut.svs", length))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_sub_directories_byte_orders_and_bigtiff(tmp_path, bigtiff, byteorder):
    path = tmp_path / "sub.tif"
    image = np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        writer.write(image, tile=(64, 64), subifds=1, metadata=None)
        writer.write(image[::2, ::2], tile=(64, 64), subfiletype=1, metadata=None)
    check_tiff(path)
    with pytest.raises(SlideError, match="cut off"):
        check_tiff(cut(path, tmp_path / "cut.tif", path.stat().st_size - 1))


def test_tiles_that_were_never_scanned_are_no_damage(tmp_path):
    path = tmp_path / "sparse.tif"
    tiles = (None if i % 2 else np.ones((64, 64), np.uint8) for i in range(4))
    with tifffile.TiffWriter(path) as writer:
        writer.write(tiles, shape=(128, 128), dtype=np.uint8, tile=(64, 64), compression="zlib")
    check_tiff(path)


def test_directories_that_point_in_a_circle_end(tmp_path):
    path = write_slide(tmp_path / "loop.svs", np.full((64, 64, 3), 200, np.uint8), levels=1, tile=64)
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    path.write_bytes(data[: first + 2 + 12 * entries] + data[4:8] + data[first + 6 + 12 * entries :])
    check_tiff(path)
