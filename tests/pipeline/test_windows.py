from __future__ import annotations

import numpy as np
import pytest

from wsipipe.pipeline.windows import place_windows


def covered(places, cells):
    return np.array([[r.start <= y < r.stop and c.start <= x < c.stop for y, x in cells] for r, c in places])


def test_small_map_is_one_window():
    places = place_windows(np.array([[1, 1], [8, 3]]), np.array([0, 1]), (9, 5), window=16)
    assert places == [(slice(0, 9), slice(0, 5))]


def test_points_are_in_the_middle_of_their_window():
    cells, label = np.array([[50, 60], [54, 70]]), np.array([0, 1])
    assert place_windows(cells, label, (200, 200), window=32) == [(slice(36, 68), slice(49, 81))]


def test_windows_stay_within_the_map():
    cells, label = np.array([[0, 0], [99, 149]]), np.array([0, 1])
    for rows, cols in place_windows(cells, label, (100, 150), window=32):
        assert (rows.stop - rows.start, cols.stop - cols.start) == (32, 32)
        assert 0 <= rows.start < rows.stop <= 100
        assert 0 <= cols.start < cols.stop <= 150


def test_narrow_map_gives_narrow_windows():
    places = place_windows(np.array([[3, 10], [3, 90]]), np.array([0, 1]), (7, 100), window=32)
    assert [(rows, cols.stop - cols.start) for rows, cols in places] == [(slice(0, 7), 32)] * 2


def test_a_point_between_two_clusters_joins_the_one_of_the_other_class():
    cells = np.array([[100, 100], [100, 125], [100, 75], [100, 76], [100, 77]])
    label = np.array([1, 0, 1, 1, 1])  # left of the first point there are more, but of its own class
    first = covered(place_windows(cells, label, (200, 200), window=30)[:1], cells)[0]
    assert first.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("seed", range(5))
def test_every_point_is_covered_and_classes_meet_where_they_can(seed):
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, [300, 400], size=(60, 2))
    label = rng.integers(0, 2, size=60)
    places = place_windows(cells, label, (300, 400), window=64)
    inside = covered(places, cells)
    assert inside.any(axis=0).all()
    assert len(places) <= 30
    mixed = [len(set(label[row])) == 2 for row in inside]
    # A window of one class is the last resort: none of its points has the other class within reach of a window.
    for row, is_mixed in zip(inside, mixed, strict=True):
        only_here = row & (inside.sum(axis=0) == 1)
        if not is_mixed and only_here.any():
            own = label[row][0]
            others = cells[label != own]
            for cell in cells[only_here]:
                assert np.abs(others - cell).max(axis=1).min() >= 31


def test_same_points_give_the_same_windows():
    rng = np.random.default_rng(7)
    cells, label = rng.integers(0, 500, size=(40, 2)), rng.integers(0, 2, size=40)
    assert place_windows(cells, label, (500, 500), window=64) == place_windows(cells, label, (500, 500), window=64)


def test_a_window_of_more_classes_comes_first():
    cells = np.array([[10, 10], [10, 15], [10, 20], [100, 100], [100, 105], [101, 101], [102, 102], [103, 103]])
    label = np.array([0, 1, 2, 0, 1, 0, 0, 0])
    places = place_windows(cells, label, (200, 200), window=32)
    assert covered(places[:1], cells)[0].tolist() == [True] * 3 + [False] * 5
    assert covered(places, cells).any(axis=0).all()
