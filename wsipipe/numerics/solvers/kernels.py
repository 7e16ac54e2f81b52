"""Compiled loops of the primal-dual iteration; `reference` says what they compute, `compiled` calls them.

All maps are float32 planes with a border one cell wide: cell (r, c) is at [r + 1, c + 1]. The edge detector is negative
(`OUTSIDE`) on the border and on cells that do not count, which says without a further mask that no pair is there: the
sum of its two values is then below 0. Dual planes are stored at the first cell of each pair and stay 0 on the border.

To save products in the loops that run most, dual planes hold p / sigma, g holds the largest |p| / sigma of a cell
(times half the weight of an axis pair, for eight neighbours), and forces come times tau; see `band`.

Rows are worked on in a skewed order (`*_sweeps`): while iteration k updates row i, iteration k + 1 follows on row
i - 1, so that rows stay in the cache for several iterations. Every cell sees exactly the operations of one iteration
after the other, in the same order.

Sums are in fixed point: each value becomes a whole number of 31 bits (`fixed`), and these are added up in 64. So they
do not depend on the order of summation: not on threads, nor on blocks, nor on flips of the map. Differences of dual
variables are paired so that a flip or a transpose changes no rounding.

Sums run over the rows `first` to `last - 1` of a plane, so that a block of a map leaves out the rows that it shares.
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
Valid = NDArray[np.bool_] | None
Extra = NDArray[np.float32] | None  # a further force per cell; numba compiles the loops without it separately

OUTSIDE = np.float32(-8.0)  # well below minus any weight: a pair with it sums to less than 0
FAINT = np.float32(1e-30)  # least weight of a cell that counts, so that the sign still tells it
ZERO = np.float32(0)
ONE = np.float32(1)
HALF = np.float32(0.5)
NOTHING = np.float64(0)
AXIS = math.pi / 16  # Crofton weight of an axis pair, halved: it multiplies the sum of two g
DIAGONAL64 = 1 / math.sqrt(2)  # weight of a diagonal pair as a share of that of an axis pair
DIAGONAL = np.float32(DIAGONAL64)


def compiled(function: Callable[P, R], *, fastmath: set[str] | None = None) -> Callable[P, R]:
    """Compile with numba, keeping the result on disk where there is a place for it (not in read-only installations)."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath or set()}
    with contextlib.suppress(RuntimeError):  # numba's word for "no folder to keep it in"
        return cast("Callable[P, R]", numba.njit(cache=True, **options)(function))
    return cast("Callable[P, R]", numba.njit(**options)(function))


def contracted(function: Callable[P, R]) -> Callable[P, R]:
    """Compile, doing a product and a sum in one instruction; nothing else of fast math, which would reorder sums."""
    return compiled(function, fastmath={"contract"})


@compiled
def _clamp(value: F32, bound: F32) -> F32:
    """Within -bound and bound."""
    value = value if value < bound else bound
    return value if value > -bound else -bound


@compiled
def _weight(first: F32, second: F32) -> F32:
    """Crofton weight of an axis pair from the scaled edge detector of its cells; 0 where there is no pair."""
    weight = first + second
    return weight if weight > ZERO else ZERO


@compiled
def _diagonal(first: F32, second: F32) -> F32:
    """Crofton weight of a diagonal pair."""
    return DIAGONAL * _weight(first, second)


@compiled
def _unit(value: F32) -> F32:
    value = value if value < ONE else ONE
    return value if value > ZERO else ZERO


@contracted
def _relaxed(p: F32, q: F32, rho: F32) -> F32:
    return p + rho * (q - p)


@compiled
def fixed(value: F32, scale: F32) -> np.int32:
    """Whole number nearest to scale times value; 31 bits, which vector registers convert at once."""
    return np.int32(np.rint(scale * value))


@contracted
def _force(z: Plane, extra: Extra, i: int, j: int, a: F32, b: F32) -> F32:
    force: F32 = a * z[i, j] + b
    return force if extra is None else force + extra[i, j]


# --- one iteration, eight neighbours -----------------------------------------------------------------------------


