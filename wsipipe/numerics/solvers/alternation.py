"""The outer loop, the same for all backends: move u, sum up, update c1 and c2, stop on the certificate.

u follows its means within a few iterations; what takes long is the drift of the means themselves, each of which moves
the other's cells a little further. The drift is nearly geometric, so its end is foreseen (Aitken's extrapolation): that
halves the iterations, and where it foresees wrongly the next means, which are always those of u, put it right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsipipe.numerics.solvers.problem import Limits, Measures, Region, Solution, Start, Status, Stepper

PATIENCE = 4  # a certificate that was not enough is asked for again after 1/4 more iterations: it costs about one
SLOW = 12  # times as many iterations between two updates, where the means have met
FURTHEST = 0.75  # largest ratio of two drifts that is believed: the end is at most 4 drifts away
HALF_A_CELL = 0.5  # less mass than this is nothing

Means = tuple[float, float]


@dataclass(frozen=True)
class Totals:
    """Number of valid cells, sum of z over them, and range of z."""

    count: int
    total: float
    low: float
    high: float


def alternate(stepper: Stepper, totals: Totals, start: Start, limits: Limits) -> Solution:
    """Minimise E(u, c1, c2): primal-dual iterations for fixed means, then the means of eq. 6 in closed form.

    Stops when u is within `limits.tol` (relative duality gap) of the global optimum for c1 and c2, and these are within
    `limits.tol` of the range of z of the means of u.

    Notes
    -----
    A phase that has vanished keeps its last mean: without weight it has none, and the other phase can still converge.
    Where the means meet, u has not followed them, or they went too far: the solve starts once more, with `SLOW` times
    as many iterations between two updates and nothing foreseen. Where they meet again (small lambda, much noise),
    nothing stands out: both means are then that of the map, for good, and u is what an extra force makes of it, 0
    without one.
    Means are rounded to float32, in which the iterations run, so that the certificate holds for the means reported.
    """
    first = means = _single(start.c1), _single(start.c2)
    drift: Drift | None = Drift(totals)
    fixed, sweep = limits.fixed_means, limits.sweep
    done = ask = 0
    while True:
        iterations = min(sweep, limits.max_iter - done)
        region = stepper.advance(*means, iterations)
        done += iterations
        last = done >= limits.max_iter
        fitted = means if fixed else _means(region, totals, means)
        if not (fixed or last or fitted[0] > fitted[1]):
            stepper.clear()
            if drift is not None:
                means, drift, sweep = first, None, SLOW * limits.sweep
            else:
                mean = _single(totals.total / totals.count)
                means, fixed, sweep = (mean, mean), True, limits.sweep
            ask = done
            continue
        moved = max(abs(new - old) for new, old in zip(fitted, means, strict=True))
        still = moved <= limits.tol * (totals.high - totals.low)
        if last or (still and done >= ask):
            gap = _gap(stepper.measure(*means))
            if last or gap <= limits.tol:
                break
            ask = done + done // PATIENCE
        means = fitted if fixed or drift is None else drift.end(means, fitted)
    dual = stepper.dual() if limits.keep_dual else None
    status = _status(region, totals, settled=still and gap <= limits.tol)
    return Solution(stepper.segmentation(), dual, *means, stepper.energy(*means), gap, done, status)


class Drift:
    """Foresees where the means are drifting to, from their last two drifts.

    Parameters
    ----------
    totals : Totals
        Means never leave the range of z.
    """

    def __init__(self, totals: Totals) -> None:
        self.totals = totals
        self.before: Means = (0.0, 0.0)

    def end(self, means: Means, fitted: Means) -> Means:
        """Next means, given the present ones and those of the segmentation that they led to."""
        now = fitted[0] - means[0], fitted[1] - means[1]
        c1, c2 = (self._end(c, d, b) for c, d, b in zip(means, now, self.before, strict=True))
        self.before = now
        return (c1, c2) if c1 > c2 else fitted

    def _end(self, mean: float, drift: float, before: float) -> float:
        """Limit of a geometric series: drift (1 + ratio + ratio^2 + ...)."""
        ratio = min(max(drift / before, 0.0), FURTHEST) if before else 0.0
        return _single(min(max(mean + drift / (1 - ratio), self.totals.low), self.totals.high))


def _gap(sums: Measures) -> float:
    return sums.excess / sums.scale if sums.scale > 0 else 0.0


def _means(region: Region, totals: Totals, last: Means) -> Means:
    rest = totals.count - region.mass
    return (
        _single(region.weighted / region.mass) if region.mass >= HALF_A_CELL else last[0],
        _single((totals.total - region.weighted) / rest) if rest >= HALF_A_CELL else last[1],
    )


def _single(value: float) -> float:
    return float(np.float32(value))


def _status(region: Region, totals: Totals, *, settled: bool) -> Status:
    if not settled:
        return "capped"
    if region.mass < HALF_A_CELL:
        return "empty"
    return "full" if totals.count - region.mass < HALF_A_CELL else "converged"
