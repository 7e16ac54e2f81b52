"""A band of rows of a map with the state of its iteration: what one thread, or one worker, holds.

A band knows `halo` rows more on each side than it answers for. Iterations spoil one of them each, so that after as many
as the halo is wide the band's own rows are still exactly those of the whole map; then the halo is fetched anew from the
neighbours. Sums are whole numbers and run over the band's own rows: added up over all bands, they are exactly those of
the whole map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics.solvers import kernels
from wsipipe.numerics.solvers.differences import OFFSETS
from wsipipe.numerics.solvers.problem import Measures, Problem, Region, Start
from wsipipe.numerics.solvers.reference import RHO, STEPS

CACHE_BYTES = 1 << 21  # rows in hand at once: past this, more iterations in one pass gain nothing (measured)
VALUE_BITS = 29  # of the 31 of a value in fixed point, so that four of them can be added up
SMALLEST = 1e-25  # scales of smaller values would not fit in float32
LARGEST_SLOPE = 4.0  # more than |grad^T p| can be for weights of at most 1

Valid = NDArray[np.bool_] | None
Rows = tuple[NDArray[np.float32], NDArray[np.float32]]  # u and dual variable of a few rows
Sums = tuple[int, ...]


@dataclass(frozen=True)
class Extent:
    """What scales the sums: range of z over the valid cells, and the largest extra force, of the whole map."""

    low: float
    high: float
    extra: float = 0.0


@dataclass(frozen=True)
class Cut:
    """Rows of a map that a band answers for, and those it holds: its own and the halo.

    Parameters
    ----------
    core, held : slice
        Rows of the map.
    """

    core: slice
    held: slice

    @property
    def rows(self) -> tuple[int, int]:
        """Own rows (first, last + 1) in the band's planes, which have a border of one cell."""
        return self.core.start - self.held.start + 1, self.core.stop - self.held.start + 1


