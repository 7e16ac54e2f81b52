"""Areas that blocks draw: as the plain way has it, the same for whatever bands, as wide as what is assumed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from wsipipe.numerics.area_interval import area_interval

RASTER = np.random.default_rng(0).integers(0, 256, (70, 90)).astype(np.uint8)


def plain(raster, block, shift, draws, seed=0):
    """Every draw thresholds every block of the raster; numbers are drawn in the same order."""
    rng = np.random.default_rng(seed)
    shifts = rng.normal(0.0, shift, (draws, 1))[:, 0] if shift > 0 else np.zeros(draws)
    total = np.zeros(draws)
    for top in range(0, raster.shape[0], block):
        parts = [raster[top : top + block, left : left + block] for left in range(0, raster.shape[1], block)]
        parts = [part for part in parts if part.any()]
        numbers = rng.random((draws, len(parts)))
        for draw in range(draws):
            for part, number in zip(parts, numbers[draw], strict=True):
                total[draw] += (part / 255 > expit(logit(number) - shifts[draw])).sum()
    return np.quantile(total, (0.025, 0.975))


def bands_of(raster, height):
    return (raster[start : start + height] for start in range(0, len(raster), height))


@pytest.mark.parametrize(("block", "shift"), [(20, 0.0), (32, 0.7), (100, 0.3)])
def test_counting_draws_what_thresholding_draws(block, shift):
    raster = RASTER.copy()
    raster[:32, :40] = 0
    found = area_interval(iter([raster]), block_px=block, shift=shift, draws=40)
    np.testing.assert_allclose((found.low, found.high), plain(raster, block, shift, 40), rtol=1e-9)
    assert found.expected == pytest.approx(raster.sum() / 255)


@pytest.mark.parametrize("height", [1, 7, 32, 70])
def test_bands_do_not_matter(height):
    whole = area_interval(iter([RASTER]), block_px=16, shift=0.5)
    assert area_interval(bands_of(RASTER, height), block_px=16, shift=0.5) == whole


def test_sure_pixels_have_one_area():
    raster = np.where(RASTER > 128, 255, 0).astype(np.uint8)
    found = area_interval(iter([raster]), block_px=16, shift=2.0)
    assert found.low == found.high == found.expected == (raster > 0).sum()


def test_larger_blocks_and_shifts_widen_the_interval():
    def width(block, shift):
        found = area_interval(iter([RASTER]), block_px=block, shift=shift)
        assert found.low < found.expected < found.high
        return found.high - found.low

    assert width(4, 0.0) < 0.5 * width(16, 0.0) < 0.5 * width(64, 0.0)
    assert width(4, 0.0) < 0.3 * width(4, 1.0)


def test_drawn_areas_cover_areas_that_are_drawn_as_assumed():
    """Blocks of one even number each: the interval holds the area in 95 of 100 cases, within chance."""
    rng = np.random.default_rng(1)
    found = area_interval(iter([RASTER]), block_px=20, shift=0.0)
    areas = [
        sum(
            (RASTER[i : i + 20, j : j + 20] / 255 > rng.random()).sum()
            for i in range(0, 70, 20)
            for j in range(0, 90, 20)
        )
        for _ in range(1000)
    ]
    assert 0.92 < np.mean([found.low <= area <= found.high for area in areas]) < 0.98


def test_nothing_has_no_area():
    found = area_interval(iter([np.zeros((5, 8), np.uint8)]), block_px=4, shift=1.0)
    assert (found.low, found.expected, found.high) == (0, 0, 0)
