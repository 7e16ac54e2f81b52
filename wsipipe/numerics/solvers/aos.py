"""Additive operator splitting, the paper's scheme (section 4.3; Weickert et al. 1998) for the gradient flow of eq. 6.

The flow u_t = div(g grad u / |grad u|) - f is marched in time steps tau. The diffusivity d = g / sqrt(|grad u|^2 +
eps^2) is taken from the last u; the diffusion is then linear, and is split into one tridiagonal system for each row and
one for each column:

    a = (I - 2 tau A_across)^-1 (u - tau f),   b = (I - 2 tau A_down)^-1 (u - tau f),   u' = clip((a + b) / 2, 0, 1)

Differences and diffusivities are those of `energy.isotropic_length` (d of a cell weighs its differences to the right
and below), so that a flow that has come to rest minimises the energy that is reported, but for eps and tau. u is kept
in [0, 1] by clipping, which is what the exact penalty nu(u) of Chan, Esedoglu and Nikolova (2006) amounts to where its
weight is large enough, without a further term to damp. The closed forms of c1 and c2 follow each step.

Certificate: the fluxes p = d (grad_across a, grad_down b) of the last step, shortened to |p| <= g, are a feasible dual
variable, whose divergence is (u' - u) / tau + f before clipping: where the flow rests inside (0, 1), f = div p.

The scheme is first order: its resting point keeps an error of the order of tau and eps, however long it is marched. On
noisy synthetic maps (`benchmarks/splitting.py`, tol 1e-4) it took 330 to 1000 steps and ended at a certified gap of
0.05 to 0.4% (1 to 3% at lambda 1), with an energy 0.1 to 0.3% (2%) above the best and a mask that differs by 0.2 to
0.9% of the cells (1 to 9%) from the optimum for the same means. The primal-dual backends mostly reach a gap of 1e-4 in
a fiftieth of the time. It is here because the paper uses it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError
from wsipipe.numerics import energy
from wsipipe.numerics.solvers.alternation import HALF_A_CELL
from wsipipe.numerics.solvers.kernels import F32, HALF, ONE, ZERO, Plane, compiled
from wsipipe.numerics.solvers.problem import Limits, Problem, Solution, Start, Status
from wsipipe.numerics.solvers.reference import edge_weights, split

__all__ = ["edge_weights", "solve", "solve_lines", "split"]

TAU = 0.03  # time step, for forces of about 1; ten times as much rests three times as far from the optimum
EPS = 0.02  # slope below which u counts as flat
LANES = 16  # rows solved at a time: one line of the cache

Means = tuple[float, float]


def solve(problem: Problem, start: Start, limits: Limits, *, threads: int = 1) -> Solution:
    """Minimise the energy by additive operator splitting.

    Parameters
    ----------
    problem : Problem
        With neighbourhood "isotropic".
    start : Start
        Its dual variable is of no use here.
    limits : Limits
        `tol` is not that of the duality gap: "converged" means |u' - u| < tol |u| (the rule of the authors' code) and
        means that move by at most tol of the range of z. Look at `gap` for the distance to the optimum.
    threads : int
        One is used, whatever is asked for.

    Raises
    ------
    NumericsError
        Another neighbourhood.
    """
    del threads
    if problem.neighbourhood != "isotropic":
        raise NumericsError(
            f"operator splitting works on rows and columns, not on the neighbourhood {problem.neighbourhood!r}",
            remedy="isotropic, or the primal-dual scheme",
        )
    flow = _Flow(problem, start)
    means = start.c1, start.c2
    for done in range(1, limits.max_iter + 1):  # noqa: B007 (the number of steps is reported)
        change = flow.step(*means)
        fitted = means if limits.fixed_means else flow.means(means)
        moved = max(abs(new - old) for new, old in zip(fitted, means, strict=True))
        settled = change < limits.tol and moved <= limits.tol * flow.spread
        if settled:
            break
        means = fitted
    return flow.solution(means, done, settled=settled, keep_dual=limits.keep_dual)


class _Flow:
    """State of the march: float32 planes with one row and one column more than the map, closed off by g = 0."""

    def __init__(self, problem: Problem, start: Start) -> None:
        self.problem = problem
        valid = np.ones(problem.z.shape, np.bool_) if problem.valid is None else problem.valid
        self.count = int(np.count_nonzero(valid))
        self.total = float(problem.z.sum(where=valid, dtype=np.float64))
        low, high = problem.z.min(where=valid, initial=np.inf), problem.z.max(where=valid, initial=-np.inf)
        self.spread = float(high) - float(low)
        self.g = _closed(np.where(valid, problem.g, 0))
        self.u = _closed(np.where(valid, start.u, 0))
        self.z = _closed(problem.z)
        self.extra = np.zeros_like(self.z) if problem.extra is None else _closed(problem.extra)
        self.across, self.down, self.by_rows, self.by_cols, self.scratch = (np.zeros_like(self.u) for _ in range(5))
        lines = (problem.z.shape[1] + 1, LANES)
        self.lines = np.zeros((3, *lines), np.float32)
        self.mass = self.weighted = 0.0

    def step(self, c1: float, c2: float) -> float:
        """March one step; |u' - u| / |u'|, 0 where both are 0."""
        lam = self.problem.lam
        force = np.float32(2 * lam * (c2 - c1)), np.float32(lam * (c1**2 - c2**2))
        _fill_diffusivities(self.u, self.g, self.across, self.down, np.float32(EPS))
        _fill_sides((self.u, self.z, self.extra, self.g), (self.by_rows, self.by_cols), force, np.float32(TAU))
        _solve_rows(self.across, self.by_rows, self.lines, np.float32(2 * TAU))
        _solve_columns(self.down, self.by_cols, self.scratch, np.float32(2 * TAU))
        moved, size, self.mass, self.weighted = _average(self.u, self.z, self.by_rows, self.by_cols)
        return math.sqrt(moved / size) if size > 0 else math.sqrt(moved)

    def means(self, last: Means) -> Means:
        """Compute c1 and c2 in closed form; a phase that has vanished keeps its last mean."""
        rest = self.count - self.mass
        return (
            self.weighted / self.mass if self.mass >= HALF_A_CELL else last[0],
            (self.total - self.weighted) / rest if rest >= HALF_A_CELL else last[1],
        )

    def solution(self, means: Means, iterations: int, *, settled: bool, keep_dual: bool) -> Solution:
        """Sum up, with the certificate of the fluxes."""
        case, (c1, c2) = self.problem, means
        u = np.ascontiguousarray(self.u[:-1, :-1])
        f = energy.force(case.z, c1=c1, c2=c2, lam=case.lam, valid=case.valid, extra=case.extra)
        dual = energy.feasible(self._fluxes(), case.g, neighbourhood="isotropic", valid=case.valid)
        primal = energy.primal_value(u, case.g, f, neighbourhood="isotropic", valid=case.valid)
        gap = energy.relative_gap(primal, energy.dual_value(dual, f, neighbourhood="isotropic"), f)
        total = energy.energy(
            case.z, u, case.g, c1=c1, c2=c2, lam=case.lam, neighbourhood="isotropic", valid=case.valid, extra=case.extra
        )
        kept = dual.astype(np.float32) if keep_dual else None
        return Solution(u, kept, c1, c2, total, gap, iterations, self._status(settled=settled))

    def _fluxes(self) -> NDArray[np.float32]:
        """(2, rows, cols) fluxes across and down that the last step's systems were solved with."""
        out = np.zeros((2, *self.problem.z.shape), np.float32)
        out[0] = self.across[:-1, :-1] * np.diff(self.by_rows, axis=1)[:-1]
        out[1] = self.down[:-1, :-1] * np.diff(self.by_cols, axis=0)[:, :-1]
        return out

    def _status(self, *, settled: bool) -> Status:
        if not settled:
            return "capped"
        if self.mass < HALF_A_CELL:
            return "empty"
        return "full" if self.count - self.mass < HALF_A_CELL else "converged"


