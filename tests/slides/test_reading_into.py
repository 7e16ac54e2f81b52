"""Pixels read into an array that is there already: the same as in a new one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from tilemaker import write_tiles
from wsipipe.geometry import Region
from wsipipe.slides import MppView, open_slide
from wsipipe.slides.direct_reader import DirectReader
from wsipipe.slides.openslide_reader import OpenSlideReader

# On the tiles of 64 px, across them, over the edges, and outside.
REGIONS = (Region(64, 128, 64, 64), Region(0, 0, 192, 128), Region(31, 17, 200, 130), Region(450, 330, 90, 70))
REGIONS += (Region(-20, -9, 64, 64), Region(900, 900, 5, 7))


@pytest.fixture(scope="module")
def slide(picture, tmp_path_factory):
    image = picture[100:470, 100:602]
    return write_tiles(tmp_path_factory.mktemp("into") / "s.svs", [image, image[::2, ::2]])


def room(region, *, gaps):
    """An array full of rubbish; with gaps, a window into a larger one."""
    if not gaps:
        return np.full((region.height, region.width, 3), 99, np.uint8)
    return np.full((region.height + 5, region.width + 7, 3), 99, np.uint8)[2:-3, 3:-4]


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("reader", ["direct", "openslide", "tiffslide"])
def test_readers(slide, reader, gaps):
    with open_slide(slide, reader=reader) as one:
        for level in range(len(one.level_dimensions)):
            for region in REGIONS:
                out = room(region, gaps=gaps)
                assert one.read_region(region, level, out) is out
                assert np.array_equal(out, one.read_region(region, level))
                if gaps:
                    assert (out.base[:2] == 99).all()
                    assert (out.base[:, :3] == 99).all()


@pytest.mark.parametrize("mpp", [0.5, 0.83])
@pytest.mark.parametrize("gaps", [False, True])
def test_views(slide, mpp, gaps, monkeypatch):
    monkeypatch.setattr("wsipipe.slides.view._PIECE_PX", 100)  # several pieces
    with open_slide(slide) as reader:
        view = MppView(reader, mpp)
        for region in REGIONS:
            out = room(region, gaps=gaps)
            assert view.read(region, out) is out
            assert np.array_equal(out, view.read(region))


@pytest.mark.parametrize("shape", [(64, 65, 3), (1, 1, 3), (64, 64, 4)])
@pytest.mark.parametrize("mpp", [0.5, 0.83])
def test_another_shape_is_refused(slide, mpp, shape):
    with open_slide(slide) as reader, pytest.raises(ValueError, match=r"out is .* uint8, not \(64, 64, 3\) uint8"):
        MppView(reader, mpp).read(Region(0, 0, 64, 64), np.empty(shape, np.uint8))


def test_copies_in_one_process_share_file_and_cache(slide):
    with open_slide(slide) as reader:
        expected = reader.read_region(REGIONS[2])
        other = copy.copy(reader)
        assert isinstance(reader, DirectReader)
        assert other._use() is reader._use()
        elsewhere = pickle.loads(pickle.dumps(reader))
        assert elsewhere._use() is not reader._use()
        elsewhere.close()
    # The first is closed; its copy reads on, and is closed and opened again on its own.
    assert np.array_equal(other.read_region(REGIONS[2]), expected)
    other.close()
    assert np.array_equal(other.read_region(REGIONS[2]), expected)
    other.close()


def test_a_copy_of_a_closed_reader_opens_the_file_itself(slide):
    reader = DirectReader(OpenSlideReader(slide))
    expected = reader.read_region(REGIONS[2])
    reader.close()
    with copy.copy(reader) as other:
        assert np.array_equal(other.read_region(REGIONS[2]), expected)
    assert reader._handle is None
