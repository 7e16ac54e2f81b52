"""Coarse to fine: solve halved maps first, and start each finer one from the coarser solution.

A halved map holds the means of 2 x 2 cells of z and g. Lengths halve and areas quarter, so lambda, and any extra force,
doubles with each halving to keep the balance of the terms.

With the drift of the means foreseen (`alternation`) this saves time at small lambda only (a sixth at lambda 1 on 256 x
256 cells) and costs some elsewhere, for the coarse means are not the fine ones. It can end in another minimum of the
joint problem (that in c1 and c2), mostly one that ignores fine grain.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.solvers.problem import Backend, Limits, Problem, Solution, Start

COARSE_TOL = 1e-3  # a start need not be exact


def solve_coarse_to_fine(
    engine: Backend, problem: Problem, start: Start, limits: Limits, *, levels: int, threads: int = 1
) -> Solution:
    """Solve `problem`, starting from its solution on maps halved `levels` times.

    Parameters
    ----------
    engine : Backend
        Solves the map of each size.
    problem : Problem
        The map itself.
    start : Start
        Where the coarsest solve starts, given on the map itself.
    limits : Limits
        Those of the map itself; coarse ones are solved to a relative gap of 1e-3 at best.
    levels : int
        Number of halvings; a map one cell wide is not halved.
    threads : int
        See `wsipipe.numerics.solvers.problem.Backend.solve`.

    Returns
    -------
    Solution
        Of the map itself; its iterations are those done on it.
    """
    if levels and min(problem.z.shape) > 1:
        coarse_limits = dataclasses.replace(limits, tol=max(limits.tol, COARSE_TOL), keep_dual=True)
        coarse = solve_coarse_to_fine(
            engine, halved(problem), _halved_start(start), coarse_limits, levels=levels - 1, threads=threads
        )
        if limits.fixed_means or coarse.c1 > coarse.c2:  # else the coarse map lost what stands out
            start = doubled(coarse, problem, fixed=start if limits.fixed_means else None)
    return engine.solve(problem, start, limits, threads=threads)


def halved(problem: Problem) -> Problem:
    """Problem on 2 x 2 cells; a coarse cell counts if one of its cells does, and holds the mean of those that do."""
    valid = problem.valid
    share = None if valid is None else half_map(valid.astype(np.float32))
    z, g = (_half_valid(values, valid, share) for values in (problem.z, problem.g))
    if share is None:
        coarse = None
    else:
        coarse = share > 0
        g[~coarse] = 1
    extra = None if problem.extra is None else 2 * _half_valid(problem.extra, valid, share)
    return Problem(z, g, 2 * problem.lam, problem.neighbourhood, coarse, extra)


def half_map(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 cells; an odd last row or column is averaged alone."""
    rows = _half_rows(values)
    return np.ascontiguousarray(_half_rows(rows.T).T)


def _half_valid(
    values: NDArray[np.float32], valid: NDArray[np.bool_] | None, share: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Means over the valid ones of 2 x 2 cells, given the share of valid ones; 0 where there are none."""
    if valid is None or share is None:
        return half_map(values)
    out = half_map(np.where(valid, values, np.float32(0)))
    return np.divide(out, share, out=out, where=share > 0)


def _half_rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    count = len(values) // 2
    out = np.empty((len(values) - count, values.shape[1]), np.float32)
    np.add(values[0 : 2 * count : 2], values[1 : 2 * count : 2], out=out[:count])
    out[:count] *= np.float32(0.5)
    out[count:] = values[2 * count :]
    return out


def _halved_start(start: Start) -> Start:
    return Start(half_map(start.u), start.c1, start.c2)


def doubled(coarse: Solution, fine: Problem, *, fixed: Start | None) -> Start:
    """Start on the finer map: each coarse cell gives its u and dual variable to its four cells."""
    rows, cols = fine.z.shape
    u = coarse.u.repeat(2, axis=0).repeat(2, axis=1)[:rows, :cols]
    dual = None if coarse.dual is None else coarse.dual.repeat(2, axis=1).repeat(2, axis=2)[:, :rows, :cols]
    u = u if fine.valid is None else np.where(fine.valid, u, np.float32(0))
    c1, c2 = (coarse.c1, coarse.c2) if fixed is None else (fixed.c1, fixed.c2)
    return Start(u, c1, c2, dual)
