from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from slidemaker import tissue_picture, write_slide
from wsipipe.pipeline.sources import image_source, region_picture
from wsipipe.slides import SlideEntry, open_slide


def means(picture, step):
    """Whole-area means of squares of `step` px."""
    height, width = (side // step * step for side in picture.shape[:2])
    return picture[:height, :width].reshape(height // step, step, width // step, step, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("mpp", [0.5, None])
def test_picture_of_a_region_is_the_same_with_and_without_resolution(tmp_path, mpp):
    image = tissue_picture()
    vendor = "generic" if mpp is None else "aperio"
    path = write_slide(tmp_path / "s.tif", image, mpp=mpp, vendor=vendor, compression=None)
    with open_slide(path) as slide:
        assert slide.mpp == mpp
        shown = region_picture(slide, (200.0, 160.0, 640.0, 480.0), long_side_px=160)
    assert shown.shape == (120, 160, 3)
    assert np.abs(shown - means(image[160:640, 200:840], 4)).mean() < 2


def test_picture_reads_the_level_that_suffices(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "s.tif", tissue_picture(), mpp=None, vendor="generic", compression=None)
    levels = []
    with open_slide(path) as slide:
        read = type(slide).read_region
        monkeypatch.setattr(
            type(slide),
            "read_region",
            lambda self, region, level, out=None: levels.append(level) or read(self, region, level, out),
        )
        region_picture(slide, (0.0, 0.0, 1024.0, 768.0), long_side_px=256)
    assert set(levels) == {2}


def test_small_image_is_shown_as_it_is_and_a_large_one_reduced(tmp_path):
    row, col = np.mgrid[:40, :60]
    image = np.stack([4 * row, 4 * col, 2 * (row + col)], axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "i.png")
    source = image_source(SlideEntry("i", tmp_path / "i.png"), None, reader="auto")
    window = slice(4, 36), slice(10, 58)
    np.testing.assert_array_equal(source.picture(*window, long_side_px=100), image[4:36, 10:58])
    shown = source.picture(slice(0, 40), slice(0, 60), long_side_px=30)
    assert shown.shape == (20, 30, 3)
    # The outermost px mix with the white around the image.
    assert np.abs(shown - means(image, 2))[1:-1, 1:-1].max() < 1
