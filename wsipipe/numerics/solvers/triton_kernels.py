"""The iteration of `torch_planes` in Triton: one pass over memory for each iteration, u and the dual variable together.

The dual step at a cell needs 2 v - u of the cell and of its neighbours to the right and below. Rather than write that
out and read it again, each cell computes it for its neighbours too, from values that are in the nearest cache. So an
iteration reads u, z, g and the dual planes once and writes u and the dual planes once: 48 bytes per cell with eight
neighbours, 32 with forward differences, and 4 more with an extra force. Neighbours still need the old values, so there
are two sets of buffers that swap roles; a map's state lies in the set that its number of iterations names.

Maps that are not active cost a look at their flag. Sums are fixed-point whole numbers, as in `torch_planes`.

Not measured on a GPU: the arithmetic is tested in Triton's interpreter, and the kernels compile for NVIDIA's sm_90.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from wsipipe.numerics.solvers.reference import RHO, STEPS
from wsipipe.numerics.solvers.torch_planes import FAINT, OUTSIDE, Layout, Maps, Sums, pairs_exist

P = ParamSpec("P")
R = TypeVar("R")
Arguments = dict[str, Tensor | int | float | bool]

ROWS, COLS = 8, 64  # cells of a tile
WARPS = 16  # so that each thread has one cell: with eight neighbours, four of them spill registers


def device_code(function: Callable[P, R]) -> Callable[P, R]:
    """Compile for the device, as a kernel or as part of one."""
    return cast("Callable[P, R]", triton.jit(function))


AXIS = tl.constexpr(math.pi / 16)  # Crofton weight of an axis pair, halved: it multiplies the sum of two g
DIAGONAL = tl.constexpr(math.pi / (16 * math.sqrt(2)))
NO_CELL = tl.constexpr(OUTSIDE)
NO_LENGTH = tl.constexpr(FAINT)


# --- pieces ------------------------------------------------------------------------------------------------------


@device_code
def _at(
    plane: tl.tensor, i: tl.tensor, j: tl.tensor, rows: tl.tensor, cols: tl.tensor, other: tl.constexpr
) -> tl.tensor:
    """Values of a plane at cells (i, j); `other` where there is none."""
    inside = (i >= 0) & (i < rows) & (j >= 0) & (j < cols)
    return tl.load(plane + i * cols + j, mask=inside, other=other)


@device_code
def _unit(value: tl.tensor) -> tl.tensor:
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@device_code
def _clamp(value: tl.tensor, bound: tl.tensor) -> tl.tensor:
    return tl.maximum(tl.minimum(value, bound), -bound)


@device_code
def _weight(first: tl.tensor, second: tl.tensor, factor: tl.constexpr) -> tl.tensor:
    """Crofton weight of a pair from the edge detector of its cells; 0 where there is no pair."""
    return tl.maximum((first + second) * factor, 0.0)  # the constant second: the interpreter knows no other order


@device_code
def _shrink(across: tl.tensor, down: tl.tensor, bound: tl.tensor) -> tl.tensor:
    """Factor that brings (across, down) to a length of at most `bound`."""
    square = tl.maximum(across * across + down * down, NO_LENGTH)
    return tl.minimum(tl.maximum(bound, 0.0) / tl.sqrt(square), 1.0)


@device_code
def _force(
    z: tl.tensor,
    extra: tl.tensor,
    g: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    slope: tl.tensor,
    offset: tl.tensor,
    FORCED: tl.constexpr,
) -> tl.tensor:
    """Force at cells whose edge detector is g; 0 where they do not count."""
    f = slope * _at(z, i, j, rows, cols, 0.0) + offset
    if FORCED:
        f += _at(extra, i, j, rows, cols, 0.0)
    return tl.where(g > 0.0, f, 0.0)


@device_code
def _adjoint(
    p: tl.tensor, i: tl.tensor, j: tl.tensor, rows: tl.tensor, cols: tl.tensor, CROFTON: tl.constexpr
) -> tl.tensor:
    """Transposed differences of the dual planes that start at p."""
    size = rows * cols
    down = p + size
    out = (_at(p, i, j - 1, rows, cols, 0.0) - _at(p, i, j, rows, cols, 0.0)) + (
        _at(down, i - 1, j, rows, cols, 0.0) - _at(down, i, j, rows, cols, 0.0)
    )
    if CROFTON:
        right_below, left_below = down + size, down + 2 * size
        out += (_at(right_below, i - 1, j - 1, rows, cols, 0.0) - _at(right_below, i, j, rows, cols, 0.0)) + (
            _at(left_below, i - 1, j + 1, rows, cols, 0.0) - _at(left_below, i, j, rows, cols, 0.0)
        )
    return out


# --- one iteration -----------------------------------------------------------------------------------------------


@device_code
def _primal(
    u: tl.tensor,
    z: tl.tensor,
    extra: tl.tensor,
    p: tl.tensor,
    g: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    slope: tl.tensor,
    offset: tl.tensor,
    tau: tl.constexpr,
    CROFTON: tl.constexpr,
    FORCED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Find u and v - u at cells whose edge detector is g."""
    x = _at(u, i, j, rows, cols, 0.0)
    f = _force(z, extra, g, i, j, rows, cols, slope, offset, FORCED)
    return x, _unit(x - tau * (f + _adjoint(p, i, j, rows, cols, CROFTON))) - x


