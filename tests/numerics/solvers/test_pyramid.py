from __future__ import annotations

import numpy as np
import pytest

from wsipipe.numerics.solvers.problem import Problem, Solution
from wsipipe.numerics.solvers.pyramid import doubled, half_map, halved


def test_halves_by_means():
    z = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = z.reshape(2, 2, 3, 2).mean((1, 3))
    np.testing.assert_array_equal(half_map(z), expected)


@pytest.mark.parametrize(("shape", "half"), [((5, 3), (3, 2)), ((1, 4), (1, 2)), ((1, 1), (1, 1))])
def test_odd_rows_and_columns_are_kept(shape, half):
    z = np.random.default_rng(0).random(shape).astype(np.float32)
    out = half_map(z)
    assert out.shape == half
    assert out[-1, -1] == pytest.approx(z[2 * (half[0] - 1) :, 2 * (half[1] - 1) :].mean())


def test_a_coarse_cell_holds_the_mean_of_its_valid_cells():
    z = np.array([[1, 9, 5, 9], [3, 9, 9, 9]], np.float32)
    valid = np.array([[True, False, True, False], [True, False, False, False]])
    coarse = halved(Problem(z, np.full_like(z, 0.5), 2.0, "crofton", valid))
    np.testing.assert_array_equal(coarse.z, [[2, 5]])
    np.testing.assert_array_equal(coarse.g, [[0.5, 0.5]])
    assert coarse.lam == 4
    nothing = halved(Problem(z, np.ones_like(z), 2.0, "crofton", np.zeros_like(valid)))
    assert not nothing.valid.any()
    assert np.all(nothing.g == 1)


def test_a_fine_start_repeats_the_coarse_solution_inside_the_valid_cells():
    valid = np.ones((3, 5), bool)
    valid[0, 0] = False
    fine = Problem(np.zeros((3, 5), np.float32), np.ones((3, 5), np.float32), 1.0, "isotropic", valid)
    u = np.array([[1, 0.5, 0], [0.25, 0, 1]], np.float32)
    start = doubled(Solution(u, np.stack([u, -u]), 0.8, 0.1, 0.0, 0.0, 10, "converged"), fine, fixed=None)
    np.testing.assert_array_equal(start.u, [[0, 1, 0.5, 0.5, 0], [1, 1, 0.5, 0.5, 0], [0.25, 0.25, 0, 0, 1]])
    assert start.dual.shape == (2, 3, 5)
    assert (start.c1, start.c2) == (0.8, 0.1)
