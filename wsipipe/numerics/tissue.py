"""Tissue on bright-field slides: a mask at about 8 um per px, and its share of the cells of other grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsipipe.config import TissueSettings
from wsipipe.errors import NumericsError, TissueError
from wsipipe.geometry import CellGrid

WINDOW_UM = 40.0
SMOOTH = 0.04
SMEAR = 0.45
CLEAR = 0.06
GLASS_FLOOR = 150


@dataclass(frozen=True)
class Tissue:
    """Where a slide has tissue.

    Parameters
    ----------
    mask : (rows, cols) bool array
        True on tissue.
    grid : CellGrid
        Where the pixels of `mask` lie on the slide, in level-0 px.
    """

    mask: NDArray[np.bool_]
    grid: CellGrid

    def __post_init__(self) -> None:
        if self.mask.shape != self.grid.shape:
            raise NumericsError(f"a mask of {self.mask.shape} px does not fit a grid of {self.grid.shape} cells")

    def fraction(self, grid: CellGrid) -> NDArray[np.float32]:
        """Share of each cell of `grid` that is tissue, by area; what lies off the mask is none.

        Parameters
        ----------
        grid : CellGrid
            Cells of any size and origin, in level-0 px.

        Returns
        -------
        (rows, cols) float32 array
            In [0, 1].

        Notes
        -----
        The weight of mask row i in grid row r is the share of r that i covers, so the fractions are
        ``R @ mask @ C.T`` with the two one-dimensional overlaps R and C, evaluated by integrating the mask along
        each axis and interpolating the integral at the cells' edges, which is exact for any ratio and offset.
        """
        rows = _cell_means(self.mask, self._edges(grid, axis=0))
        return np.ascontiguousarray(_cell_means(rows.T, self._edges(grid, axis=1)).T)

    def _edges(self, grid: CellGrid, *, axis: int) -> NDArray[np.float64]:
        """Edges of the rows (axis 0) or columns (axis 1) of `grid` in px of the mask."""
        along = 1 - axis
        level0 = grid.origin[along] + np.arange(grid.shape[axis] + 1) * grid.cell_px
        return np.asarray((level0 - self.grid.origin[along]) / self.grid.cell_px)


def _cell_means(values: NDArray[np.generic], edges: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mean of `values` (n, m) along axis 0 between neighbouring `edges` (k + 1,), zero off the array: (k, m)."""
    n = len(values)
    inside = np.clip(edges, 0, n)
    whole = np.minimum(inside.astype(np.int64), n - 1)
    part = (inside - whole)[:, None]
    integral = np.zeros((n + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=integral[1:])
    at_edges = integral[whole] + part * values[whole]
    return np.asarray(np.diff(at_edges, axis=0) / np.diff(edges)[:, None], dtype=np.float32)


def tissue_mask(rgb: NDArray[np.uint8], *, mpp: float, settings: TissueSettings) -> NDArray[np.bool_]:
    """Tell tissue from glass on a bright-field overview.

    Parameters
    ----------
    rgb : (h, w, 3) uint8 array
        The slide at `mpp`.
    mpp : float
        um per px of `rgb`, about 8.
    settings : TissueSettings
        Smallest piece and smallest hole.

    Returns
    -------
    (h, w) bool array
        True on tissue.

    Raises
    ------
    TissueError
        A dark background (fluorescence), or no tissue.
    """
    _refuse_dark(rgb)
    darkest = rgb.min(axis=2)
    density = -np.log(np.maximum(darkest, 8).astype(np.float32) / 255)
    texture = _local_deviation(density, max(3, round(WINDOW_UM / mpp) | 1))
    smooth = texture < SMOOTH
    level = _glass_level(darkest, smooth)
    glass = np.zeros_like(smooth) if level is None else _glass(density - level, smooth)
    mask = _sizeable(~_sizeable(glass, settings.min_hole_um2 / mpp**2), settings.min_area_um2 / mpp**2)
    if not mask.any():
        raise TissueError("no tissue", remedy="is the slide empty? --min-area lowers the smallest piece that counts")
    return mask


def _refuse_dark(rgb: NDArray[np.uint8]) -> None:
    dark = float((rgb.max(axis=2) < 60).mean())
    if dark > 0.5:
        raise TissueError(
            f"{dark:.0%} of the picture is black: this looks like fluorescence, not bright field",
            remedy="wsipipe detects tissue on bright-field slides only",
        )


def _local_deviation(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    mean = ndimage.uniform_filter(values, size)
    square = ndimage.uniform_filter(values * values, size)
    return np.sqrt(np.maximum(square - mean * mean, 0))


def _glass_level(darkest: NDArray[np.uint8], smooth: NDArray[np.bool_]) -> float | None:
    """Optical density of clear glass against 255; None where no glass is in sight."""
    bright = darkest[smooth & (darkest >= GLASS_FLOOR)]
    scanned = bright[bright < 255]
    bright = scanned if len(scanned) > 0.01 * smooth.size else bright
    if len(bright) == 0:
        return None
    return float(-np.log(np.percentile(bright, 75) / 255))


def _glass(density: NDArray[np.float32], smooth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Smooth areas no darker than smear that hold a tenth or more of clear glass."""
    labels, n = ndimage.label(smooth & (density < SMEAR))
    clear = np.bincount(labels.ravel(), weights=(density < CLEAR).ravel(), minlength=n + 1)
    size = np.bincount(labels.ravel(), minlength=n + 1)
    keep = clear >= 0.1 * np.maximum(size, 1)
    keep[0] = False
    return np.asarray(keep[labels])


def _sizeable(mask: NDArray[np.bool_], area: float) -> NDArray[np.bool_]:
    """Components (4-connected) of at least `area` px."""
    labels, n = ndimage.label(mask)
    keep = np.bincount(labels.ravel(), minlength=n + 1) >= area
    keep[0] = False
    return np.asarray(keep[labels])
