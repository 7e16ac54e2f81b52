"""Maps larger than memory: bands of rows that live in a scratch store, and are visited once every `sweep` iterations.

A visit reads its band with a halo of as many rows as there are iterations, does these, and writes the band's own rows
under the next generation's name. Nothing that a visit reads is ever changed, so one that is lost with its worker is run
again, anywhere. When all bands have been visited, the generation before is dropped.

Driver and visits exchange whole numbers only (`wsipipe.numerics.solvers.band`), which are added up exactly: result,
means, energy, gap and number of iterations are those of the undivided map, bit for bit, for the same `sweep`; where the
cuts lie, how many there are and who visits them when is of no account.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError
from wsipipe.numerics.solvers.alternation import Totals, alternate
from wsipipe.numerics.solvers.band import Band, Cut, Sums, added, energy_of, measures_of, region_of
from wsipipe.numerics.solvers.differences import OFFSETS, Neighbourhood
from wsipipe.numerics.solvers.field import Field, LargeMap, Run, Visit, split, store_map
from wsipipe.numerics.solvers.problem import Measures, Problem, Region, Solution, Start
from wsipipe.numerics.solvers.reference import STEPS
from wsipipe.numerics.solvers.scratch import Plane, Scratch
from wsipipe.numerics.solvers.tasks import SMALLEST_RANGE, Solved, SolverSettings, first_lambda
from wsipipe.numerics.solvers.two_means import two_means

NEAREST = 1  # rows of its neighbours that a band needs for the certificate and for the energy

Tell = Callable[[int, float | None], None]


def solve_blocks(
    large: LargeMap,
    scratch: Scratch,
    settings: SolverSettings,
    *,
    bands: int,
    run: Run = map,
    out: NDArray[np.float32] | None = None,
    tell: Tell | None = None,
) -> Solved:
    """Segment a map in bands of rows: as `wsipipe.numerics.variational.solve_cvm`, bit for bit.

    Parameters
    ----------
    large : LargeMap
        Read band by band in this process, once.
    scratch : Scratch
        Takes up to 12 bytes for each cell (16 with an extra force), and 40 (24 with forward differences) more during a
        solve.
        What it holds at the end is of no use; to empty it is up to its owner.
    settings : SolverSettings
        Of the compiled primal-dual iteration without coarser levels; `threads` and `device` have no meaning here.
    bands : int
        Number of bands; a band has at least `settings.sweep` rows.
    run : callable
        Calls a picklable function for each of some numbers, in whatever order and place, and gives its results in
        theirs: `map`, that of a thread pool, or one from `wsipipe.parallel.spread`. A call may be repeated.
    out : (rows, cols) float32 array, optional
        Takes u, such as a memory map; by default a new array.
    tell : callable
        Called with the number of iterations done, and the gap where it has been looked at.

    Returns
    -------
    Solution, float
        And the lambda that was used.

    Raises
    ------
    NumericsError
        Values that are not finite on valid cells, no valid cell, or settings of another solver.
    """
    _refuse_others(settings)
    field = store_map(large, scratch, beta=settings.beta, bands=bands, least=settings.sweep)
    out = np.empty(large.z.shape, np.float32) if out is None else out
    low, high = field.extent.low, field.extent.high
    flat = high - low < SMALLEST_RANGE
    if flat and large.means is None and large.extra is None:
        return _constant(large, field, settings, out)
    whole = split(field, run, 0.0)
    parts = large.means or ((low, low) if flat else two_means(partial(split, field, run), low=low, high=high))
    for band in field.bands:
        scratch.drop(f"values-{band}")
    lam = first_lambda(parts, large.lam, settings)
    totals = Totals(whole.count, whole.total, low, high)
    model = Model(settings.neighbourhood, lam, threshold=(parts[0] + parts[1]) / 2)
    stepper = BlockedStepper(field, model, halo=settings.sweep, run=run, out=out, tell=tell)
    # The start's u is made anew by the first visits: here it would need the whole map.
    start = Start(np.empty((0, 0), np.float32), *parts)
    return alternate(stepper, totals, start, settings.limits(fixed_means=flat or large.means is not None)), lam


@dataclass(frozen=True)
class Model:
    """What is solved on a field.

    Parameters
    ----------
    neighbourhood : {"crofton", "isotropic"}
    lam : float
        Weight of the fitting term.
    threshold : float
        Cells above it are inside at the start.
    """

    neighbourhood: Neighbourhood
    lam: float
    threshold: float


@dataclass(frozen=True)
class Visitor:
    """Does what there is to do on one band, from one generation of the state; picklable, and of no state of its own."""

    field: Field
    model: Model
    generation: int

    def advance(self, c1: float, c2: float, iterations: int, band: int) -> Sums:
        """Do iterations, write the next generation; sums of `Band.advance`."""
        state = self._band(band, halo=iterations)
        sums = state.advance(c1, c2, iterations)
        first, last = state.rows
        own = [plane[first:last] for plane in (state.u, *state.p)]
        self.field.scratch.put(f"{_state(self.generation + 1)}-{band}", own)
        return sums

    def measure(self, c1: float, c2: float, band: int) -> Sums:
        """Sum up as `Band.measure`."""
        return self._band(band, halo=NEAREST).measure(c1, c2)

    def energy(self, c1: float, c2: float, band: int) -> Sums:
        """Sum up as `Band.energy`."""
        return self._band(band, halo=NEAREST, dual=False).energy(c1, c2)

    def _band(self, band: int, *, halo: int, dual: bool = True) -> Band:
        held, core = self.field.held(band, halo), self.field.cuts[band].core
        z, g, extra = self.field.map_rows(held)
        # Cells that do not count are told by g, which is negative there.
        problem = Problem(z, g, self.model.lam, self.model.neighbourhood, extra=extra)
        u = np.broadcast_to(np.float32(0), z.shape) if self.generation else self._first(z, g)
        state = Band(problem, Start(u, 0.0, 0.0), self.field.extent, Cut(core, held).rows)
        if self.generation:
            planes = [plane[1:-1] for plane in (state.u, *(state.p if dual else ()))]
            self.field.read(_state(self.generation), planes, held)
        return state

    def _first(self, z: Plane, g: Plane) -> Plane:
        return ((z > np.float32(self.model.threshold)) & (g > 0)).astype(np.float32)


class BlockedStepper:
    """The iteration on a map whose bands live in a scratch store; this holds their number and nothing of their size.

    Parameters
    ----------
    field, model
        The map and what to solve on it.
    halo : int
        Most iterations done in one visit.
    run : callable
        Visits the bands; see `solve_blocks`.
    out : (rows, cols) float32 array
        Takes u at the end.
    tell : callable, optional
        See `solve_blocks`.
    """

    def __init__(
        self, field: Field, model: Model, *, halo: int, run: Run, out: NDArray[np.float32], tell: Tell | None = None
    ) -> None:
        self.field, self.model, self.halo, self.run, self.out, self.tell = field, model, halo, run, out, tell
        self.done = 0
        self.gap: float | None = None
        self.visitor = Visitor(field, model, 0)

    def advance(self, c1: float, c2: float, iterations: int) -> Region:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        sums: list[Sums] = []
        while iterations:
            step = min(iterations, self.halo)
            sums = self._visits(partial(self.visitor.advance, c1, c2, step))
            self._next_generation()
            iterations, self.done = iterations - step, self.done + step
            self._report()
        return region_of(added(sums), self.field.extent)

    def measure(self, c1: float, c2: float) -> Measures:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        sums = self._visits(partial(self.visitor.measure, c1, c2))
        found = measures_of(added(sums), self.field.extent, self.model.lam, c1, c2)
        self.gap = found.excess / found.scale if found.scale > 0 else 0.0
        self._report()
        return found

    def energy(self, c1: float, c2: float) -> float:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        sums = self._visits(partial(self.visitor.energy, c1, c2))
        return energy_of(added(sums), self.field.extent, self.model.lam, c1, c2)

    def clear(self) -> None:
        """See `wsipipe.numerics.solvers.problem.Stepper`: start again, where no cell is inside."""
        self._drop_generation()
        self.visitor = Visitor(self.field, replace(self.model, threshold=math.inf), 0)

    def segmentation(self) -> NDArray[np.float32]:
        """Write u to `out`, band by band."""
        if self.visitor.generation == 0:
            self.out[...] = 0
            return self.out
        for cut in self.field.cuts:
            u = np.empty((cut.core.stop - cut.core.start, self.field.cols + 2), np.float32)
            self.field.read(_state(self.visitor.generation), [u], cut.core)
            _, g, _ = self.field.map_rows(cut.core)
            self.out[cut.core] = np.where(g > 0, np.clip(u, 0, 1, out=u)[:, 1:-1], np.float32(0))
        return self.out

    def dual(self) -> NDArray[np.float32]:
        """Dual variable of the whole map, in memory."""
        planes = len(OFFSETS[self.model.neighbourhood])
        if self.visitor.generation == 0:
            return np.zeros((planes, *self.out.shape), np.float32)
        u_and_p = np.empty((1 + planes, len(self.out), self.field.cols + 2), np.float32)
        self.field.read(_state(self.visitor.generation), list(u_and_p), slice(0, len(self.out)))
        return u_and_p[1:, :, 1:-1] * np.float32(STEPS[self.model.neighbourhood][1])

    def _visits(self, visit: Visit) -> list[Sums]:
        return list(self.run(visit, self.field.bands))

    def _next_generation(self) -> None:
        self._drop_generation()
        self.visitor = replace(self.visitor, generation=self.visitor.generation + 1)

    def _drop_generation(self) -> None:
        for band in self.field.bands:
            self.field.scratch.drop(f"{_state(self.visitor.generation)}-{band}")

    def _report(self) -> None:
        if self.tell is not None:
            self.tell(self.done, self.gap)


def _state(generation: int) -> str:
    return f"state-{generation}"


def _refuse_others(settings: SolverSettings) -> None:
    told = {"scheme": settings.scheme, "backend": settings.backend, "levels": settings.levels}
    known = settings.scheme == "primal_dual" and settings.backend in ("auto", "compiled") and not settings.levels
    if not known or settings.uses_torch:
        given = ", ".join(f"{name} {value}" for name, value in told.items())
        raise NumericsError(
            f"bands of a map are solved by the compiled primal-dual iteration on CPUs, got {given}, "
            f"device {settings.device}",
            remedy="leave these settings out, or solve the map in one piece",
        )


def _constant(large: LargeMap, field: Field, settings: SolverSettings, out: NDArray[np.float32]) -> Solved:
    """Nothing stands out; see `tasks.constant`."""
    out[...] = 0
    dual = np.zeros((len(OFFSETS[settings.neighbourhood]), *out.shape), np.float32) if settings.keep_dual else None
    value = field.extent.low
    return Solution(out, dual, value, value, 0.0, 0.0, 0, "constant"), large.lam or float("nan")
