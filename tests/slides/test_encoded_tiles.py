"""JPEG tiles as streams: whole, in their colours, in their places."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
import tifffile

from tilemaker import write_tiles
from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides import open_slide
from wsipipe.slides.encoded_tiles import encoded_tiles


@pytest.fixture(scope="module")
def image(picture):
    """Tissue of a size that no tile divides, (370, 502, 3)."""
    return np.ascontiguousarray(picture[100:470, 100:602])


@pytest.mark.parametrize("space", ["ycbcr", "rgb", "gray"])
@pytest.mark.parametrize("region", [Region(0, 0, 502, 370), Region(-9, 50, 99, 400), Region(64, 64, 64, 64)])
def test_streams_and_places_make_the_region(tmp_path, image, space, region):
    path = write_tiles(tmp_path / "s.svs", [image, image[::2, ::2]], size=(64, 48), space=space)
    with open_slide(path) as reader:
        for level in (0, 1):
            tiles = encoded_tiles(reader, level)
            made = np.full((region.height, region.width, 3), 255, np.uint8)
            for part in tiles.parts(region):
                pixels = simplejpeg.decode_jpeg(tiles.stream(part.key), "RGB")
                assert pixels.shape == (48, 64, 3)
                made[part.there] = pixels[part.source]
            assert np.array_equal(made, reader.read_region(region, level))


def test_a_region_beside_the_slide_has_no_parts(tmp_path, image):
    with open_slide(write_tiles(tmp_path / "s.svs", [image])) as reader:
        assert encoded_tiles(reader, 0).parts(Region(502, 0, 10, 10)) == []


def without_tile_0_and_cut(index, data):
    return {0: b"", 17: data[: len(data) // 2], 18: data + bytes(3)}.get(index, data)


def test_tiles_left_out_or_cut_off_have_no_stream(tmp_path, image):
    path = write_tiles(tmp_path / "s.svs", [image], change=without_tile_0_and_cut)  # 8 columns
    with open_slide(path) as reader:
        tiles = encoded_tiles(reader, 0)
        assert tiles.stream((0, 0)) is tiles.stream((2, 1)) is None
        assert tiles.stream((2, 2)) is not None  # filled up with zeros behind its end
        assert (tiles.pixels((0, 0)) == 255).all()
        with pytest.raises(SlideError, match="column 1, row 2"):
            tiles.pixels((2, 1))


def test_examples_are_held_and_one_is_the_fullest(tmp_path, image):
    path = write_tiles(tmp_path / "s.svs", [image], change=without_tile_0_and_cut)
    with open_slide(path) as reader:
        tiles = encoded_tiles(reader, 0)
        examples = tiles.examples()
        assert (0, 0) not in examples
        assert examples[0] == (0, 1)
        lengths = {(r, c): len(tiles.stream((r, c)) or b"") for r in range(6) for c in range(8)}
        assert max(lengths, key=lengths.__getitem__) in examples


def test_other_tiles_and_other_readers_have_none(tmp_path, image, slide_path):
    path = tmp_path / "lossless.tif"
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", metadata=None, compression="deflate")
    with open_slide(path) as reader:
        assert reader.backend == "direct"
        assert encoded_tiles(reader, 0) is None
    with open_slide(slide_path, reader="openslide") as reader:
        assert encoded_tiles(reader, 0) is None
    gaps = write_tiles(tmp_path / "gaps.svs", [image, image[::2, ::2]], change=without_tile_0_and_cut)
    with open_slide(gaps) as reader:  # OpenSlide paints what lies below a gap from the finer level
        assert encoded_tiles(reader, 1) is None
