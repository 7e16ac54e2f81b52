"""Blending: a constant stays constant, no seams, bands add up to the map."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.errors import NumericsError
from wsipipe.numerics.blending import blend_windows, window_starts


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 20), st.data())
def test_windows_that_agree_blend_to_the_map_itself(rows, cols, window, data):
    overlap = data.draw(st.integers(0, window // 2))
    truth = np.random.default_rng(0).random((rows, cols), np.float32)
    bands = list(blend_windows((rows, cols), lambda r, c: truth[r, c], window=window, overlap=overlap))
    np.testing.assert_allclose(np.concatenate(bands), truth, rtol=1e-5)


def test_disagreeing_windows_change_gradually():
    """Two windows that say 0 and 1 meet in a ramp, not in a step."""
    row = next(blend_windows((8, 12), lambda r, c: np.full((8, 8), c.start > 0, np.float32), window=8, overlap=4))[0]
    assert row[0] == 0
    assert row[-1] == 1
    assert np.diff(row).max() < 0.3
    assert (np.diff(row) >= 0).all()


def test_skipped_windows_are_zero():
    bands = blend_windows((4, 8), lambda r, c: None if c.start else np.ones((4, 4), np.float32), window=4, overlap=0)
    np.testing.assert_array_equal(np.concatenate(list(bands)), [[1] * 4 + [0] * 4] * 4)


@given(st.integers(1, 500), st.integers(1, 64), st.data())
def test_starts_cover_everything(length, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] + window >= length
    assert all(0 < b - a <= window - overlap for a, b in itertools.pairwise(starts))


def test_an_overlap_as_wide_as_the_window_is_refused():
    with pytest.raises(NumericsError, match="windows of 8 cells cannot overlap by 8"):
        window_starts(100, 8, 8)


def test_channels_are_blended_each_alone():
    values = np.random.default_rng(0).random((2, 3, 20, 30), np.float32)

    def predict(rows, cols):
        kind = int(rows.start > 0)  # windows that disagree
        return None if cols.start == 0 else np.moveaxis(values[kind, :, rows, cols], 0, -1)

    def plane(k):
        return lambda rows, cols: None if (whole := predict(rows, cols)) is None else whole[..., k]

    together = blend_windows((20, 30), predict, window=12, overlap=5, channels=(3,))
    alone = [blend_windows((20, 30), plane(k), window=12, overlap=5) for k in range(3)]
    for band, *singles in zip(together, *alone, strict=True):
        np.testing.assert_array_equal(band, np.stack(singles, axis=-1))
