"""Correlation maps of annotated points (eq. 4)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import NumericsError

CHUNK_VALUES = 1 << 20  # values taken in hand at once: 4 MiB in float32


def correlation_maps(features: NDArray[np.floating], points: ArrayLike, *, prototype: int = 3) -> NDArray[np.float32]:
    """Cosine similarity of every cell to each point, eq. 4.

    Parameters
    ----------
    features : (rows, cols, dim) float array
        Feature map. Read row by row in float32; never copied whole, never mutated.
    points : (n, 2) int array-like
        Cells (row, col) of the map.
    prototype : {1, 3, 5, ...}
        Side of the square of cells round a point whose mean direction stands for the point; see `prototypes`.
        1: the point's own cell, as printed.

    Returns
    -------
    (n, rows, cols) float32 array
        In [-1, 1]; 0 where the feature vector of the cell or the prototype of the point is 0.

    Raises
    ------
    NumericsError
        Points outside the map, features that are not finite, wrong shapes or types.
    """
    check_features(features)
    vectors = prototypes(features, check_points(points, features.shape[:2]), side=prototype)
    out = np.empty((len(vectors), *features.shape[:2]), np.float32)
    for rows, unit in unit_features(features, beside=len(vectors)):
        out[:, rows] = similarity(vectors, unit)
    return out


def prototypes(features: NDArray[np.floating], points: NDArray[np.int64], *, side: int = 3) -> NDArray[np.float32]:
    """Take the mean of the *normalised* features of the side x side cells round each point, as a unit vector.

    Normalised, because eq. 4 compares directions only: a mean of raw features would lean towards the strongest cell,
    as if it were the only one. Cells past the border, and cells without features, are left out.

    Parameters
    ----------
    features : (rows, cols, dim) float array
        Feature map.
    points : (n, 2) int64 array
        Cells (row, col) inside the map.
    side : int
        Odd, at least 1.

    Returns
    -------
    (n, dim) float32 array
        Of length 1, or 0 where there are no features.
    """
    if side < 1 or side % 2 == 0:
        raise NumericsError(f"a prototype has an odd number of cells as its side, got {side}")
    reach = side // 2
    means = [
        _unit(features[max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1]).mean((0, 1))
        for row, col in points.tolist()
    ]
    return _unit(np.reshape(means, (len(means), features.shape[2])))


def unit_features(features: NDArray[np.floating], *, beside: int = 0) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Rows of a feature map, a few at a time, scaled to unit length (0 stays 0): (slice, (r, cols, dim) float32).

    `beside` is the number of values that the caller keeps for each cell in hand.
    """
    rows, cols, dim = features.shape
    step = max(1, CHUNK_VALUES // (cols * (dim + beside)))
    for first in range(0, rows, step):
        band = slice(first, min(first + step, rows))
        yield band, _unit(features[band])


def similarity(vectors: NDArray[np.float32], unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products of (n, dim) unit vectors with (r, cols, dim) unit features: (n, r, cols)."""
    dim = unit.shape[2]
    return (vectors @ unit.reshape(-1, dim).T).reshape(len(vectors), *unit.shape[:2])


def _unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale the last axis to length 1; vectors of length 0 stay 0."""
    # Dividing by the largest entry first keeps squares of float32 from overflowing or vanishing.
    single = values.astype(np.float32)
    largest = np.abs(single).max(axis=-1, keepdims=True, initial=0)
    if not np.isfinite(largest).all():
        raise NumericsError("the features hold values that are not finite (NaN or infinite)")
    single /= np.where(largest > 0, largest, 1)
    norm = np.sqrt(np.einsum("...d,...d->...", single, single))[..., None]
    single /= np.where(norm > 0, norm, 1)
    return single


def check_features(features: NDArray[np.floating]) -> None:
    """Refuse anything but a non-empty (rows, cols, dim) float array."""
    if not isinstance(features, np.ndarray) or features.ndim != 3 or 0 in features.shape:
        shape = getattr(features, "shape", type(features).__name__)
        raise NumericsError(f"a feature map is a (rows, cols, dim) array, got {shape}")
    if not np.issubdtype(features.dtype, np.floating):
        raise NumericsError(f"a feature map holds floats, got {features.dtype}")


def check_points(points: ArrayLike, shape: tuple[int, ...], *, kind: str = "point") -> NDArray[np.int64]:
    """Points as (n, 2) int64 cells; refuse other shapes, fractions and cells outside a map of `shape`."""
    cells = np.asarray(points)
    if cells.size == 0:
        return np.empty((0, 2), np.int64)
    if cells.ndim != 2 or cells.shape[1] != 2:
        raise NumericsError(f"{kind}s are (n, 2) cells (row, col), got an array of shape {cells.shape}")
    if not np.issubdtype(cells.dtype, np.integer):
        raise NumericsError(f"{kind}s are whole cells (row, col), got {cells.dtype}")
    outside = ~((cells >= 0) & (cells < np.array(shape[:2]))).all(axis=1)
    if outside.any():
        row, col = cells[outside][0].tolist()
        raise NumericsError(f"{kind} (row {row}, col {col}) lies outside a map of {shape[0]} x {shape[1]} cells")
    return cells.astype(np.int64)
