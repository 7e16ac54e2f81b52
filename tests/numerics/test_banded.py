from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wsipipe.numerics.banded import Bands, solve_large
from wsipipe.numerics.variational import solve_cvm

SMALL = Bands(cells=120 * 90, overlap=24)


@pytest.fixture
def noisy():
    """A contrast map of 300 x 120 cells whose lower half holds far less of the target."""
    rng = np.random.default_rng(0)
    shape = (300, 120)
    level = gaussian_filter(rng.normal(size=shape), 6)
    truth = level / level.std() > np.linspace(-1, 1.5, 300)[:, None]
    z = np.clip(0.25 + 0.5 * truth + 0.2 * rng.normal(size=shape), 0, 1).astype(np.float32)
    valid = np.ones(shape, bool)
    valid[:, :15] = valid[130:160] = False
    z[~valid] = 0
    return z, valid


def test_bands_partition_the_rows_and_overlap():
    rows = np.zeros(300, int)
    for core, band in SMALL.of((300, 120)):
        rows[core] += 1
        assert band.start == max(0, core.start - 24)
        assert band.stop == min(300, core.stop + 24)
        assert (band.stop - band.start) * 120 <= SMALL.cells
    assert (rows == 1).all()


def test_small_maps_are_solved_whole(noisy):
    z, valid = noisy
    u, status = solve_large(z, valid=valid, tol=1e-4)
    expected = solve_cvm(z[None], valid=valid, tol=1e-4)
    np.testing.assert_array_equal(u, expected.u[0])
    assert status == expected.status[0]


@pytest.mark.parametrize("means", [None, (0.8, 0.3)])
def test_bands_agree_with_the_undivided_map(noisy, means):
    z, valid = noisy
    u, status = solve_large(z, valid=valid, means=means, tol=1e-4, bands=SMALL)
    expected = solve_cvm(z[None], valid=valid, means=means, tol=1e-4).u[0]
    assert status == "converged"
    assert ((u > 0.5) != (expected > 0.5))[valid].mean() < 1e-3
    assert not u[~valid].any()


def test_bands_with_means_of_their_own_would_be_wrong(noisy):
    z, valid = noisy
    expected = solve_cvm(z[None], valid=valid, tol=1e-4).u[0] > 0.5
    alone = np.concatenate([solve_cvm(z[None, c], valid=valid[c], tol=1e-4).u[0] for c, _ in SMALL.of(z.shape)]) > 0.5
    assert (alone != expected)[valid].mean() > 3e-3


def test_constant_maps_are_told(noisy):
    valid = noisy[1]
    u, status = solve_large(np.where(valid, np.float32(0.5), 0), valid=valid, bands=SMALL)
    assert status == "constant"
    assert not u.any()


@pytest.mark.parametrize(("means", "status"), [((9.0, 0.5), "empty"), ((0.5, -9.0), "full")])
def test_maps_all_on_one_side_are_told(noisy, means, status):
    z, valid = noisy
    u, found = solve_large(z, valid=valid, means=means, bands=SMALL)
    assert u[valid].min() == u[valid].max() == (status == "full")
    assert found == status
