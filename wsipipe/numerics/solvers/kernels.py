"""Compiled loops of the primal-dual iteration; `reference` says what they compute, `compiled` calls them.

All maps are float32 planes with a border one cell wide: cell (r, c) is at [r + 1, c + 1]. The edge detector is negative
(`OUTSIDE`) on the border and on cells that do not count, which says without a further mask that no pair is there: the
sum of its two values is then below 0. Dual planes are stored at the first cell of each pair and stay 0 on the border.

Rows are worked on in a skewed order (`*_sweeps`): while iteration k updates row i, iteration k + 1 follows on row
i - 1, so that rows stay in the cache for several iterations. Every cell sees exactly the operations of one iteration
after the other, in the same order.

Sums are in fixed point (whole numbers): they are exact, so they do not depend on the order of summation, on threads,
or on flips of the map. Differences of dual variables are paired so that a flip or a transpose changes no rounding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")
Plane = NDArray[np.float32]
Row = NDArray[np.float32]
F32 = np.float32
Sum = np.int64  # in fixed point

OUTSIDE = np.float32(-8.0)  # well below minus any weight: a pair with it sums to less than 0
FAINT = np.float32(1e-30)  # least weight of a cell that counts, so that the sign still tells it
ZERO = np.float32(0)
ONE = np.float32(1)
HALF = np.float32(0.5)
AXIS = np.float32(math.pi / 16)  # Crofton weight of an axis pair, halved: it multiplies the sum of two g
DIAGONAL = np.float32(math.pi / (16 * math.sqrt(2)))


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba, keeping the result on disk where there is a place for it (not in read-only installations)."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    with contextlib.suppress(RuntimeError):  # numba's word for "no folder to keep it in"
        return cast("Callable[P, R]", numba.njit(cache=True, **options)(function))
    return cast("Callable[P, R]", numba.njit(**options)(function))


@compiled
def _clamp(value: F32, bound: F32) -> F32:
    value = value if value < bound else bound
    return value if value > -bound else -bound


@compiled
def _weight(first: F32, second: F32, factor: F32) -> F32:
    """Crofton weight of a pair from the edge detector of its cells; 0 where there is no pair."""
    weight = factor * (first + second)
    return weight if weight > ZERO else ZERO


@compiled
def _unit(value: F32) -> F32:
    value = value if value > ZERO else ZERO
    return value if value < ONE else ONE


@compiled
def _relaxed(p: F32, q: F32, rho: F32) -> F32:
    return p + rho * (q - p)


# --- eight neighbours --------------------------------------------------------------------------------------------


@compiled
def _crofton_primal(
    u: Plane, z: Plane, p: NDArray[np.float32], ahead: Row, i: int, a: F32, b: F32, tau: F32, rho: F32
) -> None:
    """Row i of u, and 2 v - u of that row into `ahead`."""
    for j in range(1, u.shape[1] - 1):
        sides = (p[0, i, j - 1] - p[0, i, j]) + (p[1, i - 1, j] - p[1, i, j])
        corners = (p[2, i - 1, j - 1] - p[2, i, j]) + (p[3, i - 1, j + 1] - p[3, i, j])
        x = u[i, j]
        step = _unit(x - tau * ((a * z[i, j] + b) + (sides + corners))) - x
        ahead[j] = x + (step + step)
        u[i, j] = x + rho * step


@compiled
def _crofton_dual(g: Plane, p: NDArray[np.float32], upper: Row, lower: Row, i: int, sigma: F32, rho: F32) -> None:
    """Row i of the dual planes from 2 v - u of rows i and i + 1."""
    for j in range(1, g.shape[1] - 1):
        x, gx = upper[j], g[i, j]
        q = _clamp(p[0, i, j] + sigma * (upper[j + 1] - x), _weight(gx, g[i, j + 1], AXIS))
        p[0, i, j] = _relaxed(p[0, i, j], q, rho)
        q = _clamp(p[1, i, j] + sigma * (lower[j] - x), _weight(gx, g[i + 1, j], AXIS))
        p[1, i, j] = _relaxed(p[1, i, j], q, rho)
        q = _clamp(p[2, i, j] + sigma * (lower[j + 1] - x), _weight(gx, g[i + 1, j + 1], DIAGONAL))
        p[2, i, j] = _relaxed(p[2, i, j], q, rho)
        q = _clamp(p[3, i, j] + sigma * (lower[j - 1] - x), _weight(gx, g[i + 1, j - 1], DIAGONAL))
        p[3, i, j] = _relaxed(p[3, i, j], q, rho)


@compiled
def crofton_sweeps(
    u: Plane,
    z: Plane,
    g: Plane,
    p: NDArray[np.float32],
    ring: NDArray[np.float32],
    force: tuple[F32, F32],
    steps: tuple[F32, F32, F32],
) -> None:
    """Do as many iterations as `ring` has pairs of rows, (n, 2, cols + 2); force = a z + b; tau, sigma, rho."""
    (a, b), (tau, sigma, rho) = force, steps
    rows = u.shape[0] - 2
    for front in range(1, rows + 1 + len(ring)):
        for k in range(len(ring)):
            i = front - k
            if 1 <= i <= rows:
                _crofton_primal(u, z, p, ring[k, i & 1], i, a, b, tau, rho)
            if 2 <= i <= rows + 1:
                _crofton_dual(g, p, ring[k, 1 - (i & 1)], ring[k, i & 1], i - 1, sigma, rho)


@compiled
def _crofton_feasible(
    w: Plane, g: Plane, p: NDArray[np.float32], feasible: NDArray[np.float32], i: int, scale: float
) -> Sum:
    """Row i of the dual planes within their bounds into `feasible`, (4, cols + 2); length of w in that row, fixed."""
    length = np.int64(0)
    for j in range(1, g.shape[1] - 1):
        x, gx = _unit(w[i, j]), g[i, j]
        weight = _weight(gx, g[i, j + 1], AXIS)
        feasible[0, j] = _clamp(p[0, i, j], weight)
        length += np.int64(scale * (weight * abs(_unit(w[i, j + 1]) - x)))
        weight = _weight(gx, g[i + 1, j], AXIS)
        feasible[1, j] = _clamp(p[1, i, j], weight)
        length += np.int64(scale * (weight * abs(_unit(w[i + 1, j]) - x)))
        weight = _weight(gx, g[i + 1, j + 1], DIAGONAL)
        feasible[2, j] = _clamp(p[2, i, j], weight)
        length += np.int64(scale * (weight * abs(_unit(w[i + 1, j + 1]) - x)))
        weight = _weight(gx, g[i + 1, j - 1], DIAGONAL)
        feasible[3, j] = _clamp(p[3, i, j], weight)
        length += np.int64(scale * (weight * abs(_unit(w[i + 1, j - 1]) - x)))
    return length


@compiled
def _crofton_adjoint(upper: NDArray[np.float32], here: NDArray[np.float32], out: Row) -> None:
    """Transposed differences of one row from the dual variables, (4, cols + 2), of the row above and of its own."""
    for j in range(1, len(out) - 1):
        sides = (here[0, j - 1] - here[0, j]) + (upper[1, j] - here[1, j])
        corners = (upper[2, j - 1] - here[2, j]) + (upper[3, j + 1] - here[3, j])
        out[j] = sides + corners


@compiled
def _sum_row(
    u: Plane, z: Plane, g: Plane, adjoint: Row, i: int, force: tuple[F32, F32], scales: tuple[float, float, float]
) -> tuple[Sum, Sum, Sum, Sum, Sum]:
    """Sum up row i, fixed: w, z w, f w, min(0, f + adjoint), |f| with w = u clipped to [0, 1]."""
    mass, weighted, fit, bound, total = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    (a, b), (mass_scale, z_scale, f_scale) = force, scales
    for j in range(1, u.shape[1] - 1):
        counts, value = g[i, j] > ZERO, z[i, j]
        w = _unit(u[i, j]) if counts else ZERO
        f = a * value + b if counts else ZERO
        slope = f + adjoint[j]
        mass += np.int64(mass_scale * w)
        weighted += np.int64(z_scale * value * w)
        fit += np.int64(f_scale * (f * w))
        bound += np.int64(f_scale * (slope if slope < ZERO else ZERO))
        total += np.int64(f_scale * abs(f))
    return mass, weighted, fit, bound, total


@compiled
def crofton_sums(
    u: Plane,
    z: Plane,
    g: Plane,
    p: NDArray[np.float32],
    force: tuple[F32, F32],
    scales: tuple[float, float, float],
) -> tuple[Sum, Sum, Sum, Sum, Sum, Sum]:
    """Sum up the map, fixed: w, z w (times scales[0] and [1]); f w, dual value, |f|, length (times scales[2])."""
    cols = u.shape[1]
    feasible, adjoint = np.zeros((2, len(p), cols), np.float32), np.zeros(cols, np.float32)
    mass, weighted, fit, bound, total = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    length = np.int64(0)
    for i in range(1, u.shape[0] - 1):
        here, upper = feasible[i & 1], feasible[1 - (i & 1)]
        length += _crofton_feasible(u, g, p, here, i, scales[2])
        _crofton_adjoint(upper, here, adjoint)
        m, s, f, d, t = _sum_row(u, z, g, adjoint, i, force, scales)
        mass, weighted, fit, bound, total = mass + m, weighted + s, fit + f, bound + d, total + t
    return mass, weighted, fit, bound, total, length


# --- forward differences -----------------------------------------------------------------------------------------


@compiled
def _isotropic_primal(
    u: Plane, z: Plane, p: NDArray[np.float32], ahead: Row, i: int, a: F32, b: F32, tau: F32, rho: F32
) -> None:
    """Row i of u, and 2 v - u of that row into `ahead`."""
    for j in range(1, u.shape[1] - 1):
        sides = (p[0, i, j - 1] - p[0, i, j]) + (p[1, i - 1, j] - p[1, i, j])
        x = u[i, j]
        step = _unit(x - tau * ((a * z[i, j] + b) + sides)) - x
        ahead[j] = x + (step + step)
        u[i, j] = x + rho * step


@compiled
def _shrink(across: F32, down: F32, bound: F32) -> F32:
    """Factor that brings (across, down) to a length of at most `bound`."""
    bound = bound if bound > ZERO else ZERO
    square = across * across + down * down
    # One formula for all cells, without a branch: the loop over a row runs in vector registers.
    square = square if square > FAINT else FAINT
    shrink = bound / np.sqrt(square)
    return shrink if shrink < ONE else ONE


@compiled
def _isotropic_dual(g: Plane, p: NDArray[np.float32], upper: Row, lower: Row, i: int, sigma: F32, rho: F32) -> None:
    """Row i of the dual planes from 2 v - u of rows i and i + 1."""
    for j in range(1, g.shape[1] - 1):
        x, p_across, p_down = upper[j], p[0, i, j], p[1, i, j]
        across, down = p_across + sigma * (upper[j + 1] - x), p_down + sigma * (lower[j] - x)
        across = across if g[i, j + 1] > ZERO else ZERO
        down = down if g[i + 1, j] > ZERO else ZERO
        shrink = _shrink(across, down, g[i, j])
        p[0, i, j] = _relaxed(p_across, across * shrink, rho)
        p[1, i, j] = _relaxed(p_down, down * shrink, rho)


@compiled
def isotropic_sweeps(
    u: Plane,
    z: Plane,
    g: Plane,
    p: NDArray[np.float32],
    ring: NDArray[np.float32],
    force: tuple[F32, F32],
    steps: tuple[F32, F32, F32],
) -> None:
    """Do as many iterations as `ring` has pairs of rows; see `crofton_sweeps`."""
    (a, b), (tau, sigma, rho) = force, steps
    rows = u.shape[0] - 2
    for front in range(1, rows + 1 + len(ring)):
        for k in range(len(ring)):
            i = front - k
            if 1 <= i <= rows:
                _isotropic_primal(u, z, p, ring[k, i & 1], i, a, b, tau, rho)
            if 2 <= i <= rows + 1:
                _isotropic_dual(g, p, ring[k, 1 - (i & 1)], ring[k, i & 1], i - 1, sigma, rho)


@compiled
def _isotropic_feasible(
    w: Plane, g: Plane, p: NDArray[np.float32], feasible: NDArray[np.float32], i: int, scale: float
) -> Sum:
    """Row i of the dual planes within their bounds into `feasible`, (2, cols + 2); length of w in that row, fixed."""
    length = np.int64(0)
    for j in range(1, g.shape[1] - 1):
        x = _unit(w[i, j])
        right, below = g[i, j + 1] > ZERO, g[i + 1, j] > ZERO
        across, down = p[0, i, j] if right else ZERO, p[1, i, j] if below else ZERO
        shrink = _shrink(across, down, g[i, j])
        feasible[0, j], feasible[1, j] = across * shrink, down * shrink
        across = _unit(w[i, j + 1]) - x if right else ZERO
        down = _unit(w[i + 1, j]) - x if below else ZERO
        bound = g[i, j] if g[i, j] > ZERO else ZERO
        length += np.int64(scale * (bound * np.sqrt(across * across + down * down)))
    return length


@compiled
def _isotropic_adjoint(upper: NDArray[np.float32], here: NDArray[np.float32], out: Row) -> None:
    """Transposed differences of one row from the dual variables, (2, cols + 2), of the row above and of its own."""
    for j in range(1, len(out) - 1):
        out[j] = (here[0, j - 1] - here[0, j]) + (upper[1, j] - here[1, j])


@compiled
def isotropic_sums(
    u: Plane,
    z: Plane,
    g: Plane,
    p: NDArray[np.float32],
    force: tuple[F32, F32],
    scales: tuple[float, float, float],
) -> tuple[Sum, Sum, Sum, Sum, Sum, Sum]:
    """Sum up the map, fixed; see `crofton_sums`."""
    cols = u.shape[1]
    feasible, adjoint = np.zeros((2, len(p), cols), np.float32), np.zeros(cols, np.float32)
    mass, weighted, fit, bound, total = np.int64(0), np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    length = np.int64(0)
    for i in range(1, u.shape[0] - 1):
        here, upper = feasible[i & 1], feasible[1 - (i & 1)]
        length += _isotropic_feasible(u, g, p, here, i, scales[2])
        _isotropic_adjoint(upper, here, adjoint)
        m, s, f, d, t = _sum_row(u, z, g, adjoint, i, force, scales)
        mass, weighted, fit, bound, total = mass + m, weighted + s, fit + f, bound + d, total + t
    return mass, weighted, fit, bound, total, length


# --- once for each map -------------------------------------------------------------------------------------------


@compiled
def _beside(z: Plane, g: Plane, i: int, j: int, here: F32) -> F32:
    value = z[i, j]
    return value if g[i, j] > ZERO else here


@compiled
def fill_edges(z: Plane, g: Plane, beta: F32) -> None:
    """Put 1 / (1 + beta |grad z|^2) in place of the 1 that marks valid cells of g; `edges.edge_weights` explains."""
    for i in range(1, z.shape[0] - 1):
        for j in range(1, z.shape[1] - 1):
            here = z[i, j]
            down = HALF * (_beside(z, g, i + 1, j, here) - _beside(z, g, i - 1, j, here))
            right = HALF * (_beside(z, g, i, j + 1, here) - _beside(z, g, i, j - 1, here))
            weight = ONE / (ONE + beta * (down * down + right * right))
            weight = weight if weight > FAINT else FAINT
            g[i, j] = weight if g[i, j] > ZERO else OUTSIDE


@compiled
def split_sums(z: Plane, counts: NDArray[np.bool_], threshold: F32, scale: float) -> tuple[Sum, Sum, Sum, Sum]:
    """Count and sum (fixed) of the cells of z above a threshold, and of all; without border, `counts` may be (0, 0)."""
    above, sum_above, count, total = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
    every = counts.size == 0
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            if every or counts[i, j]:
                value = np.int64(scale * z[i, j])
                high = z[i, j] > threshold
                above += np.int64(high)
                sum_above += value if high else np.int64(0)
                count += 1
                total += value
    return above, sum_above, count, total


@compiled
def fitting64(u: Plane, z: Plane, g: Plane, c1: float, c2: float, scale: float) -> Sum:
    """Second term of the energy, without lambda, from float64 (fixed); see `energy.fitting`."""
    total = np.int64(0)
    for i in range(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            value, w = np.float64(z[i, j]), np.float64(_unit(u[i, j]))
            inside, outside = value - c1, value - c2
            cell = inside * inside * w + outside * outside * (1.0 - w)
            total += np.int64(scale * (cell if g[i, j] > ZERO else 0.0))
    return total


@compiled
def _step64(u: Plane, g: Plane, i: int, j: int, here: float) -> float:
    """Difference to a neighbour in float64; 0 where it does not count."""
    step = np.float64(_unit(u[i, j])) - here
    return step if g[i, j] > ZERO else 0.0


@compiled
def isotropic_length64(u: Plane, g: Plane, scale: float) -> Sum:
    """First term of the energy from float64 (fixed); see `energy.isotropic_length`."""
    total = np.int64(0)
    for i in range(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            here, g_here = np.float64(_unit(u[i, j])), np.float64(g[i, j])
            across, down = _step64(u, g, i, j + 1, here), _step64(u, g, i + 1, j, here)
            weight = g_here if g_here > 0.0 else 0.0
            total += np.int64(scale * (weight * np.sqrt(across * across + down * down)))
    return total


@compiled
def _pair64(u: Plane, g: Plane, i: int, j: int, here: float, g_here: float, scale: float) -> Sum:
    """Sum of two g times |difference| of a pair from float64 (fixed); 0 where there is no pair."""
    weight = g_here + np.float64(g[i, j])
    return np.int64(scale * (abs(np.float64(_unit(u[i, j])) - here) * (weight if weight > 0.0 else 0.0)))


@compiled
def crofton_length64(u: Plane, g: Plane, scale: float) -> Sum:
    """First term of the energy from float64 (fixed); see `energy.crofton_length`."""
    total = np.int64(0)
    axis, diagonal = scale * (math.pi / 16), scale * (math.pi / (16 * math.sqrt(2.0)))
    for i in range(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            here, g_here = np.float64(_unit(u[i, j])), np.float64(g[i, j])
            total += _pair64(u, g, i, j + 1, here, g_here, axis)
            total += _pair64(u, g, i + 1, j, here, g_here, axis)
            total += _pair64(u, g, i + 1, j + 1, here, g_here, diagonal)
            total += _pair64(u, g, i + 1, j - 1, here, g_here, diagonal)
    return total
