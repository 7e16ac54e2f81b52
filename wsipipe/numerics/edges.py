"""Edge detector of the variational model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def edge_weights(
    z: NDArray[np.floating], *, beta: float, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.floating]:
    """g(|grad z|) = 1 / (1 + beta |grad z|^2): small where the map has an edge, so that contours settle there.

    Parameters
    ----------
    z : (rows, cols) float array
        Contrast map. Not mutated.
    beta : float
        Sensitivity to edges, 0 or more; 0 gives 1 everywhere.
    valid : (rows, cols) bool array, optional
        Cells that count. A neighbour that is missing (border of the map, or not valid) takes the value of the cell
        itself, so that no edge is seen there.

    Returns
    -------
    (rows, cols) float array
        In (0, 1], in the dtype of `z`; 1 on cells that do not count.

    Notes
    -----
    Central differences over unit cells. They are symmetric: the weights of a flipped or transposed map are the
    flipped or transposed weights.
    """
    down, right = (_central_difference(z, valid, axis) for axis in (0, 1))
    # Squares are summed as written in the compiled path too; a sum of two is symmetric under a transpose.
    g: NDArray[np.floating] = 1 / (1 + z.dtype.type(beta) * (down * down + right * right))
    if valid is not None:
        g[~valid] = 1
    return g


def _central_difference(z: NDArray[np.floating], valid: NDArray[np.bool_] | None, axis: int) -> NDArray[np.floating]:
    half: NDArray[np.floating] = z.dtype.type(0.5) * (_neighbour(z, valid, axis, 1) - _neighbour(z, valid, axis, -1))
    return half


def _neighbour(z: NDArray[np.floating], valid: NDArray[np.bool_] | None, axis: int, step: int) -> NDArray[np.floating]:
    """Value of the next cell along `axis`; the cell's own value where there is none."""
    last = z.shape[axis] - 1
    index = np.clip(np.arange(last + 1) + step, 0, last)
    moved = z.take(index, axis=axis)
    return moved if valid is None else np.where(valid.take(index, axis=axis), moved, z)
