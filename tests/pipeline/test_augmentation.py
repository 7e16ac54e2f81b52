from __future__ import annotations

import numpy as np
import pytest

from wsipipe.pipeline.augmentation import Turn, draw_turn, jitter_colours, stacked


def test_the_eight_turns_are_all_different_and_all_drawn():
    window = np.arange(6).reshape(2, 3)
    turned = {Turn(k, m)(window).tobytes() + bytes(Turn(k, m)(window).shape) for k in range(4) for m in (False, True)}
    assert len(turned) == 8
    rng = np.random.default_rng(0)
    assert len({draw_turn(rng) for _ in range(200)}) == 8


@pytest.mark.parametrize("turn", [Turn(1), Turn(2, mirrored=True), Turn(3, mirrored=True)])
def test_planes_turn_alike_whatever_their_channels(turn):
    plane = np.arange(12).reshape(3, 4)
    stack = np.stack([plane, plane + 100])
    np.testing.assert_array_equal(turn(stack)[0], turn(plane))
    np.testing.assert_array_equal(turn(stack)[1], turn(plane) + 100)


def test_quarter_turn_by_hand():
    np.testing.assert_array_equal(Turn(1)(np.array([[1, 2], [3, 4]])), [[2, 4], [1, 3]])
    np.testing.assert_array_equal(Turn(1, mirrored=True)(np.array([[1, 2], [3, 4]])), [[4, 2], [3, 1]])


def test_colours_change_per_channel_and_stay_in_range():
    rng = np.random.default_rng(0)
    rgb = rng.random((3, 5, 6), np.float32)
    other = jitter_colours(rgb, rng)
    assert other.dtype == np.float32
    assert other.min() >= 0
    assert other.max() <= 1
    inner = (other > 0) & (other < 1)
    for channel in range(3):
        x, y = rgb[channel][inner[channel]], other[channel][inner[channel]]
        gain, offset = np.polyfit(x, y, 1)
        assert 0.84 < gain < 1.16
        assert abs(offset) < 0.06
        np.testing.assert_allclose(y, gain * x + offset, atol=1e-5)
    assert not np.allclose(other, rgb, atol=1e-3)


def test_stacking_fills_smaller_windows():
    small, large = np.array([[1, 2]]), np.array([[5, 6, 7], [8, 9, 10]])
    np.testing.assert_array_equal(stacked([small, large], fill=-1)[0], [[1, 2, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(stacked([small, large], fill=None)[0], [[1, 2, 2], [1, 2, 2]])
    np.testing.assert_array_equal(stacked([small, large], fill=None)[1], large)
