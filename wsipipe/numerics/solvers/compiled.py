"""The iteration of `reference` in float32, compiled: the two run the same steps and agree up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.solvers import kernels
from wsipipe.numerics.solvers.alternation import Totals, alternate
from wsipipe.numerics.solvers.band import (
    Band,
    Cut,
    Extent,
    added,
    cut_rows,
    energy_of,
    fixed_scale,
    measures_of,
    region_of,
    views,
    whole_numbers,
)
from wsipipe.numerics.solvers.problem import Limits, Measures, Problem, Region, Solution, Split, Start

CELLS_PER_THREAD = 1 << 17  # smaller bands cost more to hand out than they save

Valid = NDArray[np.bool_] | None
Run = Callable[..., Iterable[Any]]  # `map`, or that of a pool


def edge_weights(z: NDArray[np.float32], *, beta: float, valid: Valid, threads: int = 1) -> NDArray[np.float32]:
    """Edge detector; see `wsipipe.numerics.edges.edge_weights`."""
    out = np.empty(z.shape, np.float32)
    z = np.ascontiguousarray(z)

    def fill(cut: Cut) -> None:
        kernels.fill_edges(z, valid, out, np.float32(beta), cut.core.start, cut.core.stop)

    bands = _bands(z.size, threads)
    with in_threads(bands) as run:
        list(run(fill, cut_rows(len(z), bands=bands, halo=0)))
    return out


def split(cells: NDArray[np.float32], threshold: float, *, largest: float, threads: int = 1) -> Split:
    """Count and sum cells above a threshold and all; see `wsipipe.numerics.solvers.problem.Backend`."""
    scale = fixed_scale(largest)
    bands = _bands(cells.size, threads)
    parts = [part[None] for part in (np.array_split(cells, bands) if bands > 1 else [cells])]
    with in_threads(bands) as run:
        sums = list(run(lambda part: kernels.split_sums(part, np.float32(threshold), np.float32(scale)), parts))
    above, sum_above, total = added([whole_numbers(part) for part in sums])
    return Split(above, sum_above / scale, cells.size, total / scale)


def solve(problem: Problem, start: Start, limits: Limits, *, threads: int = 1) -> Solution:
    """Minimise the energy; see `wsipipe.numerics.solvers.alternation.alternate`.

    Large maps are cut into as many bands of rows as there are threads; the result does not depend on it.
    """
    cells = problem.cells()
    low, high = float(cells.min()), float(cells.max())
    whole = split(cells, 0.0, largest=max(high, -low), threads=threads)
    totals = Totals(whole.count, whole.total, low, high)
    extent = Extent(low, high, 0.0 if problem.extra is None else float(np.abs(problem.extra).max()))
    bands = _bands(problem.z.size, threads)
    with in_threads(bands) as run:
        stepper = CompiledStepper(problem, start, extent, bands=bands, halo=limits.sweep, run=run)
        return alternate(stepper, totals, start, limits)


@contextmanager
def in_threads(count: int) -> Iterator[Run]:
    """Apply a function to items in so many threads."""
    if count == 1:
        yield map
        return
    with ThreadPoolExecutor(count) as pool:
        yield pool.map


def _bands(cells: int, threads: int) -> int:
    return max(1, min(threads, cells // CELLS_PER_THREAD))


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
        problems, starts = zip(*views(problem, start, cuts), strict=True)
        self.bands: list[Band] = list(run(Band, problems, starts, [extent] * len(cuts), [cut.rows for cut in cuts]))

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
        parts = list(self.run(Band.segmentation, self.bands))
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
