"""What all readers share: handles per process, clipping, padding, reopening."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides import open_slide

BACKENDS = ("openslide", "tiffslide", "image", "direct")


@pytest.fixture(scope="module")
def paths(slide_path, picture, tmp_path_factory):
    png = tmp_path_factory.mktemp("plain") / "tissue.png"
    Image.fromarray(picture).save(png)
    return {"openslide": slide_path, "tiffslide": slide_path, "image": png, "direct": slide_path}


@pytest.fixture(params=BACKENDS)
def reader(request, paths):
    with open_slide(paths[request.param], mpp=0.5, reader=request.param) as opened:
        yield opened


def test_says_what_it_is(reader, picture):
    assert reader.backend in BACKENDS
    assert reader.dimensions == reader.level_dimensions[0] == (picture.shape[1], picture.shape[0])
    assert reader.level_downsamples[0] == 1.0
    assert reader.bounds == Region(0, 0, *reader.dimensions)
    assert reader.mpp == 0.5
    assert repr(reader).startswith(type(reader).__name__)
    assert reader.level_backend(0) == reader.backend


def test_pixels_are_those_of_the_picture(reader, picture):
    pixels = reader.read_region(Region(300, 200, 150, 100))
    assert pixels.shape == (100, 150, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    # JPEG at quality 90 with halved chroma; PNG is exact.
    assert np.abs(pixels.astype(int) - picture[200:300, 300:450]).mean() <= (0 if reader.backend == "image" else 8)


def test_past_the_edge_is_white(reader):
    width, height = reader.dimensions
    inner = reader.read_region(Region(0, 0, 50, 40))
    padded = reader.read_region(Region(-30, -20, 80, 60))
    assert np.array_equal(padded[20:, 30:], inner)
    assert (padded[:20] == 255).all()
    assert (padded[:, :30] == 255).all()
    corner = reader.read_region(Region(width - 10, height - 5, 30, 30))
    assert np.array_equal(corner[:5, :10], reader.read_region(Region(width - 10, height - 5, 10, 5)))
    assert (corner[5:] == 255).all()
    assert (corner[:, 10:] == 255).all()
    assert (reader.read_region(Region(width + 5, 0, 4, 4)) == 255).all()


@pytest.mark.parametrize("level", [-1, 7])
def test_levels_that_do_not_exist(reader, level):
    with pytest.raises(SlideError, match=rf"has levels 0 to \d, not {level}"):
        reader.read_region(Region(0, 0, 4, 4), level)


def test_pickled_by_path(reader):
    region = Region(300, 200, 60, 50)
    expected = reader.read_region(region)
    data = pickle.dumps(reader)
    assert len(data) < 20_000
    with pickle.loads(data) as copy:
        assert (copy.mpp, copy.mpp_source, copy.dimensions) == (reader.mpp, reader.mpp_source, reader.dimensions)
        assert np.array_equal(copy.read_region(region), expected)


def test_closed_it_reopens(reader):
    expected = reader.read_region(Region(300, 200, 60, 50))
    reader.close()
    reader.close()
    assert np.array_equal(reader.read_region(Region(300, 200, 60, 50)), expected)


def test_a_fork_opens_its_own_handle_and_leaves_the_other_alone(reader, monkeypatch):
    region = Region(300, 200, 60, 50)
    expected = reader.read_region(region)
    parents = reader._handle
    shut = []
    monkeypatch.setattr(reader, "_shut", shut.append)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert np.array_equal(reader.read_region(region), expected)
    assert reader._handle is not parents
    reader.close()
    assert len(shut) == 1
    assert shut[0] is not parents
    monkeypatch.undo()
    reader._shut(parents)
    reader._shut(shut[0])


def test_file_gone_after_opening(paths, tmp_path):
    for backend, path in paths.items():
        moved = tmp_path / path.name
        shutil.copy(path, moved)
        copy = pickle.dumps(open_slide(moved, mpp=0.5, reader=backend))
        moved.unlink()
        with pytest.raises(SlideError, match=moved.name):
            pickle.loads(copy).read_region(Region(0, 0, 5, 5))


def test_listing_and_identity_load_no_heavy_library():
    script = "import sys, wsipipe.slides; print({'torch', 'openslide', 'tiffslide', 'zarr', 'dask'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
