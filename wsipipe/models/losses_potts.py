"""Dense Potts energy under a bilateral kernel, without its n x n matrix (Tang et al., ECCV 2018, eq. 4 and 6).

    E(S) = sum_pq W_pq [y_p (1 - y_q) + (1 - y_p) y_q],   W_pq = exp(-|x_p - x_q|^2 / 2)

over all pairs of cells, y the probability of one of two classes, x a cell's place and colour in bandwidths. The source
filters on a permutohedral lattice. Here W is taken as L B L': L interpolates linearly between the vertices of a regular
grid over place and colour, B is a Gaussian between vertices, a product of one small matrix per axis (a bilateral grid:
Paris and Durand, ECCV 2006). Interpolating twice blurs by spacing^2 / 3; B is narrower by that much. The result is
symmetric, and its gradient is that of the energy it gives.

Error against the n x n sum on an H&E image of 96 x 128 px, bandwidths of 10 to 100 px and 8 to 30 of 255 grey values:
energy 0.3% and gradient 0.5% (of its norm) at a spacing of 1/4 bandwidth, 0.5% and 1% at 0.35, 2% and 2.5% at 1/2, 14%
and 14% at 1. The spacing is the finest whose grid has at most four million vertices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wsipipe.errors import NumericsError

SPACINGS = (0.25, 0.35, 0.5, 0.7, 1.0)
_VERTICES, _MOST_VERTICES = 1 << 22, 1 << 24
# Interpolating at t between two vertices blurs by t (1 - t) spacing^2. The lowest point of each axis lies where that is
# the mean over t, spacing^2 / 6, so that an axis along which all points agree counts for nothing.
_OFFSET = 0.5 - math.sqrt(1 / 12)


def potts_energy(
    probability: Tensor, guide: Tensor, valid: Tensor, *, sigma_xy: float, sigma_guide: float, shrink: int = 1
) -> Tensor:
    """Mean Potts energy of a pair of cells, averaged over the images of a batch.

    Parameters
    ----------
    probability : (n, h, w) float tensor
        Of being in target.
    guide : (n, c, h, w) float tensor
        Colours; no gradient goes into them.
    valid : (n, h, w) bool tensor
        Cells that count.
    sigma_xy : float
        Bandwidth of places, in cells.
    sigma_guide : float
        Bandwidth of colours, in units of `guide`.
    shrink : int
        Probabilities and colours are first averaged over squares of this many cells a side.

    Returns
    -------
    scalar tensor
        sum_pq W_pq [y_p (1 - y_q) + (1 - y_p) y_q] / (number of valid cells)^2 in [0, 1/2]; zero where there are none.

    Raises
    ------
    NumericsError
        The bandwidths are so small beside image and colours that the grid would not fit in memory.
    """
    # Mixed precision would run the products of the blur in half precision.
    with torch.autocast(probability.device.type, enabled=False):
        y = probability.to(torch.promote_types(probability.dtype, torch.float32))
        mass, inside, colours = _shrunk(y, guide.detach().to(y.dtype), valid, shrink)
        energies = [
            _energy(inside[i], mass[i], colours[i], sigma_xy=sigma_xy / shrink, sigma_guide=sigma_guide)
            for i in range(len(y))
        ]
        return torch.stack(energies).mean()


def _shrunk(y: Tensor, guide: Tensor, valid: Tensor, shrink: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count valid cells, sum y and average colours in each square: (n, h', w'), (n, h', w'), (n, c, h', w')."""
    counts = valid[:, None].to(y.dtype)
    planes = torch.cat([counts, y[:, None] * counts, guide * counts], dim=1)
    height, width = y.shape[-2:]
    sums = F.avg_pool2d(F.pad(planes, (0, -width % shrink, 0, -height % shrink)), shrink) * shrink**2
    mass = sums[:, 0]
    return mass, sums[:, 1], sums[:, 2:] / mass[:, None].clamp(min=1)


