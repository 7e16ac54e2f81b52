"""Resampling on one global grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsipipe.slides.resample import linear_taps, resample

RATIOS = st.floats(0.2, 20, allow_nan=False)


@given(start=st.integers(-50, 50_000), count=st.integers(1, 40), ratio=RATIOS)
def test_weights_sum_to_one_and_centre_on_the_pixel(start, count, ratio):
    taps = linear_taps(start, count, ratio)
    assert taps.weight.min() >= 0
    assert np.allclose(taps.weight.sum(axis=1), 1, atol=1e-6)
    outside = np.abs(taps.index + 0.5 - (np.arange(start, start + count)[:, None] + 0.5) * ratio) >= max(ratio, 1)
    assert not taps.weight[outside].any()
    # Nothing that the filter sees is left out: the next px would have no weight that float32 holds beside the others.
    beyond = taps.index[:, [0, -1]] + (-0.5, 1.5) - (np.arange(start, start + count)[:, None] + 0.5) * ratio
    assert (1 - np.abs(beyond) / max(ratio, 1)).max() < 1e-9
    # Linear interpolation keeps a linear ramp: exactly so where the filter is one source px wide.
    centre = (taps.weight * (taps.index + 0.5)).sum(axis=1)
    slack = 1e-6 * abs(start + count) * ratio + (1e-5 if ratio <= 1 else 0.5 / ratio)
    assert np.abs(centre - (np.arange(start, start + count) + 0.5) * ratio).max() <= slack


@settings(max_examples=30, deadline=None)
@given(ratio=RATIOS, start=st.integers(-5, 300), cut=st.integers(1, 19))
def test_any_part_is_the_part_of_the_whole_to_the_last_bit(ratio, start, cut):
    rng = np.random.default_rng(start + 5)
    whole_rows, whole_cols = linear_taps(0, 7, ratio), linear_taps(start, 20, ratio)
    source = rng.integers(
        0, 256, (whole_rows.stop - whole_rows.start, whole_cols.stop - whole_cols.start, 3), dtype=np.uint8
    )
    whole = resample(source, whole_rows, whole_cols)
    part = linear_taps(start + cut, 20 - cut, ratio)
    view = source[:, part.start - whole_cols.start : part.stop - whole_cols.start]
    assert np.array_equal(resample(view, whole_rows, part), whole[:, cut:])


@pytest.mark.parametrize("ratio", [0.4, 0.75, 1.25, 2.0, 3.2])
def test_agrees_with_pillow_away_from_the_edge(picture, ratio):
    rows, cols = linear_taps(0, int(640 / ratio), ratio), linear_taps(0, int(960 / ratio), ratio)
    padded = np.pad(picture, ((-rows.start, 64), (-cols.start, 64), (0, 0)), mode="edge")
    ours = resample(padded[: rows.stop - rows.start, : cols.stop - cols.start], rows, cols)
    size = (ours.shape[1], ours.shape[0])
    box = (0, 0, size[0] * ratio, size[1] * ratio)
    theirs = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, box=box))
    # Pillow rounds to 8 bits between the two axes.
    assert np.abs(ours.astype(int) - theirs)[4:-4, 4:-4].max() <= 1


def test_bands_leave_no_trace(monkeypatch):
    rows, cols = linear_taps(2, 90, 3.3), linear_taps(5, 20, 3.3)
    shape = (rows.stop - rows.start, cols.stop - cols.start, 3)
    source = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    monkeypatch.setattr("wsipipe.slides.resample._BAND_PX", 10_000)
    whole = resample(source, rows, cols)
    monkeypatch.setattr("wsipipe.slides.resample._BAND_PX", 7)
    banded = resample(source, rows, cols)
    assert np.array_equal(banded, whole)
    assert banded.flags.c_contiguous


def test_a_constant_stays_itself():
    rows = cols = linear_taps(3, 11, 2.37)
    source = np.full((rows.stop - rows.start, cols.stop - cols.start, 3), 255, np.uint8)
    assert (resample(source, rows, cols) == 255).all()
