"""Nearest neighbours by brute force: in tens of dimensions nothing beats a matrix product and one look at each row."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK_VALUES = 1 << 18  # distances in hand at once: 1 MiB in float32, so that they stay in the cache


def nearest(
    queries: NDArray[np.float32], references: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Squared distances to the nearest references, and which they are.

    Parameters
    ----------
    queries : (n, dim) float32 array
    references : (m, dim) float32 array
    count : int
        Neighbours wanted, 1 to m.

    Returns
    -------
    (n, count) float32 array, (n, count) int64 array
        Nearest first; among equals, the reference that comes first.
    """
    squares = np.empty((len(queries), count), np.float32)
    index = np.empty((len(queries), count), np.int64)
    lengths = np.einsum("md,md->m", references, references)
    step = max(1, BLOCK_VALUES // len(references))
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        # |q - r|^2 = |q|^2 + (|r|^2 - 2 q.r), and |q|^2 does not change the order.
        distance = queries[part] @ (-2 * references.T)
        distance += lengths
        _smallest(distance, squares[part], index[part])
    squares += np.einsum("nd,nd->n", queries, queries)[:, None]
    return np.maximum(squares, 0, out=squares), index


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _smallest(values: NDArray[np.float32], best: NDArray[np.float32], where: NDArray[np.int64]) -> None:
    """Smallest entries of each row, in order, into `best`, and their columns into `where`."""
    count = best.shape[1]
    for row in range(len(values)):
        best[row] = np.inf
        for column in range(values.shape[1]):
            value = values[row, column]
            if value < best[row, count - 1]:
                place = count - 1
                while place > 0 and best[row, place - 1] > value:
                    best[row, place] = best[row, place - 1]
                    where[row, place] = where[row, place - 1]
                    place -= 1
                best[row, place] = value
                where[row, place] = column