def _closed(values: NDArray[np.floating]) -> Plane:
    """Copy of a map with a row below and a column to the right that are 0."""
    out = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.float32)
    out[:-1, :-1] = values
    return out


# --- compiled loops ------------------------------------------------------------------------------------------------


@compiled
def _fill_diffusivities(u: Plane, g: Plane, across: Plane, down: Plane, eps: F32) -> None:
    """Set g / |grad u|, regularised, for the pair to the right and the pair below each cell; 0 where there is none."""
    for i in range(u.shape[0] - 1):
        for j in range(u.shape[1] - 1):
            here, weight = u[i, j], g[i, j]
            right, below = g[i, j + 1] > ZERO, g[i + 1, j] > ZERO
            x = u[i, j + 1] - here if right else ZERO
            y = u[i + 1, j] - here if below else ZERO
            diffusivity = weight / np.sqrt(x * x + y * y + eps * eps)
            across[i, j] = diffusivity if right else ZERO
            down[i, j] = diffusivity if below else ZERO


@compiled
def _fill_sides(
    maps: tuple[Plane, Plane, Plane, Plane], sides: tuple[Plane, Plane], force: tuple[F32, F32], tau: F32
) -> None:
    """Set both right-hand sides to u - tau f, with f = a z + b + extra on cells that count."""
    u, z, extra, g = maps
    by_rows, by_cols = sides
    a, b = force
    for i in range(u.shape[0] - 1):
        for j in range(u.shape[1] - 1):
            f = a * z[i, j] + b + extra[i, j] if g[i, j] > ZERO else ZERO
            value = u[i, j] - tau * f
            by_rows[i, j] = value
            by_cols[i, j] = value


