"""The outer loop, the same for all backends: move u, sum up, update c1 and c2, stop on the certificate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsipipe.numerics.solvers.problem import Limits, Measures, Solution, Start, Status, Stepper

SWEEP = 10  # primal-dual iterations between two measurements
HALF_A_CELL = 0.5  # less mass than this is nothing


@dataclass(frozen=True)
class Totals:
    """Number of valid cells, sum of z over them, and range of z."""

    count: int
    total: float
    spread: float


def alternate(stepper: Stepper, totals: Totals, start: Start, limits: Limits) -> Solution:
    """Minimise E(u, c1, c2): primal-dual iterations for fixed means, then the means of eq. 6 in closed form.

    Stops when u is within `limits.tol` (relative duality gap) of the global optimum for c1 and c2, and these no longer
    move by more than `limits.tol` of the range of z.

    Notes
    -----
    A phase that has vanished keeps its last mean: without weight it has none, and the other phase can still converge.
    Means are rounded to float32, in which the iterations run, so that the certificate holds for the means reported.
    """
    c1, c2 = _single(start.c1), _single(start.c2)
    done = 0
    while True:
        stepper.advance(c1, c2, min(SWEEP, limits.max_iter - done))
        done = min(done + SWEEP, limits.max_iter)
        sums = stepper.measure(c1, c2)
        gap = _gap(sums)
        means = (c1, c2) if limits.fixed_means else _means(sums, totals, c1, c2)
        moved = max(abs(means[0] - c1), abs(means[1] - c2))
        settled = gap <= limits.tol and moved <= limits.tol * totals.spread
        if settled or done >= limits.max_iter:
            break
        c1, c2 = means
    u, dual = stepper.state()
    status = _status(sums, totals, settled=settled)
    return Solution(u, dual, c1, c2, stepper.energy(c1, c2), gap, done, status)


def _gap(sums: Measures) -> float:
    return (sums.primal - sums.dual) / sums.scale if sums.scale > 0 else 0.0


def _means(sums: Measures, totals: Totals, c1: float, c2: float) -> tuple[float, float]:
    rest = totals.count - sums.mass
    return (
        _single(sums.weighted / sums.mass) if sums.mass >= HALF_A_CELL else c1,
        _single((totals.total - sums.weighted) / rest) if rest >= HALF_A_CELL else c2,
    )


def _single(value: float) -> float:
    return float(np.float32(value))


def _status(sums: Measures, totals: Totals, *, settled: bool) -> Status:
    if not settled:
        return "capped"
    if sums.mass < HALF_A_CELL:
        return "empty"
    return "full" if totals.count - sums.mass < HALF_A_CELL else "converged"
