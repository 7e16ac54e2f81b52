"""Operator splitting: its systems are solved exactly, it descends, and it comes near what the primal-dual finds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.linalg import solve_banded
from scipy.ndimage import gaussian_filter

from wsipipe.errors import NumericsError
from wsipipe.numerics import energy
from wsipipe.numerics.solvers import aos, reference
from wsipipe.numerics.solvers.problem import Limits, Problem, Start

LIMITS = Limits(tol=1e-4, max_iter=1000)


def case(shape=(60, 43), *, seed=0, lam=3.0, noise=0.25, masked=False, extra=0.0):
    """A noisy contrast map as a problem, with its threshold as the start."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=shape), 4) > 0
    valid = gaussian_filter(rng.normal(size=shape), 3) > -0.1 if masked else None
    z = np.clip(0.2 + 0.5 * truth + noise * rng.normal(size=shape), 0, 1).astype(np.float32)
    z = z if valid is None else np.where(valid, z, np.float32(0))
    pull = extra * np.linspace(0, 1, shape[1], dtype=np.float32)[None, :] * np.ones(shape, np.float32)
    problem = Problem(
        z=z,
        g=aos.edge_weights(z, beta=10.0, valid=valid),
        lam=lam,
        neighbourhood="isotropic",
        valid=valid,
        extra=None if not extra else pull if valid is None else np.where(valid, pull, np.float32(0)),
    )
    u = (z > 0.45).astype(np.float32)
    return problem, Start(u, *energy.region_means(z, u, valid))


def optimum(problem, solution, max_iter=3000):
    """Best segmentation for the means that a solution ended with."""
    start = Start(solution.u, solution.c1, solution.c2)
    return reference.solve(problem, start, Limits(tol=1e-4, max_iter=max_iter, fixed_means=True))


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (37, 5), (5, 37)])
def test_lines_are_solved_as_by_a_banded_solver(shape):
    rng = np.random.default_rng(0)
    weight, side = rng.random(shape), rng.normal(size=shape)
    weight[-1] = 0
    weight[rng.random(shape) < 0.2] = 0  # broken lines, as at cells that are not valid
    factor = 2.5
    x = side.astype(np.float32)
    aos.solve_lines(weight.astype(np.float32), x, np.zeros(shape, np.float32), np.float32(factor))
    for k in range(shape[1]):
        below = factor * weight[:, k]
        above = np.concatenate([[0], below[:-1]])
        bands = np.array([-above, 1 + above + below, -below])  # row i of scipy's bands holds a[i - shift, i]
        bands[0, 1:], bands[2, :-1] = -below[:-1], -below[:-1]
        np.testing.assert_allclose(x[:, k], solve_banded((1, 1), bands, side[:, k]), atol=1e-5)


def test_rows_and_columns_are_split_alike():
    """On a map that is its own transpose, so is every step."""
    z = np.random.default_rng(0).random((40, 40)).astype(np.float32)
    z = (z + z.T) / 2
    problem = Problem(z, aos.edge_weights(z, beta=10.0, valid=None), 3.0, "isotropic")
    solution = aos.solve(problem, Start((z > 0.5).astype(np.float32), 0.7, 0.3), Limits(tol=1e-4, max_iter=25))
    np.testing.assert_allclose(solution.u, solution.u.T, atol=1e-5)
    assert 0.01 < solution.u.mean() < 0.99


@pytest.mark.parametrize(("masked", "extra"), [(False, 0.0), (True, 0.0), (False, 0.3), (True, 0.3)])
def test_comes_within_2_percent_of_the_optimum(masked, extra):
    problem, start = case(masked=masked, extra=extra)
    solution = aos.solve(problem, start, LIMITS)
    best = optimum(problem, solution)
    assert solution.status == "converged"
    assert best.energy * 0.9999 <= solution.energy < 1.02 * best.energy
    count = problem.z.size if problem.valid is None else problem.valid.sum()
    assert ((solution.u > 0.5) != (best.u > 0.5)).sum() / count < 0.03