def _energy(inside: Tensor, mass: Tensor, colours: Tensor, *, sigma_xy: float, sigma_guide: float) -> Tensor:
    """Energy of one image, see `potts_energy`."""
    used = mass > 0
    if not used.any():
        return inside.sum() * 0.0
    places = torch.nonzero(used).to(mass.dtype) / sigma_xy
    points = torch.cat([places, on_axes(colours[:, used].T) / sigma_guide], dim=1)
    grid = _grid_over(points)
    here = grid.splat(inside[used])
    energy = 2.0 * (here * grid.blur(grid.splat(mass[used]) - here)).sum()
    return energy / mass.sum() ** 2


def on_axes(values: Tensor) -> Tensor:
    """Vectors (m, c) turned onto their principal axes, largest first: distances stay, the box round them shrinks."""
    centred = values - values.mean(dim=0)
    axes: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors
    return centred @ axes.flip(1)


@dataclass(frozen=True, eq=False)
class BilateralGrid:
    """Regular grid over points in bandwidths.

    Parameters
    ----------
    shape : tuple of int
        Vertices along each of d axes.
    spacing : float
        Step between vertices.
    vertex, share : (m, 2^d) int64 and float tensors
        Corners of the box that each point is in, and their weights in a linear interpolation.
    """

    shape: tuple[int, ...]
    spacing: float
    vertex: Tensor
    share: Tensor

    def splat(self, values: Tensor) -> Tensor:
        """L' v: spread values (m,) over the vertices, (prod(shape),)."""
        empty = torch.zeros(math.prod(self.shape), dtype=values.dtype, device=values.device)
        return empty.index_add(0, self.vertex.flatten(), (values[:, None] * self.share).flatten())

    def blur(self, values: Tensor) -> Tensor:
        """B v: Gaussian sums between vertices, (prod(shape),)."""
        grid = values.reshape(self.shape)
        for axis, count in enumerate(self.shape):
            kernel = self._kernel(count, grid)
            grid = torch.movedim(torch.tensordot(kernel, grid, dims=([1], [axis])), 0, axis)
        return grid.flatten()

    def _kernel(self, count: int, like: Tensor) -> Tensor:
        """Gaussian (count, count) that has the bandwidth 1 together with both interpolations."""
        place = torch.arange(count, dtype=like.dtype, device=like.device) * self.spacing
        variance = 1.0 - self.spacing**2 / 3.0
        return torch.exp(-0.5 * (place[:, None] - place) ** 2 / variance) / math.sqrt(variance)


def _grid_over(points: Tensor) -> BilateralGrid:
    """Finest grid over points (m, d) that is not too large."""
    low = points.amin(dim=0)
    extent = (points.amax(dim=0) - low).tolist()
    shapes = {spacing: tuple(int(side / spacing + _OFFSET) + 2 for side in extent) for spacing in SPACINGS}
    spacing = next((step for step, shape in shapes.items() if math.prod(shape) <= _VERTICES), SPACINGS[-1])
    shape = shapes[spacing]
    if math.prod(shape) > _MOST_VERTICES:
        spans = " x ".join(f"{side:.0f}" for side in extent)
        raise NumericsError(
            f"the CRF's bandwidths are too small: a window and its colours span {spans} of them",
            remedy="use a larger crf.sigma_xy, crf.sigma_rgb or crf.sigma_feature, or a smaller training.window",
        )
    place = (points - low) / spacing + _OFFSET
    corner = place.floor()
    return BilateralGrid(shape, spacing, *_corners(corner.long(), place - corner, shape))


def _corners(corner: Tensor, past: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Flat index and weight of the 2^d corners of the box of each point, (m, 2^d) each."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    vertex = corner.new_zeros(len(corner), 1)
    share = past.new_ones(len(past), 1)
    for axis, stride in enumerate(strides):
        low, step = corner[:, axis, None] * stride, past[:, axis, None]
        vertex = torch.cat([vertex + low, vertex + low + stride], dim=1)
        share = torch.cat([share * (1.0 - step), share * step], dim=1)
    return vertex, share
