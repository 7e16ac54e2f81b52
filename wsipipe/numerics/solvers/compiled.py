"""The iteration of `reference` in float32, compiled: the two run the same steps and agree up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.solvers import kernels
from wsipipe.numerics.solvers.alternation import Totals, alternate
from wsipipe.numerics.solvers.band import (
    Band,
    Extent,
    added,
    cut_rows,
    energy_of,
    fixed_scale,
    measures_of,
    padded,
    region_of,
    views,
)
from wsipipe.numerics.solvers.problem import Limits, Measures, Problem, Region, Solution, Split, Start

CELLS_PER_THREAD = 1 << 17  # smaller bands cost more to hand out than they save

Valid = NDArray[np.bool_] | None
Run = Callable[[Callable[[Band], Any], Iterable[Band]], Iterable[Any]]  # `map`, or that of a pool


def edge_weights(z: NDArray[np.float32], *, beta: float, valid: Valid) -> NDArray[np.float32]:
    """Edge detector; see `wsipipe.numerics.edges.edge_weights`."""
    g = padded(np.ones_like(z), valid, outside=kernels.OUTSIDE)
    kernels.fill_edges(padded(z), g, np.float32(beta))
    inner = g[1:-1, 1:-1]
    return inner if valid is None else np.where(valid, inner, np.float32(1))


def split(z: NDArray[np.float32], threshold: float, valid: Valid) -> Split:
    """Count and sum z above a threshold and over all valid cells."""
    cells = z if valid is None else z[valid][None]
    scale = fixed_scale(float(max(cells.max(), -cells.min())))
    above, sum_above, total = kernels.split_sums(cells, np.float32(threshold), np.float32(scale))
    return Split(int(above), float(sum_above / scale), cells.size, float(total / scale))


def solve(problem: Problem, start: Start, limits: Limits, *, threads: int = 1) -> Solution:
    """Minimise the energy; see `wsipipe.numerics.solvers.alternation.alternate`.

    Large maps are cut into as many bands of rows as there are threads; the result does not depend on it.
    """
    whole = split(problem.z, 0.0, problem.valid)
    extent = Extent.of(problem)
    totals = Totals(whole.count, whole.total, extent.low, extent.high)
    bands = max(1, min(threads, problem.z.size // CELLS_PER_THREAD))
    if bands == 1:
        return alternate(CompiledStepper(problem, start, extent), totals, start, limits)
    with ThreadPoolExecutor(bands) as pool:
        stepper = CompiledStepper(problem, start, extent, bands=bands, halo=limits.sweep, run=pool.map)
        return alternate(stepper, totals, start, limits)


class CompiledStepper:
    """The iteration on one map, in one band or in several side by side; see `wsipipe.numerics.solvers.band`.

    Parameters
    ----------
    problem, start
        The map and where to start.
    extent : Extent
        Of the map.
    bands : int
        Number of bands.
    halo : int
        Rows that neighbouring bands share, and most iterations that are done between two exchanges of them.
    run : callable
        Applies a function to all bands: `map`, or that of a thread pool.
    """

    def __init__(
        self, problem: Problem, start: Start, extent: Extent, *, bands: int = 1, halo: int = 1, run: Run = map
    ) -> None:
        self.lam, self.extent, self.halo, self.run = problem.lam, extent, halo, run
        cuts = cut_rows(len(problem.z), bands=bands, halo=halo)
        self.bands = [
            Band(rows, first, extent, cut.rows)
            for cut, (rows, first) in zip(cuts, views(problem, start, cuts), strict=True)
        ]

    def advance(self, c1: float, c2: float, iterations: int) -> Region:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        sums = []
        while iterations:
            step = iterations if len(self.bands) == 1 else min(iterations, self.halo)
            sums = list(self.run(partial(Band.advance, c1=c1, c2=c2, iterations=step), self.bands))
            self._exchange()
            iterations -= step
        return region_of(added(sums), self.extent)

    def measure(self, c1: float, c2: float) -> Measures:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        sums = self.run(partial(Band.measure, c1=c1, c2=c2), self.bands)
        return measures_of(added(list(sums)), self.extent, self.lam, c1, c2)

    def energy(self, c1: float, c2: float) -> float:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        sums = self.run(partial(Band.energy, c1=c1, c2=c2), self.bands)
        return energy_of(added(list(sums)), self.extent, self.lam, c1, c2)

    def clear(self) -> None:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        for band in self.bands:
            band.u[...], band.p[...] = 0, 0

    def segmentation(self) -> NDArray[np.float32]:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        parts = [band.segmentation() for band in self.bands]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def dual(self) -> NDArray[np.float32]:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        parts = [band.dual() for band in self.bands]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _exchange(self) -> None:
        """Give every band what its neighbours hold of its halo."""
        for above, below in zip(self.bands, self.bands[1:], strict=False):
            above.take(None, below.first_rows(self.halo))
            below.take(above.last_rows(self.halo), None)