@pytest.mark.parametrize(("masked", "extra"), [(False, 0.0), (True, 0.3)])
def test_the_certificate_is_true_and_not_far_too_large(masked, extra):
    """Energy and gap, computed anew by the referee, are those reported; the gap bounds the true distance."""
    problem, start = case(masked=masked, extra=extra)
    solution = aos.solve(problem, start, dataclasses.replace(LIMITS, keep_dual=True))
    of = {"c1": solution.c1, "c2": solution.c2, "lam": problem.lam, "valid": problem.valid, "extra": problem.extra}
    kind = {"neighbourhood": "isotropic"}
    f = energy.force(problem.z, **of)
    dual = energy.feasible(solution.dual, problem.g, valid=problem.valid, **kind)
    np.testing.assert_allclose(solution.dual, dual, atol=1e-6)
    primal = energy.primal_value(solution.u, problem.g, f, valid=problem.valid, **kind)
    gap = energy.relative_gap(primal, energy.dual_value(dual, f, **kind), f)
    assert solution.gap == pytest.approx(gap, abs=1e-6)
    assert solution.energy == pytest.approx(energy.energy(problem.z, solution.u, problem.g, **of, **kind), rel=1e-6)
    distance = (solution.energy - optimum(problem, solution).energy) / np.abs(f).sum()
    assert -1e-4 < distance < solution.gap < 0.02


def test_the_energy_falls():
    """From the threshold, for means held fixed."""
    problem, start = case()
    energies = [aos.solve(problem, start, Limits(1e-6, n, fixed_means=True)).energy for n in (1, 5, 20, 80, 320)]
    assert (np.diff(energies) < 0).all()


def test_means_are_those_of_the_segmentation():
    problem, start = case(masked=True)
    solution = aos.solve(problem, start, LIMITS)
    assert (solution.c1, solution.c2) == pytest.approx(
        energy.region_means(problem.z, solution.u, problem.valid), abs=2e-4
    )
    fixed = aos.solve(problem, start, dataclasses.replace(LIMITS, fixed_means=True))
    assert (fixed.c1, fixed.c2) == (start.c1, start.c2)


def test_the_extra_force_pushes_out():
    with_extra, start = case(extra=2.0)
    without = dataclasses.replace(with_extra, extra=None)
    far = slice(30, None)
    drawn, free = (aos.solve(problem, start, LIMITS).u[:, far].mean() for problem in (with_extra, without))
    assert drawn < 0.2 * free


def test_cells_that_are_not_valid_do_not_matter():
    problem, start = case(masked=True)
    other = np.where(problem.valid, problem.g, np.float32(0.3))
    first, second = (aos.solve(dataclasses.replace(problem, g=g), start, LIMITS) for g in (problem.g, other))
    np.testing.assert_array_equal(first.u, second.u)
    assert not first.u[~problem.valid].any()
    assert first.gap == second.gap


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (17, 70), (33, 2)])
def test_maps_of_any_shape(shape):
    problem, start = case(shape, noise=0.1)
    solution = aos.solve(problem, start, LIMITS)
    assert np.isfinite(solution.u).all()
    assert solution.u.shape == shape
    assert solution.gap < 0.05


def test_a_transposed_map_gives_almost_the_transposed_result():
    """Rows and columns are split alike; forward differences favour one diagonal only by their direction."""
    problem, start = case((60, 60))
    turned = dataclasses.replace(problem, z=problem.z.T.copy(), g=problem.g.T.copy())
    there = aos.solve(turned, dataclasses.replace(start, u=start.u.T.copy()), LIMITS)
    np.testing.assert_allclose(there.u.T, aos.solve(problem, start, LIMITS).u, atol=1e-3)


def test_a_constant_map_stays_finite():
    z = np.full((20, 30), 0.4, np.float32)
    problem = Problem(z, np.ones_like(z), 5.0, "isotropic")
    solution = aos.solve(problem, Start(np.zeros_like(z), 0.4, 0.4), LIMITS)
    assert solution.status == "empty"
    assert (solution.gap, solution.energy) == (0, 0)
    assert not solution.u.any()


@pytest.mark.parametrize(("means", "status"), [((9.0, 0.5), "empty"), ((0.5, -9.0), "full")])
def test_one_side_alone_is_told(means, status):
    problem, start = case()
    start = dataclasses.replace(start, c1=means[0], c2=means[1])
    assert aos.solve(problem, start, dataclasses.replace(LIMITS, fixed_means=True)).status == status


def test_too_few_steps_are_told():
    problem, start = case()
    solution = aos.solve(problem, start, Limits(tol=1e-4, max_iter=3))
    assert (solution.status, solution.iterations) == ("capped", 3)


def test_eight_neighbours_are_refused():
    problem, start = case((4, 4))
    with pytest.raises(NumericsError, match=r"rows and columns.*crofton.*isotropic"):
        aos.solve(dataclasses.replace(problem, neighbourhood="crofton"), start, LIMITS)


def test_nothing_is_mutated():
    problem, start = case(masked=True, extra=0.5)
    before = [np.array(a) for a in (problem.z, problem.g, problem.valid, problem.extra, start.u)]
    aos.solve(problem, start, LIMITS)
    for was, now in zip(before, (problem.z, problem.g, problem.valid, problem.extra, start.u), strict=True):
        np.testing.assert_array_equal(was, now)