@device_code
def _relaxed(
    p: tl.tensor,
    out: tl.tensor,
    q: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    rho: tl.constexpr,
) -> None:
    """Write p + rho (q - p)."""
    old = _at(p, i, j, rows, cols, 0.0)
    tl.store(out + i * cols + j, old + rho * (q - old), mask=(i < rows) & (j < cols))


@device_code
def _iterate_tile(
    u: tl.tensor,
    p: tl.tensor,
    u_out: tl.tensor,
    p_out: tl.tensor,
    z: tl.tensor,
    g: tl.tensor,
    extra: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    slope: tl.tensor,
    offset: tl.tensor,
    tau: tl.constexpr,
    sigma: tl.constexpr,
    rho: tl.constexpr,
    CROFTON: tl.constexpr,
    FORCED: tl.constexpr,
) -> None:
    """One iteration on cells (i, j) of one map, whose planes the pointers start."""
    size = rows * cols
    gx = _at(g, i, j, rows, cols, NO_CELL)
    x, step = _primal(u, z, extra, p, gx, i, j, rows, cols, slope, offset, tau, CROFTON, FORCED)
    tl.store(u_out + i * cols + j, x + rho * step, mask=(i < rows) & (j < cols))
    here = x + 2.0 * step

    g_right = _at(g, i, j + 1, rows, cols, NO_CELL)
    x, step = _primal(u, z, extra, p, g_right, i, j + 1, rows, cols, slope, offset, tau, CROFTON, FORCED)
    right = _at(p, i, j, rows, cols, 0.0) + sigma * ((x + 2.0 * step) - here)
    g_below = _at(g, i + 1, j, rows, cols, NO_CELL)
    x, step = _primal(u, z, extra, p, g_below, i + 1, j, rows, cols, slope, offset, tau, CROFTON, FORCED)
    below = _at(p + size, i, j, rows, cols, 0.0) + sigma * ((x + 2.0 * step) - here)
    if CROFTON:
        _relaxed(p, p_out, _clamp(right, _weight(gx, g_right, AXIS)), i, j, rows, cols, rho)
        _relaxed(p + size, p_out + size, _clamp(below, _weight(gx, g_below, AXIS)), i, j, rows, cols, rho)
        other, out = p + 2 * size, p_out + 2 * size
        gy = _at(g, i + 1, j + 1, rows, cols, NO_CELL)
        x, step = _primal(u, z, extra, p, gy, i + 1, j + 1, rows, cols, slope, offset, tau, CROFTON, FORCED)
        q = _at(other, i, j, rows, cols, 0.0) + sigma * ((x + 2.0 * step) - here)
        _relaxed(other, out, _clamp(q, _weight(gx, gy, DIAGONAL)), i, j, rows, cols, rho)
        other, out = other + size, out + size
        gy = _at(g, i + 1, j - 1, rows, cols, NO_CELL)
        x, step = _primal(u, z, extra, p, gy, i + 1, j - 1, rows, cols, slope, offset, tau, CROFTON, FORCED)
        q = _at(other, i, j, rows, cols, 0.0) + sigma * ((x + 2.0 * step) - here)
        _relaxed(other, out, _clamp(q, _weight(gx, gy, DIAGONAL)), i, j, rows, cols, rho)
    else:
        right = tl.where(g_right > 0.0, right, 0.0)
        below = tl.where(g_below > 0.0, below, 0.0)
        shrink = _shrink(right, below, gx)
        _relaxed(p, p_out, right * shrink, i, j, rows, cols, rho)
        _relaxed(p + size, p_out + size, below * shrink, i, j, rows, cols, rho)


