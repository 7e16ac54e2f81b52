"""The variational model on maps that are too large for one piece: bands of rows that share their means.

The means c1 and c2 are of the whole map: bands solved alone with their own would be wrong by about a percent of the
mask. So all bands are solved with the same means and the same lambda, then the means are taken anew over all of them,
until they stay. Overlaps keep the borders of bands from showing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.solvers.problem import Status
from wsipipe.numerics.solvers.two_means import two_means
from wsipipe.numerics.variational import CvmResult, solve_cvm

ROUNDS = 10

Map = NDArray[np.float32]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class Bands:
    """How a map is cut.

    Parameters
    ----------
    cells : int
        Cells solved in one piece, at about 60 bytes each; smaller maps are not cut.
    overlap : int
        Rows solved on both sides of a band and dropped; 64 are far more than a border disturbs.
    """

    cells: int = 4_000_000
    overlap: int = 64

    def of(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
        """Yield (rows to keep, rows to solve) of every band."""
        step = max(1, self.overlap, self.cells // shape[1] - 2 * self.overlap)
        for top in range(0, shape[0], step):
            core = slice(top, min(top + step, shape[0]))
            yield core, slice(max(0, top - self.overlap), min(core.stop + self.overlap, shape[0]))


def solve_large(
    z: Map,
    *,
    valid: Valid,
    lam_rel: float = 1.0,
    beta: float = 10.0,
    means: tuple[float, float] | None = None,
    tol: float = 1e-3,
    bands: Bands | None = None,
) -> tuple[Map, Status]:
    """Segment one map of any size by eq. 6: as `wsipipe.numerics.variational.solve_cvm`, in bands where it is large.

    Parameters
    ----------
    z : (rows, cols) float32 array
        Contrast map; 0 on cells that are not valid.
    valid : (rows, cols) bool array
        Cells that count; at least one.
    lam_rel, beta, means, tol
        See `solve_cvm`.
    bands : Bands, optional

    Returns
    -------
    u : (rows, cols) float32 array
    status : str

    Notes
    -----
    Memory beside z: u, and 60 bytes for each cell of a band.
    """
    bands = bands or Bands()
    if z.size <= bands.cells:
        whole = solve_cvm(z[None], valid=valid, lam_rel=lam_rel, beta=beta, means=means, tol=tol)
        return whole.u[0], whole.status[0]
    low, high = float(z.min(where=valid, initial=np.inf)), float(z.max(where=valid, initial=-np.inf))
    if low == high:
        return np.zeros_like(z), "constant"
    now = means or _start(z, valid, low=low, high=high)
    lam = lam_rel / (now[0] - now[1]) ** 2
    u = (z > (now[0] + now[1]) / 2).astype(np.float32)
    for _ in range(ROUNDS):
        capped = _round(u, z, valid, bands, solve=partial(solve_cvm, means=now, lam=lam, beta=beta, tol=tol))
        before, now = now, means or _means(z, u, valid)
        if not max(abs(a - b) for a, b in zip(before, now, strict=True)) >= tol * (high - low):  # NaN: one side only
            return u, "capped" if capped else _status(u, valid)
    return u, "capped"


def _status(u: Map, valid: Valid) -> Status:
    inside = u > np.float32(0.5)
    if not inside.any():
        return "empty"
    return "converged" if (valid & ~inside).any() else "full"


def _start(z: Map, valid: Valid, *, low: float, high: float) -> tuple[float, float]:
    from wsipipe.numerics.solvers import compiled  # numba takes a second to load

    return two_means(lambda threshold: compiled.split(z, threshold, valid), low=low, high=high)


def _round(u: Map, z: Map, valid: Valid, bands: Bands, *, solve: partial[CvmResult]) -> bool:
    """Solve every band from the present u, in place; whether the solver gave one up."""
    capped = False
    for core, band in bands.of(z.shape):
        if not valid[core].any():
            u[core] = 0
            continue
        part = solve(z[None, band], valid=valid[band], init=u[None, band])
        u[core] = part.u[0, core.start - band.start : core.stop - band.start]
        capped |= part.status[0] == "capped"
    return capped


def _means(z: Map, u: Map, valid: Valid) -> tuple[float, float]:
    """Means of z under u and under 1 - u, NaN where there is no weight; row by row, so without copies."""
    sums = np.zeros(4)
    for values, weight, keep in zip(z, u, valid, strict=True):
        inside, all_of = weight[keep].astype(np.float64), values[keep].astype(np.float64)
        sums += inside @ all_of, inside.sum(), (1 - inside) @ all_of, (1 - inside).sum()
    above, below = (float(s / n) if n > 0 else math.nan for s, n in (sums[:2], sums[2:]))
    return above, below
