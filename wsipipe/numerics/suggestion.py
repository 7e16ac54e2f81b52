"""Where another point would say most: uncertain surroundings, away from each other and from the points there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def suggest_cells(
    uncertainty: NDArray[np.float32], taken: NDArray[np.float64], *, count: int, spacing: float
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

    Returns
    -------
    (k, 2) int64 array
        (row, col), the most uncertain first; fewer than `count` where no place is left.
    """
    left = np.array(uncertainty, np.float32)
    rows, cols = np.ogrid[: left.shape[0], : left.shape[1]]
    for row, col in taken:
        left[(rows + 0.5 - row) ** 2 + (cols + 0.5 - col) ** 2 < spacing**2] = 0
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and left.size and left.max() > 0:
        row, col = np.unravel_index(int(left.argmax()), left.shape)
        chosen.append((int(row), int(col)))
        left[(rows - row) ** 2 + (cols - col) ** 2 < spacing**2] = 0
        left[row, col] = 0
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)