@contracted
def _crofton_primal(
    u: Plane,
    z: Plane,
    extra: Extra,
    p: NDArray[np.float32],
    ahead: Row,
    i: int,
    force: tuple[F32, F32],
    step: F32,
    rho: F32,
) -> None:
    """Row i of u, and 2 v - u of that row into `ahead`."""
    a, b = force
    for j in range(1, u.shape[1] - 1):
        sides = (p[0, i, j - 1] - p[0, i, j]) + (p[1, i - 1, j] - p[1, i, j])
        corners = (p[2, i - 1, j - 1] - p[2, i, j]) + (p[3, i - 1, j + 1] - p[3, i, j])
        x = u[i, j]
        change = _unit(x - (_force(z, extra, i, j, a, b) + step * (sides + corners))) - x
        ahead[j] = x + (change + change)
        u[i, j] = x + rho * change


@contracted
def _crofton_dual(g: Plane, p: NDArray[np.float32], upper: Row, lower: Row, i: int, rho: F32) -> None:
    """Row i of the dual planes from 2 v - u of rows i and i + 1."""
    for j in range(1, g.shape[1] - 1):
        x, gx = upper[j], g[i, j]
        q = _clamp(p[0, i, j] + (upper[j + 1] - x), _weight(gx, g[i, j + 1]))
        p[0, i, j] = _relaxed(p[0, i, j], q, rho)
        q = _clamp(p[1, i, j] + (lower[j] - x), _weight(gx, g[i + 1, j]))
        p[1, i, j] = _relaxed(p[1, i, j], q, rho)
        q = _clamp(p[2, i, j] + (lower[j + 1] - x), _diagonal(gx, g[i + 1, j + 1]))
        p[2, i, j] = _relaxed(p[2, i, j], q, rho)
        q = _clamp(p[3, i, j] + (lower[j - 1] - x), _diagonal(gx, g[i + 1, j - 1]))
        p[3, i, j] = _relaxed(p[3, i, j], q, rho)


# --- one iteration, forward differences --------------------------------------------------------------------------


@contracted
def _isotropic_primal(
    u: Plane,
    z: Plane,
    extra: Extra,
    p: NDArray[np.float32],
    ahead: Row,
    i: int,
    force: tuple[F32, F32],
    step: F32,
    rho: F32,
) -> None:
    """Row i of u, and 2 v - u of that row into `ahead`."""
    a, b = force
    for j in range(1, u.shape[1] - 1):
        sides = (p[0, i, j - 1] - p[0, i, j]) + (p[1, i - 1, j] - p[1, i, j])
        x = u[i, j]
        change = _unit(x - (_force(z, extra, i, j, a, b) + step * sides)) - x
        ahead[j] = x + (change + change)
        u[i, j] = x + rho * change


@contracted
def _shrink(across: F32, down: F32, bound: F32) -> F32:
    """Factor that brings (across, down) to a length of at most `bound`."""
    bound = bound if bound > ZERO else ZERO
    square = across * across + down * down
    # One formula for all cells, without a branch: the loop over a row runs in vector registers.
    square = square if square > FAINT else FAINT
    shrink = bound / np.sqrt(square)
    return shrink if shrink < ONE else ONE


@contracted
def _isotropic_dual(g: Plane, p: NDArray[np.float32], upper: Row, lower: Row, i: int, rho: F32) -> None:
    """Row i of the dual planes from 2 v - u of rows i and i + 1."""
    for j in range(1, g.shape[1] - 1):
        x, p_across, p_down = upper[j], p[0, i, j], p[1, i, j]
        across, down = p_across + (upper[j + 1] - x), p_down + (lower[j] - x)
        across = across if g[i, j + 1] > ZERO else ZERO
        down = down if g[i + 1, j] > ZERO else ZERO
        shrink = _shrink(across, down, g[i, j])
        p[0, i, j] = _relaxed(p_across, across * shrink, rho)
        p[1, i, j] = _relaxed(p_down, down * shrink, rho)


# --- several iterations ------------------------------------------------------------------------------------------


@compiled
def _region_row(u: Plane, z: Plane, g: Plane, i: int, scales: tuple[F32, F32]) -> tuple[Sum, Sum]:
    """Sum up w and z w of row i, fixed, with w = u clipped to [0, 1]."""
    mass, weighted = np.int64(0), np.int64(0)
    for j in range(1, u.shape[1] - 1):
        w = _unit(u[i, j]) if g[i, j] > ZERO else ZERO
        mass += fixed(w, scales[0])
        weighted += fixed(z[i, j] * w, scales[1])
    return mass, weighted


