"""The iteration of `reference` on a batch of maps in plain torch, float32: for any device, and what Triton must equal.

Everything is done in place on whole planes, and nothing here waits for the device. A map that is not active keeps its
u and its dual variable to the last bit (its relaxation is 0), so that maps of one batch may settle at different times.

Sums are in fixed point: each value times a power of two becomes a whole number, and these are added up in 64 bits. So
they do not depend on the order of summation, hence not on the number of maps in a batch, and need no float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wsipipe.numerics.solvers.differences import CROFTON_WEIGHTS, OFFSETS, Neighbourhood, pair_slices
from wsipipe.numerics.solvers.reference import RHO, STEPS

OUTSIDE = -8.0  # stands for g on cells that do not count: the sum of two g is below 0 where there is no pair
FAINT = 1e-30  # least square of a length that is divided by
SUM_BITS = 60  # of the 63 of a whole number, so that no sum overflows
LARGEST_SLOPE = 4.0  # more than |grad^T p| can be for weights of at most 1
LARGEST_EXPONENT = 100  # of a scale, so that scaled values stay in the range of float32

Sums = tuple[Tensor, ...]
PairViews = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Layout:
    """What all batches that one solver takes have in common.

    Parameters
    ----------
    count, rows, cols : int
        Number of maps and their shape.
    neighbourhood : {"crofton", "isotropic"}
        How lengths are measured.
    masked, forced : bool
        Whether cells may not count, and whether there is an extra force.
    device : torch.device
        Where everything lies.
    """

    count: int
    rows: int
    cols: int
    neighbourhood: Neighbourhood
    masked: bool
    forced: bool
    device: torch.device

    @classmethod
    def of(cls, z: Tensor, neighbourhood: Neighbourhood, *, masked: bool, forced: bool) -> Layout:
        """Layout of maps like z, (count, rows, cols)."""
        count, rows, cols = z.shape
        return cls(count, rows, cols, neighbourhood, masked, forced, z.device)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(count, rows, cols)."""
        return self.count, self.rows, self.cols

    @property
    def pairs(self) -> tuple[int, int, int, int]:
        """(count, k, rows, cols)."""
        return self.count, len(OFFSETS[self.neighbourhood]), self.rows, self.cols

    @property
    def wide(self) -> torch.dtype:
        """Type of means, gaps and energies: float64, or float32 on Apple's GPUs, which have no float64."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def plane(self, fill: float = 0.0) -> Tensor:
        """(count, rows, cols) float32."""
        return torch.full(self.shape, fill, device=self.device)

    def per_map(self, fill: float = 0.0, dtype: torch.dtype | None = None) -> Tensor:
        """(count,), by default in the wide type."""
        return torch.full((self.count,), fill, dtype=dtype or self.wide, device=self.device)


@dataclass(frozen=True)
class Scales:
    """Powers of two, (count,) float32, that turn w, z w and values of the energy into whole numbers."""

    mass: Tensor
    weighted: Tensor
    value: Tensor


@dataclass(frozen=True)
class Maps:
    """What stays fixed during a solve.

    Parameters
    ----------
    z, g, extra : (count, rows, cols) float32 tensors
        Contrast maps, edge detector (`OUTSIDE` on cells that do not count), extra force (None without one). z and
        extra are 0 on cells that do not count.
    scales : Scales
        For the sums.
    """

    z: Tensor
    g: Tensor
    extra: Tensor | None
    scales: Scales


class Planes(Protocol):
    """u and the dual variable of a batch, and how to move and to measure them."""

    def load(self, u: Tensor, dual: Tensor | None) -> None:
        """Take a start."""
        ...

    def advance(self, slope: Tensor, offset: Tensor, active: Tensor, iterations: int) -> None:
        """Do iterations on the active maps under the force slope z + offset + extra; slope, offset (count,) float32."""
        ...

    def clear(self, which: Tensor) -> None:
        """Set u and the dual variable of some maps, (count,) bool, to 0."""
        ...

    def region(self) -> Sums:
        """Sum w and z w with w = u clipped to [0, 1], in fixed point; of use for active maps."""
        ...

    def values(self, needed: Tensor) -> Sums:
        """Primal value, dual value and sum |f| under the last force, in fixed point; of use for the maps needed."""
        ...

    def segmentation(self, done: Tensor) -> Tensor:
        """Clipped u after `done` iterations on each map, in memory of its own."""
        ...

    def dual(self, done: Tensor) -> Tensor:
        """Dual variable after `done` iterations on each map, in memory of its own."""
        ...


class EagerPlanes:
    """`Planes` in plain torch.

    Parameters
    ----------
    layout : Layout
        Of the batch.
    maps : Maps
        Of that layout; read whenever a start is loaded, so that their contents may change between solves.
    """

    def __init__(self, layout: Layout, maps: Maps) -> None:
        self.layout, self.maps = layout, maps
        self.kind = layout.neighbourhood
        self.u, self.f, self.t, self.ahead = (layout.plane() for _ in range(4))
        self.p = torch.zeros(layout.pairs, device=layout.device)
        self.q = torch.zeros_like(self.p)
        self.bound = torch.zeros_like(self.p) if self.kind == "crofton" else layout.plane()
        self.floor = torch.zeros_like(self.bound)
        # Bounds of 0 do without, and forward differences need it only where there is a mask.
        self.exist = torch.zeros_like(self.p) if layout.masked and self.kind == "isotropic" else None
        self.counts = layout.plane(1.0)
        # Views of the pairs' cells, once and for all: on small maps, to take them costs as much as to work on them.
        self.p_pairs, self.q_pairs = _pair_views(self.p, self.kind), _pair_views(self.q, self.kind)
        cells = [tuple(_batch(part) for part in pair_slices(offset)) for offset in OFFSETS[self.kind]]
        self.t_second = [self.t[second] for _, second in cells]
        self.ahead_pairs = [(self.ahead[first], self.ahead[second]) for first, second in cells]

    def load(self, u: Tensor, dual: Tensor | None) -> None:
        """See `Planes`."""
        g = self.maps.g
        self.counts.copy_(g > 0)
        if self.exist is not None:
            self.exist.copy_(pairs_exist(g > 0, self.kind))
        self.bound.copy_(crofton_bounds(g) if self.kind == "crofton" else g.clamp(min=0))
        torch.neg(self.bound, out=self.floor)
        self.u.copy_(u * self.counts)
        self.p.zero_()
        if dual is not None:
            self.p.copy_(dual * pairs_exist(g > 0, self.kind))
        self.q.zero_()

    def clear(self, which: Tensor) -> None:
        """See `Planes`."""
        self.u.masked_fill_(which[:, None, None], 0.0)
        self.p.masked_fill_(which[:, None, None, None], 0.0)

    def advance(self, slope: Tensor, offset: Tensor, active: Tensor, iterations: int) -> None:
        """See `Planes`."""
        torch.mul(self.maps.z, _cells(slope), out=self.f).add_(_cells(offset))
        if self.layout.masked:
            self.f.mul_(self.counts)
        if self.maps.extra is not None:
            self.f.add_(self.maps.extra)
        rho = RHO * active.to(torch.float32)
        tau, sigma = STEPS[self.kind]
        for _ in range(iterations):
            self._primal(tau, _cells(rho))
            self._dual(sigma, _cells(rho)[:, None])

    def _primal(self, tau: float, rho: Tensor) -> None:
        step = torch.add(self.u, self._slope(self.p_pairs), alpha=-tau, out=self.t).clamp_(0, 1).sub_(self.u)
        torch.add(self.u, step, alpha=2, out=self.ahead)
        self.u.addcmul_(step, rho)

    def _dual(self, sigma: float, rho: Tensor) -> None:
        self._differences()
        torch.add(self.p, self.q, alpha=sigma, out=self.q)
        self._project(self.q)
        self.p.lerp_(self.q, rho)

    def _slope(self, pairs: list[PairViews]) -> Tensor:
        """Put f + grad^T p into `t`; p is 0 where there is no pair."""
        (p, _), *others = pairs
        torch.sub(self.f, p, out=self.t)
        for p, _ in others:
            self.t.sub_(p)
        for second, (_, first) in zip(self.t_second, pairs, strict=True):
            second.add_(first)
        return self.t

    def _differences(self) -> None:
        """Put the differences of `ahead` into `q`, which is 0 past the border and stays so."""
        for (first, second), (_, q) in zip(self.ahead_pairs, self.q_pairs, strict=True):
            torch.sub(second, first, out=q)

    def _project(self, q: Tensor) -> None:
        """Bring q within the bounds of dual variables."""
        if self.kind == "crofton":
            torch.clamp(q, self.floor, self.bound, out=q)
            return
        if self.exist is not None:
            q.mul_(self.exist)
        shrink = self._lengths(q).clamp_(min=FAINT).rsqrt_().mul_(self.bound).clamp_(max=1)
        q.mul_(shrink[:, None])

    def _lengths(self, q: Tensor) -> Tensor:
        """Squared lengths of pairs of differences, into `t`."""
        return torch.mul(q[:, 0], q[:, 0], out=self.t).addcmul_(q[:, 1], q[:, 1])

    def region(self) -> Sums:
        """See `Planes`."""
        scales = self.maps.scales
        w = torch.clamp(self.u, 0, 1, out=self.ahead)
        mass = fixed_sum(torch.mul(w, _cells(scales.mass), out=self.t))
        return mass, fixed_sum(w.mul_(self.maps.z).mul_(_cells(scales.weighted)))

    def values(self, needed: Tensor) -> Sums:
        """See `Planes`."""
        del needed  # whole planes at a time
        scale = _cells(self.maps.scales.value)
        self._project(self.q.copy_(self.p))
        dual = fixed_sum(self._slope(self.q_pairs).clamp_(max=0).mul_(scale))
        w = torch.clamp(self.u, 0, 1, out=self.ahead)
        length = self._length()
        fit = fixed_sum(w.mul_(self.f).mul_(scale))
        return length + fit, dual, fixed_sum(torch.abs(self.f, out=self.t).mul_(scale))

    def _length(self) -> Tensor:
        """Sum g |grad w| of w = `ahead`, fixed."""
        scale = _cells(self.maps.scales.value)
        self._differences()
        if self.kind == "crofton":
            return fixed_sum(self.q.abs_().mul_(self.bound).mul_(scale[:, None]))
        if self.exist is not None:
            self.q.mul_(self.exist)
        return fixed_sum(self._lengths(self.q).sqrt_().mul_(self.bound).mul_(scale))

    def segmentation(self, done: Tensor) -> Tensor:
        """See `Planes`."""
        del done  # maps that have stopped stay as they are
        return self.u.clamp(0, 1)

    def dual(self, done: Tensor) -> Tensor:
        """See `Planes`."""
        del done
        return self.p.clone()


def pairs_exist(counts: Tensor, neighbourhood: Neighbourhood) -> Tensor:
    """Which pairs have two cells that count: (count, rows, cols) bool -> (count, k, rows, cols) bool."""
    offsets = OFFSETS[neighbourhood]
    out = counts.new_zeros((counts.shape[0], len(offsets), *counts.shape[1:]))
    for k, offset in enumerate(offsets):
        first, second = (_batch(cells) for cells in pair_slices(offset))
        out[:, k][first] = counts[first] & counts[second]
    return out


def crofton_bounds(g: Tensor) -> Tensor:
    """Weights of pairs, (count, 4, rows, cols), from g with `OUTSIDE` on cells that do not count.

    See `wsipipe.numerics.solvers.differences.crofton_weights`.
    """
    out = g.new_zeros((g.shape[0], len(CROFTON_WEIGHTS), *g.shape[1:]))
    for k, (offset, weight) in enumerate(zip(OFFSETS["crofton"], CROFTON_WEIGHTS, strict=True)):
        first, second = (_batch(cells) for cells in pair_slices(offset))
        out[:, k][first] = (g[first] + g[second]).mul_(weight / 2).clamp_(min=0)
    return out


def fixed_sum(scaled: Tensor) -> Tensor:
    """Add up scaled values of each map as whole numbers: (count, ...) -> (count,) int64."""
    return scaled.to(torch.int64).flatten(1).sum(dim=1)


def fixed_scale(largest: Tensor, cells: int) -> Tensor:
    """Power of two, float32, that makes whole numbers of values of at most `largest`, of which `cells` can be added."""
    bits = SUM_BITS - math.ceil(math.log2(cells))
    exponent = bits - torch.ceil(torch.log2(largest.clamp(min=FAINT)))
    return torch.exp2(exponent.clamp(max=LARGEST_EXPONENT)).to(torch.float32)


def energy(
    z: Tensor,
    u: Tensor,
    g: Tensor,
    extra: Tensor | None,
    means: Tensor,
    lam: Tensor,
    *,
    neighbourhood: Neighbourhood,
) -> Tensor:
    """E of one map, (rows, cols), in the type of lam; g is `OUTSIDE` on cells that do not count, and u and extra 0.

    See `wsipipe.numerics.energy.energy`.
    """
    z, u, g = (plane.to(lam.dtype) for plane in (z, u, g))
    fit = torch.where(g > 0, (z - means[0]) ** 2 * u + (z - means[1]) ** 2 * (1 - u), 0.0).sum()
    length = (_crofton_length if neighbourhood == "crofton" else _isotropic_length)(u, g)
    added = 0.0 if extra is None else (extra.to(lam.dtype) * u).sum()
    return length + lam * fit + added


def _crofton_length(u: Tensor, g: Tensor) -> Tensor:
    total = u.new_zeros(())
    for offset, weight in zip(OFFSETS["crofton"], CROFTON_WEIGHTS, strict=True):
        first, second = pair_slices(offset)
        pairs = (g[first] + g[second]).clamp_(min=0).mul_(weight / 2)
        total = total + pairs.mul_((u[second] - u[first]).abs_()).sum()
    return total


def _isotropic_length(u: Tensor, g: Tensor) -> Tensor:
    squares = torch.zeros_like(u)
    for offset in OFFSETS["isotropic"]:
        first, second = pair_slices(offset)
        squares[first] += torch.where(g[second] > 0, u[second] - u[first], 0.0) ** 2
    return (g.clamp(min=0) * squares.sqrt_()).sum()


def _pair_views(p: Tensor, neighbourhood: Neighbourhood) -> list[PairViews]:
    """Each plane of dual variables, whole and without the cells that no pair starts at."""
    firsts = [pair_slices(offset)[0] for offset in OFFSETS[neighbourhood]]
    return [(p[:, k], p[:, k][_batch(first)]) for k, first in enumerate(firsts)]


def _batch(cells: tuple[slice, slice]) -> tuple[slice, slice, slice]:
    return slice(None), *cells


def _cells(values: Tensor) -> Tensor:
    """(count,) -> (count, 1, 1), to go with planes."""
    return values[:, None, None]
