from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from wsipipe.errors import NumericsError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.polygons import outline_mask, rasterize
from wsipipe.numerics.region_means import region_means

MASKS = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(lambda size: arrays(np.bool_, size))


def in_bands(mask: NDArray[np.bool_], values: NDArray[np.uint8], cuts: list[int]):
    at = sorted({cut for cut in cuts if 0 < cut < len(mask)})
    return zip(np.split(mask, at), np.split(values, at), strict=True)


@settings(max_examples=150, deadline=None)
@given(mask=MASKS, cuts=st.lists(st.integers(1, 13), max_size=5), seed=st.integers(0, 9))
def test_bands_give_the_means_of_the_whole_in_the_order_of_the_outlines(mask, cuts, seed) -> None:
    values = np.random.default_rng(seed).integers(0, 256, mask.shape).astype(np.uint8)
    means, pixels = region_means(in_bands(mask, values, cuts))
    labels, count = scipy.ndimage.label(mask)
    index = np.arange(1, count + 1)
    assert pixels.tolist() == [int((labels == i).sum()) for i in index]
    if count:
        np.testing.assert_allclose(means, scipy.ndimage.mean(values, labels, index), rtol=1e-12)
    grid = CellGrid(*mask.shape, 1.0)
    for polygon, mean, size in zip(outline_mask(mask, grid), means, pixels, strict=True):
        inside = rasterize([polygon], grid)
        assert inside.sum() == size
        assert values[inside].mean() == pytest.approx(mean, rel=1e-12)


def test_nothing_has_no_means() -> None:
    for bands in ([], [(np.zeros((3, 4), bool), np.ones((3, 4)))]):
        means, pixels = region_means(bands)
        assert (means.shape, pixels.shape) == ((0,), (0,))


@pytest.mark.parametrize("second", [(np.ones((2, 3)), np.ones((2, 4))), (np.ones((2, 5)), np.ones((2, 5)))])
def test_bands_that_do_not_fit_are_told(second) -> None:
    with pytest.raises(NumericsError, match="does not fit"):
        region_means([(np.ones((2, 4)), np.ones((2, 4))), second])
