from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsipipe.errors import NumericsError
from wsipipe.store.pyramid import Spill, cut_tiles, halve, level_shapes, regroup

PICTURES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(), (3,)])).flatmap(
    lambda size: arrays(np.uint8, (size[0], size[1], *size[2]))
)


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ((256, 256), [(256, 256)]),
        ((257, 1), [(257, 1), (129, 1)]),
        ((1000, 513), [(1000, 513), (500, 257), (250, 129)]),
        ((1, 1), [(1, 1)]),
    ],
)
def test_levels_halve_down_to_one_tile(size: tuple[int, int], shapes: list[tuple[int, int]]) -> None:
    assert level_shapes(*size, 256) == shapes


@given(PICTURES)
def test_the_mean_is_that_of_the_pixels_there_are(picture: np.ndarray) -> None:
    half = halve(picture, "mean")
    assert half.shape[:2] == (-(-picture.shape[0] // 2), -(-picture.shape[1] // 2))
    for row, col in np.ndindex(half.shape[:2]):
        block = picture[2 * row : 2 * row + 2, 2 * col : 2 * col + 2].astype(float)
        np.testing.assert_array_equal(half[row, col], np.floor(block.mean(axis=(0, 1)) + 0.5))


@given(PICTURES)
def test_nearest_takes_the_top_left_pixel(picture: np.ndarray) -> None:
    half = halve(picture, "nearest")
    for row, col in np.ndindex(half.shape[:2]):
        np.testing.assert_array_equal(half[row, col], picture[2 * row, 2 * col])


@given(PICTURES, st.lists(st.integers(0, 9), max_size=4), st.integers(1, 6))
def test_bands_of_any_height_become_bands_of_one(picture: np.ndarray, cuts: list[int], rows: int) -> None:
    bands = np.split(picture, sorted(min(cut, len(picture)) for cut in cuts))
    made = list(regroup(bands, shape=picture.shape[:2], channels=picture.shape[2:], rows=rows))
    assert all(len(band) == rows for band in made[:-1])
    np.testing.assert_array_equal(np.concatenate(made), picture)


@pytest.mark.parametrize(
    ("bands", "problem"),
    [
        ([np.zeros((4, 5), np.uint8)], r"a band is \(h, \(4,\)\) uint8, got \(4, 5\)"),
        ([np.zeros((4, 4))], "uint8, got .* float64"),
        ([np.zeros((4, 4, 3), np.uint8)], r"got \(4, 4, 3\)"),
        ([np.zeros((3, 4), np.uint8)], "the bands hold 3 rows of 4"),
        ([np.zeros((3, 4), np.uint8)] * 2, "the bands hold 6 rows of 4"),
        ([], "the bands hold 0 rows of 4"),
    ],
)
def test_bands_that_do_not_fit_are_told(bands: list[np.ndarray], problem: str) -> None:
    with pytest.raises(NumericsError, match=problem):
        list(regroup(bands, shape=(4, 4), channels=(), rows=2))


def test_tiles_are_filled_up_with_their_edge() -> None:
    band = np.arange(15, dtype=np.uint8).reshape(3, 5)
    first, second = cut_tiles([band], 4)
    np.testing.assert_array_equal(first, band[[0, 1, 2, 2], :4])
    np.testing.assert_array_equal(second, np.repeat(band[[0, 1, 2, 2], 4:], 4, axis=1))


def test_spilled_rows_come_back_at_half_the_size_and_leave_no_file(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (22, 7), dtype=np.uint8)
    with Spill(tmp_path) as spill:
        passed = list(spill.tee(np.split(picture, [8, 16]), "mean"))
        back = list(spill.bands(shape=(11, 4), channels=(), rows=4))
        again = list(spill.bands(shape=(11, 4), channels=(), rows=11))
        assert not any(tmp_path.iterdir())
    np.testing.assert_array_equal(np.concatenate(passed), picture)
    assert [len(band) for band in back] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(back), halve(picture, "mean"))
    np.testing.assert_array_equal(again[0], halve(picture, "mean"))
