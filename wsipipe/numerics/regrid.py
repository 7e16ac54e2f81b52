"""From map cells to the pixels of a raster, a band at a time: bilinear between cell centres, blind to invalid cells."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError
from wsipipe.geometry import CellGrid

Floats = NDArray[np.float32]
Band = tuple[Floats, NDArray[np.bool_]]


def raster_grid(width: int, height: int, cell_px: float, *, coarsest: int = 32) -> CellGrid:
    """Pixel grid on which the mask of a slide is written.

    Its pixels are a power of two of level-0 px: the largest that is not above half a cell nor `coarsest`. So the raster
    is a whole reduction of the slide, and viewers that lay it over the slide by size put it in the right place; and
    outlines run smoothly between cells instead of along their edges.

    Parameters
    ----------
    width, height : int
        Slide, level-0 px.
    cell_px : float
        Side of a map cell in level-0 px.
    """
    factor = 2 ** max(0, math.floor(math.log2(min(cell_px / 2, coarsest)) + 1e-9))
    return CellGrid.covering(width, height, float(factor))


def regrid_bands(bands: Iterator[Band], source: CellGrid, target: CellGrid, *, band_rows: int) -> Iterator[Floats]:
    """Resample a map to a raster.

    Parameters
    ----------
    bands : iterator of ((n, cols) or (n, cols, K) float32, (n, cols) bool)
        Values and validity of consecutive rows of the map, together `source.rows`; K values of a cell go through alike.
    source, target : CellGrid
        Map and raster over the same slide.
    band_rows : int
        Rows of each band that comes back, but for the last.

    Yields
    ------
    (band_rows, target.cols) or (band_rows, target.cols, K) float32 array
        Mean of the valid ones among the four nearest cells, weighted bilinearly; 0 where none is valid. Only the rows
        of the map that a band needs are in memory.

    Raises
    ------
    NumericsError
        The bands do not add up to `source`.
    """
    window = _RowWindow(bands, source)
    columns = _neighbours(target.cols, target.cell_px, target.origin[0], source.cols, source.cell_px, source.origin[0])
    rows = _neighbours(target.rows, target.cell_px, target.origin[1], source.rows, source.cell_px, source.origin[1])
    for start in range(0, target.rows, band_rows):
        part = slice(start, min(start + band_rows, target.rows))
        first, last = int(rows[0][part].min()), int(rows[1][part].max())
        values, valid = window.rows(first, last + 1)
        weights = valid.astype(np.float32).reshape(*valid.shape, *(1 for _ in values.shape[2:]))
        near = (rows[0][part] - first, rows[1][part] - first, rows[2][part])
        total = _interpolate(_interpolate(values * weights, near, axis=0), columns, axis=1)
        weight = _interpolate(_interpolate(weights, near, axis=0), columns, axis=1)
        known = np.broadcast_to(weight > 1e-6, total.shape)
        yield np.divide(total, weight, out=np.zeros_like(total), where=known)


def sample_nearest(mask: NDArray[np.bool_], source: CellGrid, target: CellGrid, rows: slice) -> NDArray[np.bool_]:
    """Value of `mask` (on `source`) under the centre of every target cell in `rows`; False outside the mask."""
    y = target.origin[1] + (np.arange(rows.start, rows.stop) + 0.5) * target.cell_px
    x = target.origin[0] + (np.arange(target.cols) + 0.5) * target.cell_px
    row = np.floor((y - source.origin[1]) / source.cell_px).astype(np.int64)
    col = np.floor((x - source.origin[0]) / source.cell_px).astype(np.int64)
    inside = ((row >= 0) & (row < source.rows))[:, None] & ((col >= 0) & (col < source.cols))
    found = mask[row.clip(0, source.rows - 1)[:, None], col.clip(0, source.cols - 1)]
    return np.asarray(found & inside)


Neighbours = tuple[NDArray[np.int64], NDArray[np.int64], Floats]


def _neighbours(
    n: int, cell: float, origin: float, source_n: int, source_cell: float, source_origin: float
) -> Neighbours:
    """For n target cells along an axis: the two nearest source cells and the weight of the second."""
    position = (origin + (np.arange(n) + 0.5) * cell - source_origin) / source_cell - 0.5
    position = position.clip(0, source_n - 1)
    first = np.floor(position).astype(np.int64)
    return first, np.minimum(first + 1, source_n - 1), (position - first).astype(np.float32)


def _interpolate(array: Floats, near: Neighbours, *, axis: int) -> Floats:
    first, second, weight = near
    share = weight.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    return np.asarray(array.take(first, axis) * (1 - share) + array.take(second, axis) * share)


class _RowWindow:
    """A window of map rows that only moves down."""

    def __init__(self, bands: Iterator[Band], grid: CellGrid) -> None:
        self._bands = bands
        self._cols = grid.cols
        self._first = 0
        self._values = np.zeros((0, grid.cols), np.float32)
        self._valid = np.zeros((0, grid.cols), np.bool_)

    def rows(self, start: int, stop: int) -> Band:
        """Rows [start, stop); everything above is forgotten."""
        drop = start - self._first
        self._values, self._valid, self._first = self._values[drop:], self._valid[drop:], start
        while start + len(self._values) < stop:
            self._append(start + len(self._values), stop)
        return self._values[: stop - start], self._valid[: stop - start]

    def _append(self, have: int, need: int) -> None:
        band = next(self._bands, None)
        if band is None:
            raise NumericsError(f"the map ended at row {have}, row {need - 1} was asked for")
        values, valid = band
        if values.shape[:2] != valid.shape or values.shape[1] != self._cols:
            raise NumericsError(f"a band is {values.shape} and {valid.shape}, needs {self._cols} columns")
        self._values = np.concatenate([self._values, values]) if len(self._values) else values
        self._valid = np.concatenate([self._valid, valid])