@device_code
def iterate(
    u: tl.tensor,
    p: tl.tensor,
    u_out: tl.tensor,
    p_out: tl.tensor,
    z: tl.tensor,
    g: tl.tensor,
    extra: tl.tensor,
    active: tl.tensor,
    slopes: tl.tensor,
    offsets: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    planes: tl.constexpr,
    tau: tl.constexpr,
    sigma: tl.constexpr,
    rho: tl.constexpr,
    FORCED: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr,
) -> None:
    """Do one iteration: program (column of tiles, row of tiles, map) reads `u`, `p` and writes `u_out`, `p_out`."""
    m = tl.program_id(2)
    if tl.load(active + m) != 0:
        i = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)[:, None]
        j = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)[None, :]
        first = m.to(tl.int64) * rows * cols
        _iterate_tile(
            u + first,
            p + planes * first,
            u_out + first,
            p_out + planes * first,
            z + first,
            g + first,
            extra + first,
            i,
            j,
            rows,
            cols,
            tl.load(slopes + m),
            tl.load(offsets + m),
            tau,
            sigma,
            rho,
            planes == 4,
            FORCED,
        )


# --- sums --------------------------------------------------------------------------------------------------------


@device_code
def _put_sum(values: tl.tensor, scale: tl.tensor, out: tl.tensor) -> None:
    """Write the fixed-point sum of a tile."""
    tl.store(out, tl.sum(tl.sum((values * scale).to(tl.int64), axis=1), axis=0))


