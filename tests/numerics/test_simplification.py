from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.ndimage
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import box

from wsipipe.errors import NumericsError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.polygons import outline_mask
from wsipipe.numerics.simplification import simplify_outlines

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda size: arrays(np.bool_, size))
CHECKERS = np.indices((6, 6)).sum(axis=0) % 2 == 0


def outlines(mask, cell_px=1.0):
    return outline_mask(np.asarray(mask, bool), CellGrid(*np.shape(mask), cell_px))


@settings(max_examples=100, deadline=None)
@given(mask=MASKS, tolerance=st.sampled_from([0.5, 1.0, 1.5, 4.0]))
@example(mask=CHECKERS, tolerance=4.0)
def test_polygons_stay_valid_apart_and_in_touch(mask, tolerance) -> None:
    exact = outlines(mask)
    simple = simplify_outlines(exact, tolerance)
    assert len(simple) == len(exact)
    assert all(polygon.is_valid and not polygon.is_empty for polygon in simple)
    assert [len(new.interiors) for new in simple] == [len(old.interiors) for old in exact]
    for (old, new), (other, next_new) in itertools.combinations(zip(exact, simple, strict=True), 2):
        assert new.intersection(next_new).area == pytest.approx(0, abs=1e-9)
        assert new.touches(next_new) == old.touches(other)


def test_stairs_become_slopes_and_little_area_is_lost() -> None:
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(200, 300)), 6)
    exact = outlines(noise > 0, 8.0)
    simple = simplify_outlines(exact, 8.0)
    assert shapely.get_num_coordinates(simple).sum() < 0.6 * shapely.get_num_coordinates(exact).sum()
    assert shapely.area(simple).sum() == pytest.approx(shapely.area(exact).sum(), rel=0.01)
    moved = [old.hausdorff_distance(new) for old, new in zip(exact, simple, strict=True)]
    assert max(moved) < 3 * 8.0


def test_no_tolerance_changes_nothing() -> None:
    exact = outlines(CHECKERS)
    assert simplify_outlines(exact, 0) == exact
    assert simplify_outlines([], 2.0) == []


def test_impossible_requests_are_told() -> None:
    with pytest.raises(NumericsError, match="not negative, got -1 px"):
        simplify_outlines([box(0, 0, 1, 1)], -1)
