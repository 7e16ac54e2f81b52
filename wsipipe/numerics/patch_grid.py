"""The grid that a list of patches was cut from, found from the corners of the patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError

TOLERANCE = 0.05  # of a step: how far patches may lie off their places
_HALF_PX = 0.51  # what rounding to whole px moves a corner
_AGREES = 0.02  # of a step: how far the step found may be from the step told
_MANY = 20  # distances that tell a step for certain
_ROUNDING = 1e-6  # of a step
_FITS = 3  # rounds of fitting: the cells that it starts from may be off by one at the far end


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """Patches on a grid.

    Parameters
    ----------
    step : float
        Between neighbouring patches, in px.
    phase : (float, float)
        Corner (x, y) of the patch in column 0 and row 0, each at least 0 and below `step`.
    cells : (n, 2) int64 array
        (row, col) of every patch.
    off : (n,) float64 array
        How far every patch lies from its place, in steps, along the axis where that is more.
    """

    step: float
    phase: tuple[float, float]
    cells: NDArray[np.int64]
    off: NDArray[np.float64]

    @property
    def worst(self) -> float:
        """Farthest that a patch lies from its place, in steps."""
        return float(self.off.max())

    @property
    def fits(self) -> bool:
        """Whether all patches lie on the grid."""
        return self.worst <= max(TOLERANCE, _HALF_PX / self.step)


def find_grid(corners: NDArray[np.float64], *, told: float | None = None) -> PatchGrid:
    """Find the grid of patches.

    Parameters
    ----------
    corners : (n, 2) float64 array
        Top-left corners (x, y) in px, whole or not, n at least 1, finite.
    told : float, optional
        The step as the list tells it; rounded magnifications make it wrong by a little.

    Returns
    -------
    PatchGrid
        The grid that fits best; see whether it `fits`.

    Raises
    ------
    NumericsError
        No step is told and no two patches are neighbours in a row or a column, or the step told is another.

    Notes
    -----
    The step is the commonest distance of neighbours in a row or a column, the phase the commonest remainder; then
    both are fitted by least squares, because steps need not be whole numbers of px.
    """
    distances = np.concatenate([_neighbour_distances(corners, axis) for axis in (0, 1)])
    starts = [] if told is None else [told]
    if len(distances):
        seen = _commonest(distances)
        count = 1 if told is None else _check_told(distances, seen, told)
        starts.append(seen / count)
    if not starts:
        raise NumericsError("no two patches lie beside each other, so their distance is unknown")
    found = [_placed(corners, step, _phases(corners, step)) for step in starts]
    if all(grid.worst > _ROUNDING for grid in found):
        found += [grid for grid in (_fitted(corners, start) for start in found) if grid.fits]
    return min(found, key=lambda grid: grid.worst)


def _check_told(distances: NDArray[np.float64], seen: float, told: float) -> int:
    """How many steps told the commonest distance is: one, but for few patches with gaps between all of them."""
    count = max(1, round(seen / told))
    sparse = len(distances) < _MANY or not _are_multiples(distances, seen)
    if not _are_multiples(np.array([seen]), told) or (count > 1 and not sparse):
        raise NumericsError(f"neighbouring patches are {seen:.6g} px apart, told is {told:.6g} px")
    return count


def _are_multiples(distances: NDArray[np.float64], step: float) -> bool:
    """Whether distances are whole numbers of steps, up to rounding of corners and of magnifications."""
    count = np.maximum(1, np.round(distances / step))
    return bool((np.abs(distances - count * step) <= np.maximum(2 * _HALF_PX, _AGREES * distances)).all())


def _commonest(distances: NDArray[np.float64]) -> float:
    """Mean of the distances that rounding makes of the commonest one."""
    values, counts = np.unique(np.round(distances), return_counts=True)
    near = np.abs(distances - values[np.argmax(counts)]) < 2 * _HALF_PX
    return float(np.round(distances[near].mean(), 6))


def _neighbour_distances(corners: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Distances along an axis between patches that follow one another with the same other coordinate."""
    order = np.lexsort((corners[:, axis], corners[:, 1 - axis]))
    steps = np.diff(corners[order], axis=0)
    beside = (np.abs(steps[:, 1 - axis]) < 0.5) & (steps[:, axis] > 0.5)
    return np.asarray(steps[beside, axis])


def _phases(corners: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Commonest remainder of each coordinate, (2,), found on a circle so that 0 and `step` are one."""
    phases = []
    for values in corners.T:
        angles = np.exp(2j * np.pi * values / step)
        bins = np.round(np.angle(angles) / (2 * np.pi) * 50).astype(int) % 50
        peak = np.argmax(np.bincount(bins, minlength=50))
        near = np.isin(bins, [(peak - 1) % 50, peak, (peak + 1) % 50])
        phases.append(np.angle(angles[near].mean()) / (2 * np.pi) * step)
    return np.round(np.array(phases), 6)


def _placed(corners: NDArray[np.float64], step: float, phase: NDArray[np.float64]) -> PatchGrid:
    """Put patches on the nearest cells of a grid whose phase is brought into one step."""
    phase = np.mod(phase, step)
    phase[step - phase < TOLERANCE * step] -= step  # rounding noise below 0 is the first cell, not one more
    index = np.round((corners - phase) / step)
    off = np.abs(corners - phase - index * step).max(axis=1) / step
    shift = np.minimum(index.min(axis=0), 0)  # a corner left of the slide moves the grid's
    index, phase = index - shift, phase + shift * step
    return PatchGrid(step, (float(phase[0]), float(phase[1])), index[:, ::-1].astype(np.int64), off)


def _fitted(corners: NDArray[np.float64], start: PatchGrid) -> PatchGrid:
    """Fit step and phase to the corners by least squares, from the cells they are on."""
    for _ in range(_FITS):
        start = _fitted_once(corners, start)
    return start


def _fitted_once(corners: NDArray[np.float64], start: PatchGrid) -> PatchGrid:
    cols_rows = start.cells[:, ::-1].astype(np.float64)
    spread, centre = cols_rows - cols_rows.mean(axis=0), corners.mean(axis=0)
    weight = float((spread**2).sum())
    if not weight:
        return start
    step = float(np.round((spread * (corners - centre)).sum() / weight, 6))
    return _placed(corners, step, np.round(centre - cols_rows.mean(axis=0) * step, 6))