@device_code
def sum_region(
    u: tl.tensor,
    z: tl.tensor,
    active: tl.tensor,
    mass_scales: tl.tensor,
    weighted_scales: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr,
) -> None:
    """Sum w and z w of a tile, w = u clipped to [0, 1], into its place of `out`, (map, tile row, tile column, 2)."""
    m = tl.program_id(2)
    if tl.load(active + m) != 0:
        i = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)[:, None]
        j = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)[None, :]
        first = m.to(tl.int64) * rows * cols
        w = _unit(_at(u + first, i, j, rows, cols, 0.0))
        tile = (m * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
        _put_sum(w, tl.load(mass_scales + m), out + 2 * tile)
        weighted = w * _at(z + first, i, j, rows, cols, 0.0)
        _put_sum(weighted, tl.load(weighted_scales + m), out + 2 * tile + 1)


@device_code
def _pair(
    w: tl.tensor,
    g: tl.tensor,
    p: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    down: tl.constexpr,
    right: tl.constexpr,
    rows: tl.tensor,
    cols: tl.tensor,
    factor: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Length that w has along the pairs whose first cells are (i, j), and their feasible dual variable."""
    weight = _weight(_at(g, i, j, rows, cols, NO_CELL), _at(g, i + down, j + right, rows, cols, NO_CELL), factor)
    step = _unit(_at(w, i + down, j + right, rows, cols, 0.0)) - _unit(_at(w, i, j, rows, cols, 0.0))
    return weight * tl.abs(step), _clamp(_at(p, i, j, rows, cols, 0.0), weight)


@device_code
def _crofton_certificate(
    u: tl.tensor, p: tl.tensor, g: tl.tensor, i: tl.tensor, j: tl.tensor, rows: tl.tensor, cols: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Length of each cell, and transposed differences of the feasible dual variable."""
    size = rows * cols
    down, right_below, left_below = p + size, p + 2 * size, p + 3 * size
    length, q = _pair(u, g, p, i, j, 0, 1, rows, cols, AXIS)
    _, before = _pair(u, g, p, i, j - 1, 0, 1, rows, cols, AXIS)
    adjoint = before - q
    more, q = _pair(u, g, down, i, j, 1, 0, rows, cols, AXIS)
    _, before = _pair(u, g, down, i - 1, j, 1, 0, rows, cols, AXIS)
    length, adjoint = length + more, adjoint + (before - q)
    more, q = _pair(u, g, right_below, i, j, 1, 1, rows, cols, DIAGONAL)
    _, before = _pair(u, g, right_below, i - 1, j - 1, 1, 1, rows, cols, DIAGONAL)
    length, adjoint = length + more, adjoint + (before - q)
    more, q = _pair(u, g, left_below, i, j, 1, -1, rows, cols, DIAGONAL)
    _, before = _pair(u, g, left_below, i - 1, j + 1, 1, -1, rows, cols, DIAGONAL)
    return length + more, adjoint + (before - q)


@device_code
def _isotropic_feasible(
    p: tl.tensor, g: tl.tensor, i: tl.tensor, j: tl.tensor, rows: tl.tensor, cols: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Dual variables within their bounds, to the right and down."""
    right, below = _at(p, i, j, rows, cols, 0.0), _at(p + rows * cols, i, j, rows, cols, 0.0)
    right = tl.where(_at(g, i, j + 1, rows, cols, NO_CELL) > 0.0, right, 0.0)
    below = tl.where(_at(g, i + 1, j, rows, cols, NO_CELL) > 0.0, below, 0.0)
    shrink = _shrink(right, below, _at(g, i, j, rows, cols, NO_CELL))
    return right * shrink, below * shrink


@device_code
def _isotropic_certificate(
    u: tl.tensor, p: tl.tensor, g: tl.tensor, i: tl.tensor, j: tl.tensor, rows: tl.tensor, cols: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Length of each cell, and transposed differences of the feasible dual variable."""
    right, below = _isotropic_feasible(p, g, i, j, rows, cols)
    before, _ = _isotropic_feasible(p, g, i, j - 1, rows, cols)
    _, above = _isotropic_feasible(p, g, i - 1, j, rows, cols)
    x = _unit(_at(u, i, j, rows, cols, 0.0))
    across = _unit(_at(u, i, j + 1, rows, cols, 0.0)) - x
    across = tl.where(_at(g, i, j + 1, rows, cols, NO_CELL) > 0.0, across, 0.0)
    down = _unit(_at(u, i + 1, j, rows, cols, 0.0)) - x
    down = tl.where(_at(g, i + 1, j, rows, cols, NO_CELL) > 0.0, down, 0.0)
    bound = tl.maximum(_at(g, i, j, rows, cols, NO_CELL), 0.0)
    return bound * tl.sqrt(across * across + down * down), (before - right) + (above - below)


@device_code
def sum_values(
    u: tl.tensor,
    p: tl.tensor,
    z: tl.tensor,
    g: tl.tensor,
    extra: tl.tensor,
    needed: tl.tensor,
    slopes: tl.tensor,
    offsets: tl.tensor,
    scales: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    planes: tl.constexpr,
    FORCED: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr,
) -> None:
    """Sum primal value, dual value and |f| of a tile into its place of `out`, (map, tile row, tile column, 3)."""
    m = tl.program_id(2)
    if tl.load(needed + m) != 0:
        i = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)[:, None]
        j = tl.program_id(0) * TILE_COLS + tl.arange(0, TILE_COLS)[None, :]
        first = m.to(tl.int64) * rows * cols
        u += first
        p += planes * first
        g += first
        f = _force(
            z + first,
            extra + first,
            _at(g, i, j, rows, cols, NO_CELL),
            i,
            j,
            rows,
            cols,
            tl.load(slopes + m),
            tl.load(offsets + m),
            FORCED,
        )
        if planes == 4:
            length, adjoint = _crofton_certificate(u, p, g, i, j, rows, cols)
        else:
            length, adjoint = _isotropic_certificate(u, p, g, i, j, rows, cols)
        # Tiles reach past the map: the slope there, from pairs that end in the map, is no cell's.
        slope = tl.where((i < rows) & (j < cols), f + adjoint, 0.0)
        scale = tl.load(scales + m)
        tile = (m * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
        _put_sum(length + f * _unit(_at(u, i, j, rows, cols, 0.0)), scale, out + 3 * tile)
        _put_sum(tl.minimum(slope, 0.0), scale, out + 3 * tile + 1)
        _put_sum(tl.abs(f), scale, out + 3 * tile + 2)


# --- from the host -----------------------------------------------------------------------------------------------


class TritonPlanes:
    """`wsipipe.numerics.solvers.torch_planes.Planes` in Triton.

    Parameters
    ----------
    layout, maps
        As for `wsipipe.numerics.solvers.torch_planes.EagerPlanes`.
    tile : (rows, cols)
        Cells that one program works on, powers of two.
    """

    def __init__(self, layout: Layout, maps: Maps, *, tile: tuple[int, int] = (ROWS, COLS)) -> None:
        self.layout, self.maps, self.tile = layout, maps, tile
        self.u = [layout.plane() for _ in range(2)]
        self.p = [torch.zeros(layout.pairs, device=layout.device) for _ in range(2)]
        self.held = 0  # where the state of active maps lies
        self.flags = layout.per_map(0, torch.int32)
        self.slope, self.offset = layout.per_map(0, torch.float32), layout.per_map(0, torch.float32)
        tiles = (layout.count, math.ceil(layout.rows / tile[0]) * math.ceil(layout.cols / tile[1]))
        self.region_sums = torch.zeros((*tiles, 2), dtype=torch.int64, device=layout.device)
        self.value_sums = torch.zeros((*tiles, 3), dtype=torch.int64, device=layout.device)

    def load(self, u: Tensor, dual: Tensor | None) -> None:
        """See `Planes`."""
        self.held = 0
        counts = self.maps.g > 0
        self.u[0].copy_(u * counts)
        self.p[0].zero_()
        if dual is not None:
            self.p[0].copy_(dual * pairs_exist(counts, self.layout.neighbourhood))

    def advance(self, slope: Tensor, offset: Tensor, active: Tensor, iterations: int) -> None:
        """See `Planes`."""
        self.flags.copy_(active)
        self.slope.copy_(slope)
        self.offset.copy_(offset)
        tau, sigma = STEPS[self.layout.neighbourhood]
        steps: Arguments = {"tau": tau, "sigma": sigma, "rho": RHO}
        for _ in range(iterations):
            new = 1 - self.held
            outputs: Arguments = {"u_out": self.u[new], "p_out": self.p[new], "active": self.flags}
            self._launch(iterate, self._state() | self._force() | steps | outputs)
            self.held = new

    def clear(self, which: Tensor) -> None:
        """See `Planes`."""
        self.u[self.held].masked_fill_(which[:, None, None], 0.0)
        self.p[self.held].masked_fill_(which[:, None, None, None], 0.0)

    def region(self) -> Sums:
        """See `Planes`."""
        scales = self.maps.scales
        given: Arguments = {"u": self.u[self.held], "z": self.maps.z, "active": self.flags, "out": self.region_sums}
        self._launch(sum_region, given | {"mass_scales": scales.mass, "weighted_scales": scales.weighted})
        return self.region_sums.sum(dim=1).unbind(dim=1)

    def values(self, needed: Tensor) -> Sums:
        """See `Planes`."""
        given: Arguments = {"needed": needed.to(torch.int32), "scales": self.maps.scales.value, "out": self.value_sums}
        self._launch(sum_values, self._state() | self._force() | given)
        return self.value_sums.sum(dim=1).unbind(dim=1)

    def _state(self) -> Arguments:
        return {"u": self.u[self.held], "p": self.p[self.held], "planes": self.p[0].shape[1], "g": self.maps.g}

    def _force(self) -> Arguments:
        extra = self.maps.z if self.maps.extra is None else self.maps.extra  # not read where there is none
        given: Arguments = {"z": self.maps.z, "extra": extra, "FORCED": self.maps.extra is not None}
        return given | {"slopes": self.slope, "offsets": self.offset}

    def _launch(self, kernel: Callable[..., None], arguments: Arguments) -> None:
        _, rows, cols = self.layout.shape
        tiles = (math.ceil(cols / self.tile[1]), math.ceil(rows / self.tile[0]), self.layout.count)
        shapes: Arguments = {"rows": rows, "cols": cols, "TILE_ROWS": self.tile[0], "TILE_COLS": self.tile[1]}
        cast("Any", kernel)[tiles](**arguments, **shapes, num_warps=WARPS)

    def segmentation(self, done: Tensor) -> Tensor:
        """See `Planes`."""
        return torch.where((done % 2 == 1)[:, None, None], self.u[1], self.u[0]).clamp_(0, 1)

    def dual(self, done: Tensor) -> Tensor:
        """See `Planes`."""
        return torch.where((done % 2 == 1)[:, None, None, None], self.p[1], self.p[0])