@compiled
def sweeps(
    u: Plane,
    z: Plane,
    g: Plane,
    extra: Extra,
    p: NDArray[np.float32],
    ring: NDArray[np.float32],
    force: tuple[F32, F32],
    steps: tuple[F32, F32],
    scales: tuple[F32, F32],
    rows: tuple[int, int],
) -> tuple[Sum, Sum]:
    """Do as many iterations as `ring` has pairs of rows, and sum up the segmentation that they end with.

    Parameters
    ----------
    u, z, g, extra, p
        Planes; p has 4 (eight neighbours) or 2 (forward differences).
    ring : (n, 2, cols + 2) array
        Room for 2 v - u on two rows in each of n iterations.
    force : (a, b)
        tau times the force f is a z + b + extra.
    steps : (tau sigma, rho)
    scales
        Of w and of z w in fixed point.
    rows : (first, last)
        Rows that are summed up.

    Returns
    -------
    mass, weighted : int
        Sums of w and z w, fixed.
    """
    step, rho = steps
    mass, weighted = np.int64(0), np.int64(0)
    last = u.shape[0] - 2
    crofton = len(p) > 2
    for front in range(1, last + 1 + len(ring)):
        for k in range(len(ring)):
            i = front - k
            here, above = ring[k, i & 1], ring[k, 1 - (i & 1)]
            if 1 <= i <= last:
                if crofton:
                    _crofton_primal(u, z, extra, p, here, i, force, step, rho)
                else:
                    _isotropic_primal(u, z, extra, p, here, i, force, step, rho)
            if 2 <= i <= last + 1:
                if crofton:
                    _crofton_dual(g, p, above, here, i - 1, rho)
                else:
                    _isotropic_dual(g, p, above, here, i - 1, rho)
        done = front - len(ring) + 1
        if rows[0] <= done < rows[1]:
            m, s = _region_row(u, z, g, done, scales)
            mass, weighted = mass + m, weighted + s
    return mass, weighted


# --- the certificate ---------------------------------------------------------------------------------------------


@compiled
def _crofton_feasible(
    w: Plane, g: Plane, p: NDArray[np.float32], feasible: NDArray[np.float32], i: int, scale: F32
) -> Sum:
    """Row i of the dual planes within their bounds into `feasible`, (4, cols + 2); length of w in that row, fixed."""
    length = np.int64(0)
    for j in range(1, g.shape[1] - 1):
        x, gx = _unit(w[i, j]), g[i, j]
        weight = _weight(gx, g[i, j + 1])
        feasible[0, j] = _clamp(p[0, i, j], weight)
        right = fixed(weight * abs(_unit(w[i, j + 1]) - x), scale)
        weight = _weight(gx, g[i + 1, j])
        feasible[1, j] = _clamp(p[1, i, j], weight)
        below = fixed(weight * abs(_unit(w[i + 1, j]) - x), scale)
        weight = _diagonal(gx, g[i + 1, j + 1])
        feasible[2, j] = _clamp(p[2, i, j], weight)
        right_below = fixed(weight * abs(_unit(w[i + 1, j + 1]) - x), scale)
        weight = _diagonal(gx, g[i + 1, j - 1])
        feasible[3, j] = _clamp(p[3, i, j], weight)
        left_below = fixed(weight * abs(_unit(w[i + 1, j - 1]) - x), scale)
        length += np.int32(right + below + (right_below + left_below))  # scale leaves room for the four
    return length


