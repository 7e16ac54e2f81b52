"""The iteration of `reference` in float32, compiled: the two run the same steps and agree up to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.solvers import kernels
from wsipipe.numerics.solvers.alternation import Totals, alternate
from wsipipe.numerics.solvers.differences import OFFSETS, Neighbourhood
from wsipipe.numerics.solvers.problem import Limits, Measures, Problem, Solution, Split, Start
from wsipipe.numerics.solvers.reference import RHO, STEPS

CACHE_BYTES = 1 << 21  # rows in hand at once: past this, more iterations in one pass gain nothing (measured)
SUM_BITS = 60  # of the 63 of a whole number, so that no sum overflows
LARGEST_SLOPE = 4.0  # more than |grad^T p| can be for weights of at most 1

Valid = NDArray[np.bool_] | None


def edge_weights(z: NDArray[np.float32], *, beta: float, valid: Valid) -> NDArray[np.float32]:
    """Edge detector; see `wsipipe.numerics.edges.edge_weights`."""
    g = _padded(np.ones_like(z), valid, outside=kernels.OUTSIDE)
    kernels.fill_edges(_padded(z), g, np.float32(beta))
    inner = g[1:-1, 1:-1]
    return inner if valid is None else np.where(valid, inner, np.float32(1))


def split(z: NDArray[np.float32], threshold: float, valid: Valid) -> Split:
    """Count and sum z above a threshold and over all valid cells."""
    counts = np.ones((0, 0), np.bool_) if valid is None else valid
    scale = _scale(z.size, float(max(z.max(), -z.min())))
    above, sum_above, count, total = kernels.split_sums(z, counts, np.float32(threshold), scale)
    return Split(int(above), float(sum_above / scale), int(count), float(total / scale))


def solve(problem: Problem, start: Start, limits: Limits) -> Solution:
    """Minimise the energy; see `wsipipe.numerics.solvers.alternation.alternate`."""
    where = True if problem.valid is None else problem.valid
    low = float(problem.z.min(where=where, initial=np.inf))
    high = float(problem.z.max(where=where, initial=-np.inf))
    parts = split(problem.z, high, problem.valid)
    stepper = CompiledStepper(problem, start, low=low, high=high)
    return alternate(stepper, Totals(parts.count, parts.total, high - low), start, limits)


class CompiledStepper:
    """State of the iteration on one map: float32 planes with a border of one cell.

    Parameters
    ----------
    problem, start
        The map and where to start.
    low, high : float
        Range of the map over the valid cells.
    """

    def __init__(self, problem: Problem, start: Start, *, low: float, high: float) -> None:
        self.kind: Neighbourhood = problem.neighbourhood
        self.lam, self.low, self.high = problem.lam, low, high
        self.z, self.u = _padded(problem.z), _padded(start.u)
        self.g = _padded(problem.g, problem.valid, outside=kernels.OUTSIDE)
        self.p = np.zeros((len(OFFSETS[self.kind]), *self.u.shape), np.float32)
        if start.dual is not None:
            self.p[:, 1:-1, 1:-1] = start.dual
        self.valid = problem.valid
        tau, sigma = STEPS[self.kind]
        self.steps = (np.float32(tau), np.float32(sigma), np.float32(RHO))
        self.mass_scale = _scale(problem.z.size, 1.0)
        self.z_scale = _scale(problem.z.size, max(abs(low), abs(high)))

    def advance(self, c1: float, c2: float, iterations: int) -> None:
        """Do primal-dual iterations for fixed means."""
        sweeps = kernels.crofton_sweeps if self.kind == "crofton" else kernels.isotropic_sweeps
        force = self._force(c1, c2)
        while iterations:
            depth = min(iterations, self._depth())
            ring = np.zeros((depth, 2, self.u.shape[1]), np.float32)
            sweeps(self.u, self.z, self.g, self.p, ring, force, self.steps)
            iterations -= depth

    def measure(self, c1: float, c2: float) -> Measures:
        """Sum up the state."""
        a, b = force = self._force(c1, c2)
        largest = max(abs(float(a) * self.low + float(b)), abs(float(a) * self.high + float(b)))
        scale = _scale(self.z.size, largest + LARGEST_SLOPE)
        sums: Callable[..., Any] = kernels.crofton_sums if self.kind == "crofton" else kernels.isotropic_sums
        mass, weighted, fit, dual, total, length = sums(
            self.u, self.z, self.g, self.p, force, (self.mass_scale, self.z_scale, scale)
        )
        return Measures(
            mass=mass / self.mass_scale,
            weighted=weighted / self.z_scale,
            primal=(length + fit) / scale,
            dual=dual / scale,
            scale=total / scale,
        )

    def energy(self, c1: float, c2: float) -> float:
        """E(clipped u, c1, c2) in float64."""
        length = kernels.crofton_length64 if self.kind == "crofton" else kernels.isotropic_length64
        furthest = max(abs(value - mean) for value in (self.low, self.high) for mean in (c1, c2))
        scale, fit_scale = _scale(self.z.size, LARGEST_SLOPE), _scale(self.z.size, furthest**2)
        fitting = kernels.fitting64(self.u, self.z, self.g, c1, c2, fit_scale) / fit_scale
        return float(length(self.u, self.g, scale) / scale + self.lam * fitting)

    def state(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Clipped u and dual variable."""
        u = np.clip(self.u[1:-1, 1:-1], 0, 1)
        if self.valid is not None:
            u[~self.valid] = 0
        return u, self.p[:, 1:-1, 1:-1]

    def _force(self, c1: float, c2: float) -> tuple[np.float32, np.float32]:
        """Slope and offset of lambda ((z - c1)^2 - (z - c2)^2), which is linear in z."""
        return np.float32(2 * self.lam * (c2 - c1)), np.float32(self.lam * (c1**2 - c2**2))

    def _depth(self) -> int:
        """Count the iterations that one pass over the rows does: as many as keep the rows in hand in the cache."""
        row_bytes = (3 + len(self.p) + 2) * self.u.shape[1] * 4
        return int(max(1, CACHE_BYTES // row_bytes - 2))


def _padded(
    values: NDArray[np.float32], valid: Valid = None, *, outside: np.float32 | None = None
) -> NDArray[np.float32]:
    """Copy a map into a plane with a border of one cell; border, and cells not valid, are `outside` (0)."""
    fill = np.float32(0) if outside is None else outside
    out = np.full((values.shape[0] + 2, values.shape[1] + 2), fill, np.float32)
    out[1:-1, 1:-1] = values if valid is None else np.where(valid, values, fill)
    return out


def _scale(cells: int, largest: float) -> float:
    """Power of two that turns values of at most `largest` into whole numbers of which `cells` can be summed."""
    return math.ldexp(1.0, SUM_BITS - math.ceil(math.log2(cells)) - math.ceil(math.log2(max(largest, 1e-30))))
