import numpy as np
import pytest
from scipy import ndimage

from wsipipe.numerics.components import Components, label_components


def masks():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 40), (40, 1), (37, 53), (64, 64), (150, 23)):
        for density in (0.0, 0.3, 0.6, 0.95, 1.0):
            yield rng.random(shape) < density
    spiral = np.zeros((9, 9), bool)
    spiral[0], spiral[:, 8], spiral[8], spiral[2:, 0], spiral[2, :7] = True, True, True, True, True
    yield spiral
    yield np.indices((8, 8)).sum(axis=0) % 2 == 0  # a chessboard: diagonals do not join


@pytest.mark.parametrize("mask", list(masks()), ids=lambda mask: f"{mask.shape}-{mask.mean():.2f}")
def test_labels_are_those_of_the_plain_scan(mask):
    expected, count = ndimage.label(mask)
    labels, found = label_components(mask)
    assert found == count
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("mask", list(masks()), ids=lambda mask: f"{mask.shape}-{mask.mean():.2f}")
def test_sizes_and_counts_are_those_of_the_labels(mask):
    part = mask & (np.random.default_rng(1).random(mask.shape) < 0.4)
    labels, count = ndimage.label(mask)
    components = Components(mask)
    np.testing.assert_array_equal(components.sizes(), np.bincount(labels.ravel(), minlength=count + 1)[1:])
    np.testing.assert_array_equal(components.counts(part), np.bincount(labels[part], minlength=count + 1)[1:])


def test_some_components_are_painted():
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    painted = Components(mask).painted(np.array([True, False, True]))
    np.testing.assert_array_equal(painted, [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])


def test_a_mask_that_is_a_view_of_another_is_taken_as_it_is():
    mask = np.random.default_rng(2).random((30, 40)) < 0.6
    np.testing.assert_array_equal(label_components(mask.T[::2])[0], ndimage.label(mask.T[::2])[0])