@compiled
def _isotropic_feasible(
    w: Plane, g: Plane, p: NDArray[np.float32], feasible: NDArray[np.float32], i: int, scale: F32
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
        length += fixed(bound * np.sqrt(across * across + down * down), scale)
    return length


@compiled
def _crofton_adjoint(upper: NDArray[np.float32], here: NDArray[np.float32], out: Row) -> None:
    """Transposed differences, over sigma, of one row, from the dual planes of the row above and its own."""
    for j in range(1, len(out) - 1):
        sides = (here[0, j - 1] - here[0, j]) + (upper[1, j] - here[1, j])
        corners = (upper[2, j - 1] - here[2, j]) + (upper[3, j + 1] - here[3, j])
        out[j] = sides + corners


@compiled
def _isotropic_adjoint(upper: NDArray[np.float32], here: NDArray[np.float32], out: Row) -> None:
    """Transposed differences, over sigma, of one row, from the dual planes of the row above and its own."""
    for j in range(1, len(out) - 1):
        out[j] = (here[0, j - 1] - here[0, j]) + (upper[1, j] - here[1, j])


@compiled
def _certificate_row(
    u: Plane,
    z: Plane,
    g: Plane,
    extra: Extra,
    adjoint: Row,
    i: int,
    force: tuple[F32, F32],
    units: tuple[F32, F32],
    scale: F32,
) -> tuple[Sum, Sum]:
    """Sum up row i, fixed: f w - min(0, f + adjoint), and |f|, with w = u clipped to [0, 1]."""
    excess, total = np.int64(0), np.int64(0)
    (a, b), (tau, sigma) = force, units
    for j in range(1, u.shape[1] - 1):
        f = _force(z, extra, i, j, a, b) / tau
        f = f if g[i, j] > ZERO else ZERO
        slope = f + sigma * adjoint[j]
        excess += np.int32(fixed(f * _unit(u[i, j]), scale) - fixed(slope if slope < ZERO else ZERO, scale))
        total += fixed(abs(f), scale)
    return excess, total


@compiled
def certificate(
    u: Plane,
    z: Plane,
    g: Plane,
    extra: Extra,
    p: NDArray[np.float32],
    force: tuple[F32, F32],
    units: tuple[F32, F32],
    scale: F32,
    rows: tuple[int, int],
) -> tuple[Sum, Sum]:
    """Primal less dual value, and sum |f|, of rows `first` to `last - 1`, fixed; parameters as for `sweeps`.

    `units` are tau and sigma, `scale` that of the sums.
    """
    cols = u.shape[1]
    crofton = len(p) > 2
    feasible, adjoint = np.zeros((2, len(p), cols), np.float32), np.zeros(cols, np.float32)
    excess, total = np.int64(0), np.int64(0)
    for i in range(rows[0] - 1, rows[1]):  # the row above takes part in the divergence
        here, upper = feasible[i & 1], feasible[1 - (i & 1)]
        per_sigma = units[1] * scale
        if crofton:
            length = _crofton_feasible(u, g, p, here, i, per_sigma)
        else:
            length = _isotropic_feasible(u, g, p, here, i, per_sigma)
        if i < rows[0]:
            continue
        if crofton:
            _crofton_adjoint(upper, here, adjoint)
        else:
            _isotropic_adjoint(upper, here, adjoint)
        above, size = _certificate_row(u, z, g, extra, adjoint, i, force, units, scale)
        excess, total = excess + length + above, total + size
    return excess, total


# --- once for each map -------------------------------------------------------------------------------------------


@compiled
def _beside(z: Plane, valid: Valid, i: int, j: int, here: F32) -> F32:
    """Value of a neighbour; the cell's own where that does not count."""
    value: F32 = z[i, j]
    if valid is None:
        return value
    return value if valid[i, j] else here


@compiled
def _edge(z: Plane, valid: Valid, i: int, j: int, rows: tuple[int, int], columns: tuple[int, int], beta: F32) -> F32:
    """1 / (1 + beta |grad z|^2) from the rows above and below and the columns to the left and right."""
    here = z[i, j]
    down = HALF * (_beside(z, valid, rows[1], j, here) - _beside(z, valid, rows[0], j, here))
    right = HALF * (_beside(z, valid, i, columns[1], here) - _beside(z, valid, i, columns[0], here))
    weight = ONE / (ONE + beta * (down * down + right * right))
    weight = weight if weight > FAINT else FAINT
    if valid is None:
        return weight
    return weight if valid[i, j] else ONE


@compiled
def fill_edges(z: Plane, valid: Valid, g: Plane, beta: F32, first: int, last: int) -> None:
    """Rows `first` to `last - 1` of the edge detector of a map without a border; see `edges.edge_weights`."""
    bottom, end = z.shape[0] - 1, z.shape[1] - 1
    for i in range(first, last):
        rows = max(i - 1, 0), min(i + 1, bottom)
        g[i, 0] = _edge(z, valid, i, 0, rows, (0, min(1, end)), beta)
        for j in range(1, end):
            g[i, j] = _edge(z, valid, i, j, rows, (j - 1, j + 1), beta)
        g[i, end] = _edge(z, valid, i, end, rows, (max(end - 1, 0), end), beta)


@compiled
def _split_row(z: Row, threshold: F32, scale: F32) -> tuple[Sum, Sum, Sum]:
    above, sum_above, total = np.int64(0), np.int64(0), np.int64(0)
    for j in range(len(z)):
        value, high = fixed(z[j], scale), z[j] > threshold
        above += np.int32(1) if high else np.int32(0)
        sum_above += value if high else np.int32(0)
        total += value
    return above, sum_above, total


@compiled
def split_sums(z: Plane, threshold: F32, scale: F32) -> tuple[Sum, Sum, Sum]:
    """Count and sum (fixed) the cells of z above a threshold, and sum all; a map without a border."""
    above, sum_above, total = np.int64(0), np.int64(0), np.int64(0)
    for i in range(z.shape[0]):
        n, s, t = _split_row(z[i], threshold, scale)
        above, sum_above, total = above + n, sum_above + s, total + t
    return above, sum_above, total


# --- the energy in float64 ---------------------------------------------------------------------------------------


@compiled
def _fixed64(value: float, scale: float) -> np.int32:
    return np.int32(np.rint(scale * value))


@compiled
def _isotropic64(u: Plane, g: Plane, i: int, scale: float) -> Sum:
    """First term of the energy on row i, fixed; see `energy.isotropic_length`."""
    total = np.int64(0)
    for j in range(1, u.shape[1] - 1):
        here, weight = np.float64(_unit(u[i, j])), np.float64(g[i, j])
        across, down = np.float64(_unit(u[i, j + 1])) - here, np.float64(_unit(u[i + 1, j])) - here
        across = across if g[i, j + 1] > ZERO else NOTHING
        down = down if g[i + 1, j] > ZERO else NOTHING
        total += _fixed64((weight if weight > 0.0 else 0.0) * np.sqrt(across * across + down * down), scale)
    return total


@compiled
def _pair64(u: Plane, g: Plane, i: int, j: int, here: float, g_here: float) -> float:
    """Sum of two g times |difference| of a pair; 0 where there is no pair."""
    weight = g_here + np.float64(g[i, j])
    return abs(np.float64(_unit(u[i, j])) - here) * (weight if weight > 0.0 else 0.0)


@compiled
def _crofton64(u: Plane, g: Plane, i: int, scale: float) -> Sum:
    """First term of the energy on row i, fixed pair by pair; see `energy.crofton_length`."""
    total = np.int64(0)
    for j in range(1, u.shape[1] - 1):
        here, g_here = np.float64(_unit(u[i, j])), np.float64(g[i, j])
        right = _fixed64(_pair64(u, g, i, j + 1, here, g_here), scale)
        below = _fixed64(_pair64(u, g, i + 1, j, here, g_here), scale)
        right_below = _fixed64(_pair64(u, g, i + 1, j + 1, here, g_here), scale * DIAGONAL64)
        left_below = _fixed64(_pair64(u, g, i + 1, j - 1, here, g_here), scale * DIAGONAL64)
        total += np.int32(right + below + (right_below + left_below))
    return total


@compiled
def _fitting64(
    u: Plane,
    z: Plane,
    g: Plane,
    extra: Extra,
    i: int,
    means: tuple[float, float],
    lam: float,
    tau: float,
    scale: float,
) -> Sum:
    """Second term of the energy and that of the extra force on row i, fixed; see `energy.energy`."""
    total = np.int64(0)
    c1, c2 = means
    for j in range(1, u.shape[1] - 1):
        value, w = np.float64(z[i, j]), np.float64(_unit(u[i, j]))
        inside, outside = value - c1, value - c2
        cell = lam * (inside * inside * w + outside * outside * (1.0 - w))
        if extra is not None:
            cell += np.float64(extra[i, j]) / tau * w
        total += _fixed64(cell if g[i, j] > ZERO else 0.0, scale)
    return total


@compiled
def energy64(
    u: Plane,
    z: Plane,
    g: Plane,
    extra: Extra,
    means: tuple[float, float],
    lam: float,
    units: tuple[float, float],
    scales: tuple[float, float],
    rows: tuple[int, int],
    crofton: bool,  # noqa: FBT001  # compiled functions take their arguments by place
) -> tuple[Sum, Sum]:
    """Length, and fitting with the extra force, of rows `first` to `last - 1`, from float64, fixed."""
    length, fit = np.int64(0), np.int64(0)
    tau, per_sigma = units[0], units[1] * scales[0]
    for i in range(rows[0], rows[1]):
        length += _crofton64(u, g, i, per_sigma) if crofton else _isotropic64(u, g, i, per_sigma)
        fit += _fitting64(u, z, g, extra, i, means, lam, tau, scales[1])
    return length, fit
