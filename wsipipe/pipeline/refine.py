"""A predicted probability, segmented by the variational model: regions instead of specks, edges on edges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.grading import bounded_means, graded
from wsipipe.numerics.regrid import Band
from wsipipe.numerics.solvers.tasks import SolverSettings
from wsipipe.pipeline.large_maps import Room, solve_map
from wsipipe.pipeline.results import in_bands

Floats = NDArray[np.float32]

_TOL = 1e-3


def refine(probability: Floats, valid: NDArray[np.bool_], *, lam_rel: float, room: Room) -> Floats:
    """Segment a probability by eq. 1.

    The means c1 and c2 are fitted to the map, within bounds: see `bounded_means`.

    Parameters
    ----------
    probability : (rows, cols) float32 array
        Of being in target.
    valid : (rows, cols) bool array
        Cells that count.
    lam_rel : float
        Scale-free fitting weight.
    room : Room
        Memory and workers for the solve.

    Returns
    -------
    (rows, cols) float32 array
        At least 0.5 exactly on the mask, graded by the probability on both sides (`wsipipe.numerics.grading`); 0 on
        cells that are not valid.
    """
    if not valid.any():
        return np.zeros_like(probability)
    settings = SolverSettings(lam_rel=lam_rel, tol=_TOL)
    solution, _ = solve_map(probability, valid=valid, room=room, settings=settings)
    means = bounded_means(solution.c1, solution.c2)
    if means is not None:
        solution, _ = solve_map(probability, valid=valid, room=room, settings=settings, means=means)
    return np.where(valid, graded(solution.u, probability), np.float32(0))


def refined_bands(bands: Iterator[Band], *, lam_rel: float, room: Room) -> Iterator[Band]:
    """Refine a map that comes in bands, see `refine`; the whole map is held, 8 bytes a cell and those of the solve."""
    values, valid = (np.concatenate(parts) for parts in zip(*bands, strict=True))
    return in_bands(refine(values, valid, lam_rel=lam_rel, room=room), valid)