@compiled
def solve_lines(weight: Plane, x: Plane, ratio: Plane, factor: F32) -> None:
    """Solve (I - factor A) x = x in place for each column of x (Thomas algorithm), with A a diffusion down the column.

    Parameters
    ----------
    weight : (n, lanes) float32 array
        Diffusivity between rows i and i + 1, 0 or more; the last row is 0.
    x : (n, lanes) float32 array
        Right-hand sides; the solutions on return.
    ratio : (n, lanes) float32 array
        Scratch.
    factor : float32
        0 or more.

    Notes
    -----
    Row i reads (1 + w_above + w_below) x_i - w_above x_above - w_below x_below, with w = factor x weight. The pivots
    are written as 1 plus terms of one sign, so nothing cancels.
    """
    n, lanes = x.shape
    for k in range(lanes):
        below = factor * weight[0, k]
        pivot = ONE + below
        ratio[0, k] = below / pivot
        x[0, k] = x[0, k] / pivot
    for i in range(1, n):
        for k in range(lanes):
            above, below = factor * weight[i - 1, k], factor * weight[i, k]
            pivot = ONE + below + above * (ONE - ratio[i - 1, k])
            ratio[i, k] = below / pivot
            x[i, k] = (x[i, k] + above * x[i - 1, k]) / pivot
    for i in range(n - 2, -1, -1):
        for k in range(lanes):
            x[i, k] += ratio[i, k] * x[i + 1, k]


@compiled
def _solve_columns(down: Plane, x: Plane, ratio: Plane, factor: F32) -> None:
    """Solve all columns of a plane; the row and the column that close it off stay 0."""
    solve_lines(down, x, ratio, factor)


@compiled
def _solve_rows(across: Plane, x: Plane, lines: NDArray[np.float32], factor: F32) -> None:
    """Solve all rows of a plane, `LANES` at a time, as columns of (cols, LANES) buffers."""
    weight, side, ratio = lines
    rows, cols = x.shape
    for top in range(0, rows, LANES):
        lanes = min(LANES, rows - top)
        for k in range(lanes):
            for j in range(cols):
                weight[j, k] = across[top + k, j]
                side[j, k] = x[top + k, j]
        solve_lines(weight, side, ratio, factor)
        for k in range(lanes):
            for j in range(cols):
                x[top + k, j] = side[j, k]


@compiled
def _average(u: Plane, z: Plane, by_rows: Plane, by_cols: Plane) -> tuple[float, float, float, float]:
    """Replace u by the clipped mean of the two solutions: |u' - u|^2, |u'|^2, sum u', sum z u'."""
    moved, size, mass, weighted = 0.0, 0.0, 0.0, 0.0
    for i in range(u.shape[0] - 1):
        for j in range(u.shape[1] - 1):
            value = HALF * (by_rows[i, j] + by_cols[i, j])
            value = value if value > ZERO else ZERO
            value = value if value < ONE else ONE
            step = np.float64(value) - np.float64(u[i, j])
            moved += step * step
            size += np.float64(value) * np.float64(value)
            mass += np.float64(value)
            weighted += np.float64(z[i, j]) * np.float64(value)
            u[i, j] = value
    return moved, size, mass, weighted
