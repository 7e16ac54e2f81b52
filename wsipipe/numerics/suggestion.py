"""Where another point would say most: in doubt, unlike what is marked, and apart."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def suggest_cells(
    uncertainty: Floats,
    taken: NDArray[np.float64],
    *,
    count: int,
    spacing: float,
    looks: Floats | None = None,
) -> NDArray[np.int64]:
    """Choose the most uncertain cells that keep their distance.

    Parameters
    ----------
    uncertainty : (rows, cols) float32 array
        Mean of 1 - |2 p - 1| over each cell, in [0, 1]; 0 where nobody should click, such as off the tissue. Cells are
        best so large that the fine line between two sure sides does not count as much as a field in doubt.
    taken : (n, 2) float64 array
        Places (row, col), in cells, of the points there are.
    count : int
        Cells wanted.
    spacing : float
        Smallest distance in cells between two chosen ones, and between a chosen one and a point there is.
    looks : (rows, cols, k) float32 array, optional
        Features of each cell. The uncertainty then counts times the squared distance, in features, to the nearest point
        there is or cell chosen before: doubt that is nothing but a border looks like points on both of its sides, a
        kind of tissue without a point looks like none.

    Returns
    -------
    (k, 2) int64 array
        (row, col), the best first; fewer than `count` where no place is left.
    """
    left = np.array(uncertainty, np.float32)
    rows, cols = np.ogrid[: left.shape[0], : left.shape[1]]
    for row, col in taken:
        left[(rows + 0.5 - row) ** 2 + (cols + 0.5 - col) ** 2 < spacing**2] = 0
    unlike = None if looks is None else _unlike_taken(taken, looks)
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and left.size:
        score = left if unlike is None else left * unlike
        row, col = (int(index) for index in np.unravel_index(int(score.argmax()), left.shape))
        if not score[row, col] > 0:
            break
        chosen.append((row, col))
        left[(rows - row) ** 2 + (cols - col) ** 2 < spacing**2] = 0
        left[row, col] = 0
        if looks is not None:
            apart = _apart(looks, row, col)
            unlike = apart if unlike is None else np.minimum(unlike, apart)
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


def _unlike_taken(taken: NDArray[np.float64], looks: Floats) -> Floats | None:
    """Squared distance in features to the nearest point; None where none lies on the map."""
    places = np.floor(taken).astype(np.int64).reshape(-1, 2)
    places = places[((places >= 0) & (places < looks.shape[:2])).all(axis=1)]
    return functools.reduce(np.minimum, (_apart(looks, row, col) for row, col in places)) if len(places) else None


def _apart(looks: Floats, row: int, col: int) -> Floats:
    """Squared distance in features of every cell to one."""
    return np.asarray(((looks - looks[row, col]) ** 2).sum(axis=2))
