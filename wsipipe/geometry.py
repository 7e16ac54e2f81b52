"""Frozen, validated geometry: regions, and map cells laid over a slide.

Frames
------
level-0 px
    Pixels of the finest level of the slide, origin top-left, points as (x, y).
target px
    Pixels of the slide resampled to a target resolution (um per px), same origin.
cells
    (row, col) of a map; cell (r, c) covers a square of `stride` target px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import GeometryError


@dataclass(frozen=True)
class Region:
    """An axis-aligned rectangle of whole pixels in a frame that the holder names.

    Parameters
    ----------
    x, y : int
        Top-left corner in px; may be negative (a halo past the edge).
    width, height : int
        Size in px, positive.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise GeometryError(f"a region needs a positive size, got {self.width} x {self.height} px")

    @property
    def x_end(self) -> int:
        """First column to the right of the region."""
        return self.x + self.width

    @property
    def y_end(self) -> int:
        """First row below the region."""
        return self.y + self.height

    def padded(self, left: int, top: int, right: int, bottom: int) -> Region:
        """Grow by the given margins in px."""
        return Region(self.x - left, self.y - top, self.width + left + right, self.height + top + bottom)

    def clipped(self, width: int, height: int) -> Region | None:
        """Cut to [0, width) x [0, height): the region itself where nothing is cut, None where nothing is left."""
        if self.x >= 0 and self.y >= 0 and self.x_end <= width and self.y_end <= height:
            return self
        x, y = max(self.x, 0), max(self.y, 0)
        x_end, y_end = min(self.x_end, width), min(self.y_end, height)
        return Region(x, y, x_end - x, y_end - y) if x_end > x and y_end > y else None


@dataclass(frozen=True)
class CellGrid:
    """A map of square cells laid over a slide.

    Parameters
    ----------
    rows, cols : int
        Size of the map.
    cell_px : float
        Side of a cell in level-0 px.
    origin : (float, float)
        Top-left corner (x, y) of cell (0, 0) in level-0 px; not zero where overlapping patches are centred on
        their cells.
    """

    rows: int
    cols: int
    cell_px: float
    origin: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.rows <= 0 or self.cols <= 0 or not (math.isfinite(self.cell_px) and self.cell_px > 0):
            raise GeometryError(
                f"a cell grid needs positive rows, columns and cell size, got {self.rows} x {self.cols} cells "
                f"of {self.cell_px} px"
            )

    @classmethod
    def covering(cls, width: int, height: int, cell_px: float) -> CellGrid:
        """Smallest grid of cells of `cell_px` level-0 px that covers `width` x `height` level-0 px."""
        # A slide of 1000.0000001 cells has 1000 of them: rounding noise of mpp ratios adds no empty row.
        return cls(
            rows=max(1, math.ceil(height / cell_px - 1e-6)),
            cols=max(1, math.ceil(width / cell_px - 1e-6)),
            cell_px=cell_px,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    def block(self, i: int, j: int, side: int) -> tuple[slice, slice]:
        """Rows and columns of block (i, j), of `side` cells a side or what is left of them at the far edges."""
        rows, cols = i * side, j * side
        return slice(rows, min(rows + side, self.rows)), slice(cols, min(cols + side, self.cols))

    def cells_of(self, xy: ArrayLike) -> NDArray[np.int64]:
        """Cells under points.

        Parameters
        ----------
        xy : (n, 2) array
            Points (x, y) in level-0 px.

        Returns
        -------
        (n, 2) int64 array
            (row, col); points outside the grid give cells outside it (see `contains`).
        """
        points = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
        return np.floor((points - self.origin)[:, ::-1] / self.cell_px).astype(np.int64)

    def nearest_cells(self, xy: ArrayLike) -> NDArray[np.int64]:
        """Cells under points of the slide, (row, col), (n, 2) int64, where points off the map belong to its edge.

        Overlapping patches are centred on their cells, so that the first and the last cell of their map end within
        the slide; points in the margin around it belong to them.
        """
        return np.clip(self.cells_of(xy), 0, np.array(self.shape) - 1)

    def contains(self, cells: ArrayLike) -> NDArray[np.bool_]:
        """Which (row, col) cells, (n, 2), lie inside the grid."""
        rc = np.asarray(cells).reshape(-1, 2)
        return np.asarray(np.all((rc >= 0) & (rc < np.array(self.shape)), axis=1))

    def centres(self, cells: ArrayLike) -> NDArray[np.float64]:
        """Centres (x, y) in level-0 px of (row, col) cells, (n, 2)."""
        rc = np.asarray(cells, dtype=np.float64).reshape(-1, 2)
        return (rc[:, ::-1] + 0.5) * self.cell_px + self.origin
