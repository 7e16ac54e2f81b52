from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.errors import NumericsError
from wsipipe.numerics.class_shares import class_shares


@pytest.mark.parametrize(
    ("u", "expected"),
    [
        ((1, 0, 0), (1, 0, 0)),  # claimed by one
        ((1, 1, 0), (1 / 2, 1 / 2, 0)),  # shared
        ((0, 0, 0), (1 / 3, 1 / 3, 1 / 3)),  # anybody's
        ((0.4, 0, 0), (0.6, 0.2, 0.2)),  # what is not claimed is spread evenly
        ((0.5, 0.3, 0.2), (0.5, 0.3, 0.2)),
        ((1, 0.5, 0.5), (0.5, 0.25, 0.25)),
    ],
)
def test_shares_by_hand(u, expected):
    shares = class_shares(np.array(u, np.float32).reshape(3, 1, 1))
    np.testing.assert_allclose(shares[:, 0, 0], expected, rtol=1e-6)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_shares_are_a_distribution_that_keeps_the_order(count, seed):
    u = np.random.default_rng(seed).random((count, 3, 4), np.float32)
    before = u.copy()
    shares = class_shares(u)
    np.testing.assert_array_equal(u, before)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-6)
    assert shares.min() >= 0
    np.testing.assert_array_equal(shares.argmax(axis=0), u.argmax(axis=0))


def test_two_classes_that_complete_each_other_stay_as_they_are():
    u = np.random.default_rng(0).random((5, 6), np.float32)
    np.testing.assert_allclose(class_shares(np.stack([1 - u, u]))[1], u, atol=1e-6)


def test_cells_that_do_not_count_have_no_shares():
    valid = np.array([[True, False]])
    np.testing.assert_array_equal(class_shares(np.zeros((2, 1, 2), np.float32), valid)[:, 0], [[0.5, 0], [0.5, 0]])


@pytest.mark.parametrize("u", [np.zeros((1, 2, 2)), np.zeros((2, 2)), np.full((2, 2, 2), 1.5), np.full((2, 2, 2), -1)])
def test_what_is_no_segmentation_of_classes_is_refused(u):
    with pytest.raises(NumericsError, match="segmentations of classes"):
        class_shares(u.astype(np.float32))
