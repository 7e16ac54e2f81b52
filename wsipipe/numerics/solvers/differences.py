"""Differences between neighbouring cells, their adjoint, and which pairs of cells are neighbours.

A neighbourhood lists offsets (rows down, columns right) so that each pair of neighbours is met once. Arrays over pairs
have shape (k, rows, cols): the pair of offset k is stored at its upper cell (the left one in a row), and is 0 where
there is no second cell.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Neighbourhood = Literal["crofton", "isotropic"]
Offset = tuple[int, int]
Slices = tuple[slice, slice]

OFFSETS: dict[Neighbourhood, tuple[Offset, ...]] = {
    "crofton": ((0, 1), (1, 0), (1, 1), (1, -1)),
    "isotropic": ((0, 1), (1, 0)),
}
# Cauchy-Crofton: four families of lines pi/4 apart count crossings of a contour; a family's lines lie as far apart as
# the other cell of its pair is from the first, hence the sqrt(2) of the diagonals.
CROFTON_WEIGHTS = (math.pi / 8, math.pi / 8, math.pi / (8 * math.sqrt(2)), math.pi / (8 * math.sqrt(2)))


def pair_slices(offset: Offset) -> tuple[Slices, Slices]:
    """Slices of a (rows, cols) map that hold the first and the second cells of all pairs of an offset."""
    (first_row, second_row), (first_col, second_col) = _shift(offset[0]), _shift(offset[1])
    return (first_row, first_col), (second_row, second_col)


def _shift(step: int) -> tuple[slice, slice]:
    """First and second cells along one axis; a step of 0 keeps all."""
    if step == 0:
        return slice(None), slice(None)
    lower, upper = slice(None, -1), slice(1, None)
    return (lower, upper) if step > 0 else (upper, lower)


def differences(u: NDArray[np.floating], neighbourhood: Neighbourhood) -> NDArray[np.floating]:
    """Second cell minus first cell of each pair: (rows, cols) -> (k, rows, cols)."""
    offsets = OFFSETS[neighbourhood]
    out = np.zeros((len(offsets), *u.shape), u.dtype)
    for plane, offset in zip(out, offsets, strict=True):
        first, second = pair_slices(offset)
        plane[first] = u[second] - u[first]
    return out


def adjoint(p: NDArray[np.floating], neighbourhood: Neighbourhood) -> NDArray[np.floating]:
    """Transpose of `differences` (minus the divergence of p): (k, rows, cols) -> (rows, cols)."""
    out = np.zeros(p.shape[1:], p.dtype)
    for plane, offset in zip(p, OFFSETS[neighbourhood], strict=True):
        first, second = pair_slices(offset)
        out[second] += plane[first]
        out[first] -= plane[first]
    return out


def pairs_exist(valid: NDArray[np.bool_], neighbourhood: Neighbourhood) -> NDArray[np.bool_]:
    """Which pairs have two valid cells: (rows, cols) -> (k, rows, cols)."""
    offsets = OFFSETS[neighbourhood]
    out = np.zeros((len(offsets), *valid.shape), np.bool_)
    for plane, offset in zip(out, offsets, strict=True):
        first, second = pair_slices(offset)
        plane[first] = valid[first] & valid[second]
    return out


def crofton_weights(g: NDArray[np.floating], valid: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Length that each pair contributes to a contour that parts it, times the mean g of its cells.

    Parameters
    ----------
    g : (rows, cols) float array
        Edge detector.
    valid : (rows, cols) bool array
        Cells that count.

    Returns
    -------
    (4, rows, cols) float array
        0 where a pair does not exist.
    """
    out = np.zeros((len(CROFTON_WEIGHTS), *g.shape), g.dtype)
    for plane, offset, weight in zip(out, OFFSETS["crofton"], CROFTON_WEIGHTS, strict=True):
        first, second = pair_slices(offset)
        plane[first] = g.dtype.type(weight / 2) * (g[first] + g[second])
    return np.where(pairs_exist(valid, "crofton"), out, 0)
