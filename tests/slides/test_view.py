"""Slides at any resolution: the same pixels whatever the tiling, everything in its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slidemaker import write_slide
from wsipipe.errors import ResolutionError
from wsipipe.geometry import Region
from wsipipe.slides import MppView, open_slide

# Target resolutions: upsampled, as stored, between levels, next to a level, coarser than all.
TARGETS = (0.2, 0.5, 0.5003, 0.83, 1.0, 1.37, 1.99, 4.1)


def discs(centres, *, radius=12, width=1000, height=700):
    y, x = np.mgrid[:height, :width] + 0.5
    image = np.full((height, width, 3), 255, np.uint8)
    for cx, cy in centres:
        image[np.hypot(x - cx, y - cy) < radius] = 20
    return image


@pytest.fixture(scope="module")
def slides(aperio_slide, picture):
    """An even and an uneven pyramid of one picture, width and height odd."""
    image = picture[:701, :999]
    return {"even": aperio_slide(image, downsample=2.0, levels=3), "uneven": aperio_slide(image, downsample=2.7)}


@pytest.mark.parametrize("mpp", TARGETS)
@pytest.mark.parametrize(("kind", "backend"), [("even", "openslide"), ("uneven", "openslide"), ("uneven", "tiffslide")])
def test_any_tiling_gives_the_same_pixels(slides, kind, backend, mpp):
    with open_slide(slides[kind], reader=backend) as reader:
        view = MppView(reader, mpp)
        window = Region(-7, -5, min(view.width, 600) + 20, min(view.height, 300) + 11)
        whole = view.read(window)
        for tile in (61, 256):
            for y in range(window.y, window.y_end, tile):
                for x in range(window.x, window.x_end, tile):
                    part = view.read(Region(x, y, min(tile, window.x_end - x), min(tile, window.y_end - y)))
                    top, left = y - window.y, x - window.x
                    assert np.array_equal(part, whole[top : top + tile, left : left + tile])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mpp=st.floats(0.3, 6),
    x=st.integers(-30, 150),
    y=st.integers(-30, 100),
    width=st.integers(1, 80),
    height=st.integers(1, 80),
)
def test_any_region_is_cut_from_the_whole(slides, mpp, x, y, width, height):
    with open_slide(slides["uneven"]) as reader:
        view = MppView(reader, mpp)
        whole = view.read(Region(-40, -40, 300, 250))
        assert np.array_equal(
            view.read(Region(x, y, width, height)), whole[y + 40 : y + 40 + height, x + 40 : x + 40 + width]
        )


def test_large_regions_are_read_in_pieces(slides, monkeypatch):
    with open_slide(slides["even"]) as reader:
        view = MppView(reader, 0.83)
        window = Region(0, 0, view.width, view.height)
        whole = view.read(window)
        monkeypatch.setattr("wsipipe.slides.view._PIECE_PX", 100)
        assert np.array_equal(view.read(window), whole)


@pytest.mark.parametrize("downsample", [2.0, 2.7])
@pytest.mark.parametrize("mpp", [0.13, 0.25, 0.5, 0.61, 1.0, 1.7, 2.0, 3.3])
def test_dots_land_where_they_are(tmp_path, mpp, downsample):
    centres = [(60.0, 50.0), (940.5, 80.0), (500.0, 640.0)]
    path = write_slide(tmp_path / "dots.svs", discs(centres), tile=128, compression="deflate", downsample=downsample)
    with open_slide(path) as reader:
        view = MppView(reader, mpp)
        for cx, cy in centres:
            left, top = int((cx - 40) / view.scale), int((cy - 40) / view.scale)
            side = int(80 / view.scale)
            dark = 255.0 - view.read(Region(left, top, side, side))[..., 0]
            rows, cols = np.mgrid[:side, :side] + 0.5
            found = np.array([(cols * dark).sum(), (rows * dark).sum()]) / dark.sum() + (left, top)
            level = reader.level_downsamples[view.level]
            # Levels of truncated size are known to within a level px at the far edge.
            slack = 0.1 + (0.5 * level if level > 1 else 0.0)
            assert np.abs(found * view.scale - (cx, cy)).max() < slack


def test_an_edge_lies_between_the_right_pixels(tmp_path):
    image = np.full((200, 400, 3), 255, np.uint8)
    image[:, :120] = 0
    path = write_slide(tmp_path / "edge.svs", image, levels=1, tile=64, compression="deflate")
    with open_slide(path) as reader:
        row = MppView(reader, 1.0).read(Region(50, 50, 20, 1))[0, :, 0]
        # Target px 59 covers level-0 columns 118 and 119, 60 covers 120 and 121; the filter spans two to each side.
        assert row[:9].max() == 0
        assert row[11:].min() == 255
        assert row[9] + row[10] == 255
        row = MppView(reader, 0.25).read(Region(230, 50, 20, 1))[0, :, 0]
        assert (row[:9].max(), row[11:].min()) == (0, 255)
        assert row[9:11].tolist() == [64, 191]


def test_as_stored_where_the_target_is_a_level(slides):
    with open_slide(slides["even"]) as reader:
        for mpp in (None, 0.5, 0.5001):
            assert np.array_equal(
                MppView(reader, mpp).read(Region(100, 90, 64, 48)), reader.read_region(Region(100, 90, 64, 48))
            )


@pytest.mark.parametrize(("mpp", "level"), [(0.3, 0), (0.5, 0), (0.98, 0), (0.995, 1), (1.9, 1), (2.0, 2), (40.0, 2)])
def test_the_coarsest_level_that_is_fine_enough(slides, mpp, level):
    with open_slide(slides["even"]) as reader:
        assert MppView(reader, mpp).level == level


def test_extent_covers_the_slide(slides):
    with open_slide(slides["even"]) as reader:
        view = MppView(reader, 1.0)
        assert (view.scale, view.width, view.height, view.mpp) == (2.0, 500, 351, 1.0)
        view = MppView(reader, None)
        assert (view.scale, view.width, view.height, view.mpp) == (1.0, 999, 701, 0.5)
        view = MppView(reader, 2000.0)
        assert (view.width, view.height) == (1, 1)


def test_outside_is_white(slides):
    with open_slide(slides["even"]) as reader:
        view = MppView(reader, 0.7)
        assert (view.read(Region(-60, -60, 50, 50)) == 255).all()
        assert (view.read(Region(view.width + 5, 0, 50, 50)) == 255).all()


def test_without_resolution_only_stored_pixels(tmp_path, picture):
    path = write_slide(tmp_path / "none.svs", picture, mpp=None, levels=1)
    with open_slide(path) as reader:
        assert MppView(reader, None).mpp is None
        with pytest.raises(ResolutionError, match="--slide-mpp"):
            MppView(reader, 1.0)


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_targets_that_make_no_sense(slides, mpp):
    with open_slide(slides["even"]) as reader, pytest.raises(ResolutionError, match=f"a target of {mpp} um per px"):
        MppView(reader, mpp)
