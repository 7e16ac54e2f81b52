"""The solver on any device of torch: many maps at a time, and nothing that makes the device wait for the host.

The algorithm is that of `alternation`, with c1, c2, gaps and flags on the device. A map that has settled is frozen: its
u, means and count of iterations are those of the moment it settled, whatever its companions still need, and whenever
the host looks. On NVIDIA and AMD devices the iteration is a Triton kernel (`triton_kernels`) and two sweeps of it, with
the update of the means, are captured as one graph that is then replayed; elsewhere it is plain torch (`torch_planes`).

Iterations run in float32, sums in fixed point of 64 bits, means and gaps in float64 (float32 on Apple's GPUs).

Run on CPUs only so far: what it does on a GPU is tested where one is (tests marked `gpu`), and not measured.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from wsipipe.errors import NumericsError
from wsipipe.numerics.solvers.alternation import FURTHEST, HALF_A_CELL, PATIENCE, SLOW
from wsipipe.numerics.solvers.differences import Neighbourhood
from wsipipe.numerics.solvers.problem import Limits, Problem, Solution, Start, Status
from wsipipe.numerics.solvers.torch_planes import (
    LARGEST_SLOPE,
    OUTSIDE,
    EagerPlanes,
    Layout,
    Maps,
    Planes,
    Scales,
    energy,
    fixed_scale,
    fixed_sum,
)
from wsipipe.numerics.solvers.two_means import STEPS as LLOYD_STEPS

LOOK = 4  # turns that a device is given between two looks at its flags
CELLS_IN_CACHE = 1 << 16  # of maps that are iterated together on a CPU
SMALLEST_RANGE = 1e-12  # a map of less is constant
STATUSES: tuple[Status, ...] = ("converged", "empty", "full", "constant", "capped")

Kernel = Literal["auto", "eager", "triton"]


@dataclass(frozen=True)
class BatchSolution:
    """What was found for a batch, on its device; see `wsipipe.numerics.solvers.problem.Solution`.

    Parameters
    ----------
    u : (count, rows, cols) float32 tensor
    dual : (count, k, rows, cols) float32 tensor or None
        Where it was asked for.
    c1, c2, lam, energy, gap : (count,) float64 tensors (float32 on Apple's GPUs)
    iterations : (count,) int64 tensor
    status : (count,) int64 tensor
        Index into `STATUSES`.
    """

    u: Tensor
    dual: Tensor | None
    c1: Tensor
    c2: Tensor
    lam: Tensor
    energy: Tensor
    gap: Tensor
    iterations: Tensor
    status: Tensor

    def solutions(self) -> list[Solution]:
        """One solution per map, on the host."""
        u = self.u.cpu().numpy()
        dual = [None] * len(u) if self.dual is None else self.dual.cpu().numpy()
        c1, c2, energies, gaps = (values.tolist() for values in (self.c1, self.c2, self.energy, self.gap))
        iterations, status = self.iterations.tolist(), self.status.tolist()
        return [
            Solution(u[i], dual[i], c1[i], c2[i], energies[i], gaps[i], iterations[i], STATUSES[status[i]])
            for i in range(len(u))
        ]


# --- once for each map -------------------------------------------------------------------------------------------


def edge_weights(z: Tensor, *, beta: float, valid: Tensor | None) -> Tensor:
    """Edge detector of a batch, (count, rows, cols); see `wsipipe.numerics.edges.edge_weights`.

    Parameters
    ----------
    z : (count, rows, cols) float32 tensor
    beta : float
    valid : (count, rows, cols) or (rows, cols) bool tensor, or None
    """
    down, right = (_central_difference(z, valid, axis) for axis in (-2, -1))
    g = 1 / (1 + beta * (down * down + right * right))
    return g if valid is None else torch.where(valid, g, 1.0)


def _central_difference(z: Tensor, valid: Tensor | None, axis: int) -> Tensor:
    return 0.5 * (_neighbour(z, valid, axis, 1) - _neighbour(z, valid, axis, -1))


def _neighbour(z: Tensor, valid: Tensor | None, axis: int, step: int) -> Tensor:
    """Value of the next cell along `axis`; the cell's own value where there is none."""
    index = (torch.arange(z.shape[axis], device=z.device) + step).clamp(0, z.shape[axis] - 1)
    moved = z.index_select(axis, index)
    return moved if valid is None else torch.where(valid.index_select(axis, index), moved, z)


@dataclass(frozen=True)
class BatchSplit:
    """Each map parted by a threshold: cells and sums of z above it, and in all; (count,) tensors."""

    count_above: Tensor
    sum_above: Tensor
    count: Tensor
    total: Tensor


def split(z: Tensor, threshold: Tensor, valid: Tensor | None) -> BatchSplit:
    """Count and sum each map of a batch above its threshold, (count,), and over all valid cells."""
    return _Parted(z, valid).at(threshold)


class _Parted:
    """Maps whose cells are whole numbers already, to be parted again and again."""

    def __init__(self, z: Tensor, valid: Tensor | None) -> None:
        self.wide = torch.float32 if z.device.type == "mps" else torch.float64
        self.z = z if valid is None else torch.where(valid, z, -torch.inf)
        scale = fixed_scale(z.abs().amax(dim=(1, 2)).to(self.wide), z[0].numel())
        fixed = (z * scale[:, None, None]).to(torch.int64)
        self.fixed = fixed if valid is None else fixed * valid
        self.scale = scale.to(self.wide)
        self.total = self._sum(self.fixed)
        self.count = (self.z > -torch.inf).sum(dim=(1, 2))

    def at(self, threshold: Tensor) -> BatchSplit:
        """See `split`."""
        above = self.z > threshold.to(self.z.dtype)[:, None, None]
        return BatchSplit(above.sum(dim=(1, 2)), self._sum(self.fixed * above), self.count, self.total)

    def _sum(self, fixed: Tensor) -> Tensor:
        return fixed.sum(dim=(1, 2)).to(self.wide) / self.scale


def two_means(z: Tensor, valid: Tensor | None, *, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Means c1 > c2 of each map; `wsipipe.numerics.solvers.two_means.two_means` on a batch."""
    c1, c2 = high, low
    parted = _Parted(z, valid)
    for _ in range(LLOYD_STEPS):
        parts = parted.at((c1 + c2) / 2)
        first = parts.sum_above / parts.count_above
        second = (parts.total - parts.sum_above) / (parts.count - parts.count_above)
        good = first > second  # not where a part is empty, nor where rounding has the last word
        c1, c2 = torch.where(good, first, c1), torch.where(good, second, c2)
    return c1, c2


# --- the solver --------------------------------------------------------------------------------------------------


def solve_batch(
    problems: Sequence[Problem],
    starts: Sequence[Start],
    limits: Limits,
    *,
    device: str | torch.device,
    together: int | None = None,
    kernel: Kernel = "auto",
) -> list[Solution]:
    """Minimise the energy of many maps on one device.

    Parameters
    ----------
    problems : sequence of Problem
        Maps of one shape and one neighbourhood; lam, valid and extra may differ.
    starts : sequence of Start
        One for each.
    limits : Limits
        When to stop each.
    device : str or torch.device
        Where to compute.
    together : int, optional
        Maps that are iterated together: by default all, but on a CPU no more than its caches hold. The result of a
        map does not depend on it.
    kernel : {"auto", "eager", "triton"}
        See `BatchSolver`.

    Returns
    -------
    list of Solution
        In the order of the problems.

    Raises
    ------
    NumericsError
        Maps of several shapes or neighbourhoods, or not one start for each.
    """
    if len(problems) != len(starts):
        raise NumericsError(f"there is one start for each map, got {len(starts)} for {len(problems)}")
    kinds = {(problem.z.shape, problem.neighbourhood) for problem in problems}
    if len(kinds) > 1:
        raise NumericsError(f"maps of a batch have one shape and neighbourhood, got {sorted(kinds)}")
    place = torch.device(device)
    size = together or _maps_together(problems, place)
    found: list[Solution] = []
    for first in range(0, len(problems), size):
        part = slice(first, first + size)
        found += _solve_part(problems[part], starts[part], limits, place, kernel)
    return found


def _maps_together(problems: Sequence[Problem], device: torch.device) -> int:
    count = max(1, len(problems))
    return min(count, max(1, CELLS_IN_CACHE // problems[0].z.size)) if problems and device.type == "cpu" else count


def _solve_part(
    problems: Sequence[Problem], starts: Sequence[Start], limits: Limits, device: torch.device, kernel: Kernel
) -> list[Solution]:
    """Solve maps that are iterated together."""
    (rows, cols), neighbourhood = problems[0].z.shape, problems[0].neighbourhood
    masked = any(problem.valid is not None for problem in problems)
    forced = any(problem.extra is not None for problem in problems)
    layout = Layout(len(problems), rows, cols, neighbourhood, masked, forced, device)

    def stacked(planes: Sequence[np.ndarray | None], fill: float | bool) -> Tensor:  # noqa: FBT001  # a value
        filled = [np.full((rows, cols), fill) if plane is None else plane for plane in planes]
        return torch.from_numpy(np.stack(filled)).to(device)

    def numbers(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=layout.wide, device=device)

    warm = any(start.dual is not None for start in starts)
    solver = BatchSolver(layout, limits, kernel=kernel)
    return solver.solve(
        stacked([problem.z for problem in problems], 0.0).float(),
        stacked([problem.g for problem in problems], 1.0).float(),
        lam=numbers([problem.lam for problem in problems]),
        valid=stacked([problem.valid for problem in problems], fill=True) if masked else None,
        extra=stacked([problem.extra for problem in problems], 0.0).float() if forced else None,
        u=stacked([start.u for start in starts], 0.0).float(),
        dual=_stacked_duals(starts, layout) if warm else None,
        means=(numbers([start.c1 for start in starts]), numbers([start.c2 for start in starts])),
    ).solutions()


def _stacked_duals(starts: Sequence[Start], layout: Layout) -> Tensor:
    nothing = np.zeros(layout.pairs[1:], np.float32)
    return torch.from_numpy(np.stack([nothing if s.dual is None else s.dual for s in starts])).to(layout.device)


def solve_maps(
    z: Tensor,
    limits: Limits,
    *,
    lam: Tensor | None = None,
    lam_rel: float = 1.0,
    beta: float = 10.0,
    means: tuple[Tensor, Tensor] | None = None,
    valid: Tensor | None = None,
    extra: Tensor | None = None,
    init: tuple[Tensor, Tensor | None] | None = None,
    neighbourhood: Neighbourhood = "crofton",
    solver: BatchSolver | None = None,
) -> BatchSolution:
    """`wsipipe.numerics.variational.solve_cvm` on maps that are on a device already; everything stays there.

    Parameters
    ----------
    z : (count, rows, cols) float32 tensor
        Contrast maps, finite.
    limits : Limits
        `fixed_means` exactly where means are given.
    lam : (count,) tensor, optional
        Weights of the fitting term; by default lam_rel / (c1 - c2)^2 with the means at the start.
    lam_rel, beta : float
        See `solve_cvm`.
    means : pair of (count,) tensors, optional
        c1 and c2, to start from.
    valid : (rows, cols) or (count, rows, cols) bool tensor, optional
        Cells that count.
    extra : (count, rows, cols) float32 tensor, optional
        Extra force.
    init : (u, dual or None), optional
        Warm start, (count, rows, cols) and (count, k, rows, cols).
    neighbourhood : {"crofton", "isotropic"}
        How lengths are measured.
    solver : BatchSolver, optional
        One to use again, with its graph, for maps of its layout and limits; by default one is made.

    Returns
    -------
    BatchSolution
        Of constant maps: u = 0 and status "constant", as `solve_cvm`.
    """
    valid = None if valid is None else valid.expand_as(z)
    z, extra = _only(z, valid), None if extra is None else _only(extra, valid)
    if solver is None:
        solver = BatchSolver(Layout.of(z, neighbourhood, masked=valid is not None, forced=extra is not None), limits)
    wide = solver.layout.wide
    low, high = (values.to(wide) for values in _range(z, valid))
    flat = high - low < SMALLEST_RANGE
    constant = flat if means is None and extra is None else torch.zeros_like(flat)
    parts = two_means(z, valid, low=low, high=high) if means is None else (means[0].to(wide), means[1].to(wide))
    weight = lam_rel / _or_one((parts[0] - parts[1]) ** 2) if lam is None else lam.to(wide)
    u, dual, parts = _start(z, valid, parts, init, fixed=means is not None)
    found = solver.solve(
        z,
        edge_weights(z, beta=beta, valid=valid),
        lam=torch.where(constant, 1.0, weight),
        valid=valid,
        extra=extra,
        u=torch.where(constant[:, None, None], 0.0, u),
        dual=dual,
        means=parts,
        skip=constant,
        stay=flat,
    )
    return _with_constant(found, constant, weight if lam is not None else torch.where(constant, torch.nan, weight))


def _or_one(squares: Tensor) -> Tensor:
    """Replace 0: without any contrast, nothing hangs on lambda."""
    return torch.where(squares > 0, squares, 1.0)


def _with_constant(found: BatchSolution, constant: Tensor, lam: Tensor) -> BatchSolution:
    """Say which maps were constant, and the lambda that was used on the others."""
    return BatchSolution(
        u=found.u,
        dual=None if found.dual is None else torch.where(constant[:, None, None, None], 0.0, found.dual),
        c1=found.c1,
        c2=found.c2,
        lam=lam,
        energy=torch.where(constant, 0.0, found.energy),
        gap=found.gap,
        iterations=found.iterations,
        status=torch.where(constant, STATUSES.index("constant"), found.status),
    )


def _start(
    z: Tensor,
    valid: Tensor | None,
    parts: tuple[Tensor, Tensor],
    init: tuple[Tensor, Tensor | None] | None,
    *,
    fixed: bool,
) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
    """u, dual variable and means to start from: cells nearer to c1 than to c2, or a former solution and its means."""
    c1, c2 = parts
    if init is None:
        threshold = ((c1 + c2) / 2).to(z.dtype)[:, None, None]
        return _only((z > threshold).to(z.dtype), valid), None, parts
    u = _only(init[0].clamp(0, 1).to(z.dtype), valid)
    if fixed:
        return u, init[1], parts
    inside, outside = (_mean(z, weight, c1.dtype) for weight in (u, _only(1 - u, valid)))
    ordered = inside > outside  # not where nothing is inside, or nothing outside, or they are upside down
    return u, init[1], (torch.where(ordered, inside, c1), torch.where(ordered, outside, c2))


def _mean(z: Tensor, weight: Tensor, wide: torch.dtype) -> Tensor:
    """Weighted mean of each map; NaN without weight. Map by map, so that companions change no rounding."""
    pairs = zip(z.to(wide), weight.to(wide), strict=True)
    return torch.stack([(values * share).sum() / share.sum() for values, share in pairs])


def _only(values: Tensor, valid: Tensor | None) -> Tensor:
    return values if valid is None else torch.where(valid, values, torch.zeros((), device=values.device))


def _range(z: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and largest value of each map over its valid cells."""
    if valid is None:
        return z.amin(dim=(1, 2)), z.amax(dim=(1, 2))
    return torch.where(valid, z, torch.inf).amin(dim=(1, 2)), torch.where(valid, z, -torch.inf).amax(dim=(1, 2))


class BatchSolver:
    """Solver for batches of one layout, which keeps its memory, and its graph where there is one, between solves.

    Parameters
    ----------
    layout : Layout
        Of the batches.
    limits : Limits
        When to stop.
    kernel : {"auto", "eager", "triton"}
        Plain torch, or Triton; "auto" takes Triton on CUDA where it can build (it needs a C compiler and Python's
        headers, which slim images lack).

    Raises
    ------
    NumericsError
        Triton is asked for and not installed.
    """

    def __init__(self, layout: Layout, limits: Limits, *, kernel: Kernel = "auto") -> None:
        self.layout, self.limits = layout, limits
        plane, one = layout.plane, layout.per_map
        scales = Scales(*(one(1.0, torch.float32) for _ in range(3)))
        self.maps = Maps(plane(), plane(), plane() if layout.forced else None, scales)
        self.planes = _planes(layout, self.maps, kernel)
        self.lam, self.low, self.high, self.gap = (one() for _ in range(4))
        # Of the cells inside and outside: means, their last drifts; sums of 1 and of z over both, in fixed point.
        self.means, self.drift = (torch.stack([one(), one()]) for _ in range(2))
        self.count, self.total = one(0, torch.int64), one(0, torch.int64)
        self.done, self.ask, self.mass = (one(0, torch.int64) for _ in range(3))
        self.active, self.settled = one(0, torch.bool), one(0, torch.bool)
        # Maps whose means met once: they wait longer; and those whose means stay.
        self.patient, self.fixed = one(0, torch.bool), one(0, torch.bool)
        self.first, self.due = torch.zeros_like(self.means), one(0, torch.int64)
        self.replay: Callable[[], None] | None = None

    def solve(
        self,
        z: Tensor,
        g: Tensor,
        *,
        lam: Tensor,
        valid: Tensor | None,
        extra: Tensor | None,
        u: Tensor,
        dual: Tensor | None,
        means: tuple[Tensor, Tensor],
        skip: Tensor | None = None,
        stay: Tensor | None = None,
    ) -> BatchSolution:
        """Minimise the energy; parameters as the fields of `Problem` and `Start`, stacked, on the device.

        Maps in `skip`, (count,) bool, are not touched; those in `stay` keep their means.
        """
        on_cuda = self.layout.device.type == "cuda"
        with torch.cuda.device(self.layout.device) if on_cuda else contextlib.nullcontext():
            self._load(z, g, lam, valid, extra, means)
            self.planes.load(u, dual)
            if on_cuda and self.replay is None:
                self.replay = self._captured()
            self.active.copy_(torch.ones_like(self.active) if skip is None else ~skip)
            if stay is not None:
                self.fixed.logical_or_(stay)
            self._run()
            return self._solution(valid)

    def _load(
        self,
        z: Tensor,
        g: Tensor,
        lam: Tensor,
        valid: Tensor | None,
        extra: Tensor | None,
        means: tuple[Tensor, Tensor],
    ) -> None:
        """Take maps and means, and find the scales of the sums."""
        layout = self.layout
        given = Layout.of(z, layout.neighbourhood, masked=valid is not None, forced=extra is not None)
        if given.shape != layout.shape or given.masked > layout.masked or given.forced > layout.forced:
            raise NumericsError(f"this solver takes maps of {layout}, got {given}")
        self.maps.z.copy_(z)
        self.maps.g.copy_(g if valid is None else torch.where(valid, g, OUTSIDE))
        largest_extra = torch.zeros_like(self.lam)
        if self.maps.extra is not None:
            self.maps.extra.copy_(torch.zeros_like(z) if extra is None else extra)
            largest_extra = self.maps.extra.abs().amax(dim=(1, 2)).to(self.lam.dtype)
        wide, cells = layout.wide, z[0].numel()
        for mine, value in zip((self.low, self.high), _range(z, valid), strict=True):
            mine.copy_(value)
        self.means.copy_(torch.stack(means).to(torch.float32))
        self.first.copy_(self.means)
        self.fixed.fill_(self.limits.fixed_means)
        self.lam.copy_(lam)
        furthest = torch.maximum(self.high, torch.maximum(*means)) - torch.minimum(self.low, torch.minimum(*means))
        scales = self.maps.scales
        scales.mass.copy_(fixed_scale(torch.ones_like(self.lam), cells))
        scales.weighted.copy_(fixed_scale(torch.maximum(self.low.abs(), self.high.abs()), cells))
        scales.value.copy_(fixed_scale(lam.to(wide) * furthest**2 + largest_extra + LARGEST_SLOPE, cells))
        counts = torch.full_like(self.count, cells) if valid is None else valid.sum(dim=(1, 2))
        self.count.copy_(counts * scales.mass.to(torch.int64))
        self.total.copy_(fixed_sum(z * scales.weighted[:, None, None]))
        counters = self.done, self.ask, self.due, self.mass
        for tensor in (self.drift, self.gap, *counters, self.settled, self.patient, self.active):
            tensor.zero_()

    def _run(self) -> None:
        """Sweep until all maps have stopped."""
        left = self.limits.max_iter
        watch = _Watch(self.active)
        while left > 0:
            left -= self._turn(left)
            if not watch.still_going():
                return

    def _turn(self, left: int) -> int:
        """Do the iterations that are given to the device at once; tell how many."""
        if self.replay is not None and left >= 2 * self.limits.sweep:
            self.replay()
            return 2 * self.limits.sweep
        iterations = min(self.limits.sweep, left)
        self.sweep(iterations)
        return iterations

    def sweep(self, iterations: int) -> None:
        """Iterate, update the means and see who has settled; see `wsipipe.numerics.solvers.alternation.alternate`."""
        c1, c2 = self.means
        weight = self.lam * (c1 - c2)
        force = torch.stack([-2 * weight, weight * (c1 + c2)]).to(torch.float32)
        self.planes.advance(force[0], force[1], self.active, iterations)
        self.done.add_(self.active, alpha=iterations)
        fitted = self._fitted()
        drift = fitted - self.means
        still = drift.abs().amax(dim=0) <= self.limits.tol * (self.high - self.low)
        last = self.done >= self.limits.max_iter
        due = self.active & (last | (self.done >= self.due))
        met = due & ~(self.fixed | last | (fitted[0] > fitted[1]))
        needed = due & ~met & (last | (still & (self.done >= self.ask)))
        if self.layout.device.type != "cpu" or bool(needed.any()):  # a look costs nothing on a CPU, a certificate does
            self._certify(needed, still, last)
        if not self.limits.fixed_means:
            self._move_means(fitted, drift, due & ~met)
            if self.layout.device.type != "cpu" or bool(met.any()):
                self._start_again(met)
            wait = SLOW * self.limits.sweep * self.patient
            self.due.copy_(torch.where(due, self.done + wait, self.due))

    def _start_again(self, met: Tensor) -> None:
        """Start maps whose means met anew, patiently; the second time with one mean for good."""
        wide, scales = self.means.dtype, self.maps.scales
        mean = _single((self.total.to(wide) / scales.weighted) / (self.count.to(wide) / scales.mass))
        again = met & self.patient
        self.planes.clear(met)
        self.means.copy_(torch.where(again, mean, torch.where(met, self.first, self.means)))
        self.fixed.logical_or_(again)
        self.patient.copy_((self.patient | met) & ~again)
        self.ask.copy_(torch.where(met, self.done, self.ask))

    def _fitted(self) -> Tensor:
        """Means of u, (2, count), and those of before where a phase has vanished."""
        mass, weighted = self.planes.region()
        self.mass.copy_(torch.where(self.active, mass, self.mass))
        wide, scales = self.layout.wide, self.maps.scales
        weights = torch.stack([mass, self.count - mass]).to(wide) / scales.mass
        sums = torch.stack([weighted, self.total - weighted]).to(wide) / scales.weighted
        return torch.where((weights >= HALF_A_CELL) & ~self.fixed, _single(sums / weights), self.means)

    def _certify(self, needed: Tensor, still: Tensor, last: Tensor) -> None:
        """Measure the duality gap of the maps that need it, and stop those that are done."""
        primal, dual, total = self.planes.values(needed)
        wide = self.layout.wide
        gap = ((primal - dual).to(wide) / total.to(wide)).masked_fill(total == 0, 0.0)
        good = gap <= self.limits.tol
        self.gap.copy_(torch.where(needed, gap, self.gap))
        self.ask.copy_(torch.where(needed, self.done + self.done // PATIENCE, self.ask))
        self.settled.logical_or_(needed & still & good)
        self.active.logical_and_(~(needed & (last | good)))

    def _move_means(self, fitted: Tensor, drift: Tensor, due: Tensor) -> None:
        """Means for the next sweep; see `wsipipe.numerics.solvers.alternation.Drift`."""
        ratio = (drift / self.drift).masked_fill((self.drift == 0) | self.patient, 0.0).clamp(0, FURTHEST)
        ends = _single(torch.minimum(torch.maximum(self.means + drift / (1 - ratio), self.low), self.high))
        means = torch.where(ends[0] > ends[1], ends, fitted)
        moves = self.active & due & ~self.fixed
        self.means.copy_(torch.where(moves, means, self.means))
        self.drift.copy_(torch.where(moves, drift, self.drift))

    def _captured(self) -> Callable[[], None]:
        """Capture two sweeps as a CUDA graph; two, so that each iteration finds its buffers where they were.

        No map is active while the kernels are compiled and tried, so that nothing moves.
        """
        self.active.zero_()
        for _ in range(2):
            self.sweep(self.limits.sweep)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may load data meanwhile
            for _ in range(2):
                self.sweep(self.limits.sweep)
        replay: Callable[[], None] = graph.replay
        return replay

    def _solution(self, valid: Tensor | None) -> BatchSolution:
        half = HALF_A_CELL * self.maps.scales.mass
        status = torch.where(self.mass < half, 1, torch.where(self.count - self.mass < half, 2, 0))
        u = _only(self.planes.segmentation(self.done), valid)
        return BatchSolution(
            u=u,
            dual=self.planes.dual(self.done) if self.limits.keep_dual else None,
            c1=self.means[0].clone(),
            c2=self.means[1].clone(),
            lam=self.lam.clone(),
            energy=torch.stack([self._energy(index, u[index]) for index in range(len(u))]),
            gap=self.gap.clone(),
            iterations=self.done.clone(),
            status=torch.where(self.settled, status, STATUSES.index("capped")),
        )

    def _energy(self, index: int, u: Tensor) -> Tensor:
        """E of one map: map by map, so that companions change no rounding."""
        extra = None if self.maps.extra is None else self.maps.extra[index]
        z, g, means = self.maps.z[index], self.maps.g[index], self.means[:, index]
        return energy(z, u, g, extra, means, self.lam[index], neighbourhood=self.layout.neighbourhood)


class _Watch:
    """The host's view of the flags: at once on a CPU, else now and then, and on CUDA without making the device wait.

    On CUDA the flags are copied while the device goes on, and the host waits for the copy of the look before: so the
    device always has work, and does at most two looks' turns for nothing.
    """

    def __init__(self, active: Tensor) -> None:
        self.active, self.turns = active, 0
        self.every = 1 if active.device.type == "cpu" else LOOK
        self.sent: list[tuple[Tensor, torch.cuda.Event]] = []

    def still_going(self) -> bool:
        """Tell whether a map may still be active."""
        self.turns += 1
        if self.turns % self.every:
            return True
        if self.active.device.type != "cuda":
            return bool(self.active.any())
        flag, arrived = torch.empty((), dtype=torch.bool, pin_memory=True), cast("Any", torch.cuda.Event)()
        flag.copy_(self.active.any(), non_blocking=True)
        arrived.record()
        self.sent.append((flag, arrived))
        if len(self.sent) == 1:
            return True
        flag, arrived = self.sent.pop(0)
        arrived.synchronize()
        return bool(flag)


def _planes(layout: Layout, maps: Maps, kernel: Kernel) -> Planes:
    """Choose how to iterate."""
    installed = importlib.util.find_spec("triton") is not None
    if kernel == "triton" and not installed:
        raise NumericsError("Triton is not installed", remedy='pip install triton, or kernel="eager"')
    if kernel == "triton" or (kernel == "auto" and layout.device.type == "cuda" and installed and _can_build()):
        from wsipipe.numerics.solvers.triton_kernels import TritonPlanes

        return TritonPlanes(layout, maps)
    return EagerPlanes(layout, maps)


def _can_build() -> bool:
    """Whether Triton finds what it builds its launchers with: a C compiler, and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and Path(sysconfig.get_paths()["include"], "Python.h").is_file()


def _single(values: Tensor) -> Tensor:
    """Round to float32, in which the iterations run."""
    return values.to(torch.float32).to(values.dtype)
