from __future__ import annotations

import math

import numpy as np
import pytest

from wsipipe.numerics import energy
from wsipipe.numerics.edges import edge_weights


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def case(rng):
    z, u = rng.random((7, 9)), rng.random((7, 9))
    return z, u, edge_weights(z, beta=10.0)


def crofton_by_hand(u, g, valid):
    """Loops over the cells and their four neighbours, as one would write it first."""
    rows, cols = u.shape
    total = 0.0
    for i in range(rows):
        for j in range(cols):
            for di, dj, weight in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.5**0.5), (1, -1, 0.5**0.5)):
                a, b = i + di, j + dj
                if a < rows and 0 <= b < cols and valid[i, j] and valid[a, b]:
                    total += math.pi / 8 * weight * (g[i, j] + g[a, b]) / 2 * abs(u[a, b] - u[i, j])
    return total


def isotropic_by_hand(u, g, valid):
    rows, cols = u.shape
    total = 0.0
    for i in range(rows):
        for j in range(cols):
            right = u[i, j + 1] - u[i, j] if j + 1 < cols and valid[i, j] and valid[i, j + 1] else 0.0
            below = u[i + 1, j] - u[i, j] if i + 1 < rows and valid[i, j] and valid[i + 1, j] else 0.0
            total += g[i, j] * math.hypot(right, below)
    return total


@pytest.mark.parametrize("masked", [False, True])
def test_lengths_are_the_sums_one_would_write(case, rng, masked):
    _, u, g = case
    valid = rng.random(u.shape) < 0.7 if masked else np.ones(u.shape, bool)
    assert energy.crofton_length(u, g, valid) == pytest.approx(crofton_by_hand(u, g, valid), rel=1e-12)
    assert energy.isotropic_length(u, g, valid) == pytest.approx(isotropic_by_hand(u, g, valid), rel=1e-12)


def test_crofton_measures_a_circle():
    y, x = np.mgrid[:401, :401]
    disc = ((y - 200) ** 2 + (x - 200) ** 2 < 150**2).astype(float)
    assert energy.crofton_length(disc, np.ones_like(disc)) == pytest.approx(2 * math.pi * 150, rel=0.01)


@pytest.mark.parametrize("slope", [0.0, 0.25, 0.5, 1.0])
def test_crofton_measures_straight_contours_in_all_directions(slope):
    y, x = np.mgrid[:300, :300]
    half = (y - 150 > slope * (x - 150)).astype(float)
    inner = slice(20, 280)
    ones = np.ones((300, 260))
    assert energy.crofton_length(half[:, inner], ones) == pytest.approx(260 * math.hypot(1, slope), rel=0.06)


def test_crofton_follows_flips_where_forward_differences_do_not(case):
    _, u, _ = case
    ones = np.ones_like(u)
    assert energy.crofton_length(u[:, ::-1], ones) == pytest.approx(energy.crofton_length(u, ones), rel=1e-12)
    assert abs(energy.isotropic_length(u[:, ::-1], ones) / energy.isotropic_length(u, ones) - 1) > 1e-3


@pytest.mark.parametrize("neighbourhood", ["crofton", "isotropic"])
def test_force_is_the_derivative_of_the_fitting_term(case, rng, neighbourhood):
    z, u, g = case
    step = rng.normal(size=u.shape)
    valid = rng.random(u.shape) < 0.8

    def at(t):
        moved = u + t * step
        kind = {"neighbourhood": neighbourhood, "valid": valid}
        return energy.energy(z, moved, g, c1=0.7, c2=0.2, lam=3.0, **kind) - energy.length(moved, g, **kind)

    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    f = energy.force(z, c1=0.7, c2=0.2, lam=3.0, valid=valid)
    assert slope == pytest.approx(float(np.sum(f * step)), rel=1e-8)


def test_finite_differences_of_the_whole_energy(case):
    """The gradient of the smooth part of the length, written out, agrees with differences of the energy."""
    z, u, g = case
    f = energy.force(z, c1=0.7, c2=0.2, lam=3.0)
    for cell in ((0, 0), (3, 4), (6, 8)):
        bump = np.zeros_like(u)
        bump[cell] = 1e-6
        values = [energy.energy(z, u + s * bump, g, c1=0.7, c2=0.2, lam=3.0) for s in (1, -1)]
        length = 0.0
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                i, j = cell[0] + di, cell[1] + dj
                if (di, dj) != (0, 0) and 0 <= i < 7 and 0 <= j < 9:
                    weight = math.pi / 8 / math.hypot(di, dj) * (g[cell] + g[i, j]) / 2
                    length += weight * np.sign(u[cell] - u[i, j])
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(length + f[cell], abs=1e-6)


def test_closed_forms_minimise_the_energy_and_not_the_printed_one(case):
    z, u, _ = case
    c1, c2 = energy.region_means(z, u)
    best = energy.fitting(z, u, c1, c2)
    for d in (-0.05, 0.05):
        assert energy.fitting(z, u, c1 + d, c2) > best
        assert energy.fitting(z, u, c1, c2 + d) > best

    def printed(second):
        return float(np.sum(((z - c1) ** 2 - (z - second) ** 2) * u))

    assert 2 * printed(c2) > printed(c2 - 0.3) + printed(c2 + 0.3)  # concave: no minimum at all


def test_cells_that_do_not_count_count_nowhere(case, rng):
    z, u, g = case
    valid = rng.random(u.shape) < 0.6
    other_z, other_u = np.where(valid, z, 5.0), np.where(valid, u, 0.3)
    for kind in ("crofton", "isotropic"):
        settings = {"c1": 0.7, "c2": 0.2, "lam": 3.0, "neighbourhood": kind, "valid": valid}
        assert energy.energy(other_z, other_u, g, **settings) == pytest.approx(energy.energy(z, u, g, **settings))
    assert energy.region_means(other_z, other_u, valid) == pytest.approx(energy.region_means(z, u, valid))


def test_means_of_nothing_are_not_a_number(case):
    z, u, _ = case
    c1, c2 = energy.region_means(z, np.zeros_like(u))
    assert math.isnan(c1)
    assert c2 == pytest.approx(z.mean())


@pytest.mark.parametrize("kind", ["crofton", "isotropic"])
def test_every_feasible_dual_variable_bounds_every_segmentation(case, rng, kind):
    z, _, g = case
    f = energy.force(z, c1=0.7, c2=0.2, lam=3.0)
    for _ in range(20):
        p = energy.feasible(rng.normal(size=(4 if kind == "crofton" else 2, *z.shape)), g, neighbourhood=kind)
        bound = energy.dual_value(p, f, neighbourhood=kind)
        assert bound <= energy.primal_value(rng.random(z.shape), g, f, neighbourhood=kind)
        np.testing.assert_allclose(energy.feasible(p, g, neighbourhood=kind), p, atol=1e-12)


def test_gap_is_relative_to_the_force():
    f = np.array([[1.0, -3.0]])
    assert energy.relative_gap(-1.0, -2.0, f) == pytest.approx(0.25)
    assert energy.relative_gap(0.0, 0.0, 0 * f) == 0
