"""Where training windows lie, so that every point is in one and most hold all classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Window = tuple[slice, slice]


def place_windows(
    cells: NDArray[np.int64], label: NDArray[np.int64], shape: tuple[int, int], *, window: int
) -> list[Window]:
    """Cover points with few windows, each with both classes (or as many of several) where that can be.

    Parameters
    ----------
    cells : (n, 2) int64 array
        Points as (row, col) cells of the map.
    label : (n,) int64 array
        1 in-target, 0 out-of-target; or one of several classes.
    shape : (int, int)
        (rows, cols) of the map.
    window : int
        Largest side of a window in cells; a smaller map is one window.

    Returns
    -------
    list of (slice, slice)
        Rows and columns of each window, all of one size, within the map.

    Notes
    -----
    Greedy set cover: windows round each point left, and round the middle between it and the nearest point of the
    other classes, are tried; one with more classes comes before one with fewer, then the one with most points left. The
    chosen window is moved to have its points in the middle.
    """
    size = np.minimum(window, shape)
    last = np.array(shape) - size
    corners: list[NDArray[np.int64]] = []
    left = np.ones(len(cells), dtype=bool)
    while left.any():
        corner = _best_corner(cells, label, left, size=size, last=last)
        corners.append(corner)
        left &= ~_covered(corner[None], cells, size)[0]
    return [_slices(corner, size) for corner in corners]


def _best_corner(
    cells: NDArray[np.int64],
    label: NDArray[np.int64],
    left: NDArray[np.bool_],
    *,
    size: NDArray[np.int64],
    last: NDArray[np.int64],
) -> NDArray[np.int64]:
    corners = np.clip(_centres(cells, label, left) - size // 2, 0, last)
    covered = _covered(corners, cells, size)
    new = (covered & left).sum(axis=1)
    classes = sum(covered[:, label == value].any(axis=1).astype(int) for value in np.unique(label))
    best = int(np.lexsort((covered.sum(axis=1), new, np.where(new > 0, classes, 0)))[-1])
    return _centred(corners[best], cells[covered[best]], size=size, last=last)


def _centres(cells: NDArray[np.int64], label: NDArray[np.int64], left: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Points that are left, and the middles between each and the nearest point of another class."""
    centres = [cells[left]]
    for value in np.unique(label):
        here, others = cells[left & (label == value)], cells[label != value]
        if len(here) and len(others):
            distance = np.abs(here[:, None] - others[None]).max(axis=2)
            centres.append((here + others[distance.argmin(axis=1)]) // 2)
    return np.concatenate(centres)


def _covered(corners: NDArray[np.int64], cells: NDArray[np.int64], size: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of n cells lie in each of k windows, (k, n)."""
    offset = cells[None] - corners[:, None]
    return np.asarray(((offset >= 0) & (offset < size)).all(axis=2))


def _centred(
    corner: NDArray[np.int64], cells: NDArray[np.int64], *, size: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Move a window so that the box round its cells is in the middle; it still covers them, for it is no smaller."""
    if not len(cells):
        return corner
    middle = (cells.min(axis=0) + cells.max(axis=0) + 1) // 2
    return np.asarray(np.clip(middle - size // 2, 0, last))


def _slices(corner: NDArray[np.int64], size: NDArray[np.int64]) -> Window:
    (top, left), (height, width) = corner.tolist(), size.tolist()
    return slice(top, top + height), slice(left, left + width)
