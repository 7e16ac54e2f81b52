"""Samples of any kind become RGB on white."""

from __future__ import annotations

import numpy as np
import pytest

from wsipipe.slides.pixels import to_rgb, white


def test_rgb_comes_back_as_it_is():
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    rgb.flags.writeable = False
    copy = to_rgb(rgb)
    assert np.array_equal(copy, rgb)
    assert copy.flags.writeable
    assert copy.flags.c_contiguous


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
def test_grey_fills_three_channels(shape):
    grey = np.arange(35, dtype=np.uint8).reshape(shape)
    rgb = to_rgb(grey)
    assert rgb.shape == (5, 7, 3)
    assert all(np.array_equal(rgb[..., channel], grey.reshape(5, 7)) for channel in range(3))


def test_sixteen_bits_span_the_same_range():
    grey = np.array([[0, 128, 129, 32768, 65535]], np.uint16)
    assert to_rgb(grey)[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_bilevel_is_black_and_white():
    assert to_rgb(np.array([[True, False]]))[0, :, 1].tolist() == [255, 0]


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_parts_are_white(channels):
    pixels = np.zeros((1, 3, channels), np.uint8)
    pixels[..., :-1] = 100
    pixels[0, :, -1] = [0, 128, 255]
    # 100 * 128/255 + 255 * 127/255 = 177.2
    assert to_rgb(pixels)[0, :, 0].tolist() == [255, 177, 100]


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 5), np.uint8), np.zeros((2, 2), np.float32)])
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(ValueError, match=r"5 channels|float32 samples"):
        to_rgb(pixels)


def test_white_is_white():
    assert white(2, 3).tolist() == [[[255, 255, 255]] * 3] * 2