def cut_rows(rows: int, *, bands: int, halo: int) -> list[Cut]:
    """Cut a map into bands of nearly equal numbers of rows, at least as many as the halo has."""
    bands = max(1, min(bands, rows // max(halo, 1)))
    edges = [rows * k // bands for k in range(bands + 1)]
    cores = [slice(a, b) for a, b in itertools.pairwise(edges)]
    return [Cut(core, slice(max(0, core.start - halo), min(rows, core.stop + halo))) for core in cores]


class Band:
    """State of the iteration on some rows of a map: float32 planes with a border of one cell.

    Parameters
    ----------
    problem, start
        The rows held, and where to start on them.
    extent : Extent
        Of the whole map.
    rows : (int, int)
        Own rows in the planes; see `Cut.rows`.
    """

    def __init__(self, problem: Problem, start: Start, extent: Extent, rows: tuple[int, int]) -> None:
        self.crofton = problem.neighbourhood == "crofton"
        self.lam, self.valid, self.extent, self.rows = problem.lam, problem.valid, extent, rows
        self.tau, self.sigma = STEPS[problem.neighbourhood]
        mass, weighted = region_scales(extent)
        self.scales = np.float32(mass), np.float32(weighted)
        self.z, self.u = padded(problem.z), padded(start.u)
        self.g = padded(problem.g, problem.valid, outside=kernels.OUTSIDE)
        self.g *= np.float32((kernels.AXIS if self.crofton else 1.0) / self.sigma)
        self.extra = None if problem.extra is None else padded(problem.extra) * np.float32(self.tau)
        self.p = np.zeros((len(OFFSETS[problem.neighbourhood]), *self.u.shape), np.float32)
        if start.dual is not None:
            np.multiply(start.dual, np.float32(1 / self.sigma), out=self.p[:, 1:-1, 1:-1])

    def advance(self, c1: float, c2: float, iterations: int) -> Sums:
        """Do iterations for fixed means; sums of w and z w, fixed."""
        force, steps = self._force(c1, c2), (np.float32(self.tau * self.sigma), np.float32(RHO))
        sums: Sums = ()
        while iterations:
            depth = min(iterations, self._depth())
            ring = np.zeros((depth, 2, self.u.shape[1]), np.float32)
            planes = self.u, self.z, self.g, self.extra, self.p
            sums = whole_numbers(kernels.sweeps(*planes, ring, force, steps, self.scales, self.rows))
            iterations -= depth
        return sums

    def measure(self, c1: float, c2: float) -> Sums:
        """Primal less dual value, and sum |f|, fixed; the row above and the row below have to be exact."""
        scale = np.float32(value_scale(self.extent, self.lam, c1, c2))
        units = np.float32(self.tau), np.float32(self.sigma)
        planes = self.u, self.z, self.g, self.extra, self.p
        return whole_numbers(kernels.certificate(*planes, self._force(c1, c2), units, scale, self.rows))

    def energy(self, c1: float, c2: float) -> Sums:
        """Length, and fitting with the extra force, from float64, fixed; the row below has to be exact."""
        scales = energy_scales(self.extent, self.lam, c1, c2)
        planes, units = (self.u, self.z, self.g, self.extra), (self.tau, self.sigma)
        return whole_numbers(kernels.energy64(*planes, (c1, c2), self.lam, units, scales, self.rows, self.crofton))

    def segmentation(self) -> NDArray[np.float32]:
        """Clipped u of the band's own rows."""
        first, last = self.rows
        u = np.clip(self.u[first:last, 1:-1], 0, 1)
        if self.valid is not None:
            u[~self.valid[first - 1 : last - 1]] = 0
        return u

    def dual(self) -> NDArray[np.float32]:
        """Dual variable of the band's own rows."""
        first, last = self.rows
        return self.p[:, first:last, 1:-1] * np.float32(self.sigma)

    def first_rows(self, count: int) -> Rows:
        """State of the first of its own rows, for the halo of the band above."""
        return self._rows(self.rows[0], self.rows[0] + count)

    def last_rows(self, count: int) -> Rows:
        """State of the last of its own rows, for the halo of the band below."""
        return self._rows(self.rows[1] - count, self.rows[1])

    def take(self, above: Rows | None, below: Rows | None) -> None:
        """Put in the halo what the neighbours hold; None where there is none."""
        first, last = self.rows
        if above is not None:
            self.u[1:first], self.p[:, 1:first] = above
        if below is not None:
            self.u[last:-1], self.p[:, last:-1] = below

    def _rows(self, first: int, last: int) -> Rows:
        return self.u[first:last], self.p[:, first:last]

    def _force(self, c1: float, c2: float) -> tuple[np.float32, np.float32]:
        a, b = slope_and_offset(self.lam, c1, c2)
        return np.float32(self.tau * a), np.float32(self.tau * b)

    def _depth(self) -> int:
        """Count the iterations that one pass over the rows does: as many as keep the rows in hand in the cache."""
        row_bytes = (3 + len(self.p) + 2) * self.u.shape[1] * 4
        return int(max(1, CACHE_BYTES // row_bytes - 2))


def slope_and_offset(lam: float, c1: float, c2: float) -> tuple[float, float]:
    """Coefficients a, b of lambda ((z - c1)^2 - (z - c2)^2) = a z + b."""
    return 2 * lam * (c2 - c1), lam * (c1**2 - c2**2)


def region_of(sums: Sums, extent: Extent) -> Region:
    """Turn the sums of `Band.advance`, added up over bands, back into numbers."""
    mass, weighted = region_scales(extent)
    return Region(mass=sums[0] / mass, weighted=sums[1] / weighted)


def measures_of(sums: Sums, extent: Extent, lam: float, c1: float, c2: float) -> Measures:
    """Turn the sums of `Band.measure`, added up over bands, back into numbers."""
    scale = value_scale(extent, lam, c1, c2)
    return Measures(excess=sums[0] / scale, scale=sums[1] / scale)


def energy_of(sums: Sums, extent: Extent, lam: float, c1: float, c2: float) -> float:
    """Turn the sums of `Band.energy`, added up over bands, back into the energy."""
    length, fit = energy_scales(extent, lam, c1, c2)
    return sums[0] / length + sums[1] / fit


def region_scales(extent: Extent) -> tuple[float, float]:
    """Scales of w and of z w."""
    return fixed_scale(1.0), fixed_scale(max(abs(extent.low), abs(extent.high)))


def value_scale(extent: Extent, lam: float, c1: float, c2: float) -> float:
    """Scale of what the certificate is made of."""
    a, b = slope_and_offset(lam, c1, c2)
    return fixed_scale(max(abs(a * z + b) for z in (extent.low, extent.high)) + extent.extra + LARGEST_SLOPE)


def energy_scales(extent: Extent, lam: float, c1: float, c2: float) -> tuple[float, float]:
    """Scales of the length and of the other terms."""
    furthest = max(abs(z - mean) for z in (extent.low, extent.high) for mean in (c1, c2))
    return fixed_scale(2.0), fixed_scale(lam * furthest**2 + extent.extra)


def fixed_scale(largest: float) -> float:
    """Power of two that turns values of at most `largest` into whole numbers of `VALUE_BITS` bits."""
    return math.ldexp(1.0, VALUE_BITS - math.ceil(math.log2(max(largest, SMALLEST))))


def padded(
    values: NDArray[np.float32], valid: Valid = None, *, outside: np.float32 | None = None
) -> NDArray[np.float32]:
    """Copy a map into a plane with a border of one cell; border, and cells not valid, are `outside` (0)."""
    fill = np.float32(0) if outside is None else outside
    out = np.full((values.shape[0] + 2, values.shape[1] + 2), fill, np.float32)
    out[1:-1, 1:-1] = values if valid is None else np.where(valid, values, fill)
    return out


def whole_numbers(sums: Iterable[np.int64]) -> Sums:
    """Take compiled sums as numbers that never overflow."""
    return tuple(int(value) for value in sums)


def added(sums: Sequence[Sums]) -> Sums:
    """Add up the sums of all bands, exactly."""
    return tuple(map(sum, zip(*sums, strict=True)))


def views(problem: Problem, start: Start, cuts: Sequence[Cut]) -> Iterator[tuple[Problem, Start]]:
    """Yield views of a map and of a start: the rows that each band holds."""
    for cut in cuts:
        rows = cut.held
        yield (
            Problem(
                problem.z[rows],
                problem.g[rows],
                problem.lam,
                problem.neighbourhood,
                None if problem.valid is None else problem.valid[rows],
                None if problem.extra is None else problem.extra[rows],
            ),
            Start(start.u[rows], start.c1, start.c2, None if start.dual is None else start.dual[:, rows]),
        )
