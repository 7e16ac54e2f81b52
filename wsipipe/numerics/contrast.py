"""Contrast maps: what is like an in-target point and unlike the out-of-target points (eq. 5)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import NumericsError
from wsipipe.numerics.correlation import check_features, check_points, prototypes, similarity, unit_features

# Cosines of float32 features are exact to a few 1e-7: a smaller range is rounding, not contrast.
FLAT = 2e-6


def contrast_map(
    features: NDArray[np.floating],
    in_target: ArrayLike,
    out_of_target: ArrayLike,
    *,
    eta: float = 0.6,
    prototype: int = 3,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Mean contrast map z_p of each in-target point, eq. 5 averaged over the out-of-target points.

    C_pq = N(ReLU(S_p - eta S_q)^2) with the correlation maps S of eq. 4 and N the min-max normalisation of one map to
    [0, 1]; z_p = mean of C_pq over q.

    Parameters
    ----------
    features : (rows, cols, dim) float array
        Feature map (any float type; computed in float32). Never mutated.
    in_target : (n, 2) int array-like
        Cells (row, col) inside the target; at least one.
    out_of_target : (m, 2) int array-like
        Cells (row, col) outside it. With none, S_q = 0, and a warning.
    eta : float
        Weight of the out-of-target correlation, in [0, 1].
    prototype : {1, 3, 5, ...}
        Side of the square of cells whose mean direction stands for a point; 1 is the paper's.
    valid : (rows, cols) bool array, optional
        Cells that count: others are left out of N, and 0 in the result.

    Returns
    -------
    (n, rows, cols) float32 array
        In [0, 1]. A map without contrast (all its cells alike) is all 0, and so, with a warning, is that of a point
        on cells without features.

    Raises
    ------
    NumericsError
        No in-target point, points outside the map, eta outside [0, 1], features that are not finite, wrong shapes or
        types.

    Notes
    -----
    Memory beside the features: n + m maps of correlations and two bands of rows; never n x m maps.
    """
    check_features(features)
    shape = features.shape[:2]
    inside = check_points(in_target, shape, kind="in-target point")
    outside = check_points(out_of_target, shape, kind="out-of-target point")
    _check(inside, eta, valid, shape)
    if not len(outside):
        warnings.warn("no out-of-target points: contrast maps are squared correlation maps", stacklevel=2)
    vectors = prototypes(features, np.concatenate([inside, outside]), side=prototype)
    _tell_empty(inside, vectors)
    if not len(outside):
        vectors = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])
    correlation = np.empty((len(vectors), *shape), np.float32)
    for rows, unit in unit_features(features, beside=len(vectors)):
        correlation[:, rows] = similarity(vectors, unit)
    contrast = _mean_contrast(correlation[: len(inside)], correlation[len(inside) :], eta, valid)
    contrast[~vectors[: len(inside)].any(axis=1)] = 0
    return contrast


def _mean_contrast(
    inside: NDArray[np.float32], outside: NDArray[np.float32], eta: float, valid: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Eq. 5 for each pair of (n, rows, cols) and (m, rows, cols) correlation maps, averaged over m."""
    out = np.zeros_like(inside)
    difference = np.empty(inside.shape[1:], np.float32)
    for mean, correlation in zip(out, inside, strict=True):
        for other in outside:
            np.multiply(other, np.float32(-eta), out=difference)
            np.add(difference, correlation, out=difference)
            mean += _contrast(difference, valid)
        mean /= len(outside)
        if valid is not None:
            mean[~valid] = 0
    return out


def _contrast(difference: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """N(ReLU(d)^2), in place; 0 where d hardly varies."""
    where = True if valid is None else valid
    low = np.maximum(difference.min(where=where, initial=np.inf), np.float32(0))
    high = np.maximum(difference.max(where=where, initial=-np.inf), np.float32(0))
    if high - low < FLAT:
        difference[:] = 0
        return difference
    # Squaring keeps the order, so the range of the squares is that of the clipped differences, squared.
    np.clip(difference, low, high, out=difference)
    np.square(difference, out=difference)
    difference -= low * low
    difference /= high * high - low * low
    return difference


def stretched(u: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """N of eq. 7: min-max normalisation of a map over its valid cells.

    Parameters
    ----------
    u : (rows, cols) float32 array
    valid : (rows, cols) bool array, optional
        Cells that count; all by default.

    Returns
    -------
    (rows, cols) float32 array
        In [0, 1]; a constant map stays as it is (stretching has no meaning for it). 0 on cells that are not valid.
    """
    where = True if valid is None else valid
    low, high = u.min(where=where, initial=np.inf), u.max(where=where, initial=-np.inf)
    out = u.copy() if low == high else ((u - low) / (high - low)).astype(np.float32, copy=False)
    if valid is not None:
        out[~valid] = 0
    return out


def _check(inside: NDArray[np.int64], eta: float, valid: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> None:
    if not len(inside):
        raise NumericsError("no in-target points", remedy="at least one is needed")
    if not 0 <= eta <= 1:
        raise NumericsError(f"eta lies in [0, 1], got {eta}")
    check_valid(valid, shape)


def check_valid(valid: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> None:
    """Refuse a mask of valid cells that is not (rows, cols) bool or holds none."""
    if valid is None:
        return
    if not isinstance(valid, np.ndarray) or valid.dtype != np.bool_ or valid.shape != shape:
        got = f"{valid.dtype} {valid.shape}" if isinstance(valid, np.ndarray) else type(valid).__name__
        raise NumericsError(f"valid is a bool array of shape {shape}, got {got}")
    if not valid.any():
        raise NumericsError("no cell is valid")


def _tell_empty(inside: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
    """Warn of in-target points without features: their contrast maps say nothing."""
    empty = ~vectors[: len(inside)].any(axis=1)
    if empty.any():
        cells = ", ".join(f"(row {row}, col {col})" for row, col in inside[empty].tolist())
        warnings.warn(f"in-target points on cells without features: {cells}", stacklevel=3)
