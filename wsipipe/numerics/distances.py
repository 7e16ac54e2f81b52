"""Distances to the in-target points, for selective segmentation: what lies far from them costs more.

The selective models of section 3 of the paper add theta sum D u to the energy, with D in [0, 1] a distance to the
points; theta D is a force like the others (`wsipipe.numerics.solvers.problem.Problem.extra`), so the problem stays
convex in u.

References
----------
Spencer and Chen 2015, "A convex and selective variational model for image segmentation" (Euclidean).
Roberts, Chen and Irion 2019, "A convex geodesic selective model for image segmentation" (geodesic).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.graph import MCP_Geometric

from wsipipe.errors import NumericsError
from wsipipe.numerics.contrast import check_valid
from wsipipe.numerics.correlation import check_points
from wsipipe.numerics.edges import edge_weights

# After Roberts et al., for maps in [0, 1] over unit cells.
BETA_G = 1000.0
EPS_D = 1e-3
EUCLIDEAN_SHARE = 0.1
SMOOTHING = 1.0

Map = NDArray[np.float32]
Valid = NDArray[np.bool_]


def euclidean_distance(shape: tuple[int, int], in_target: ArrayLike, *, valid: Valid | None = None) -> Map:
    """Normalised Euclidean distance of every cell to the nearest in-target point (Spencer and Chen 2015).

    Parameters
    ----------
    shape : (int, int)
        (rows, cols) of the map.
    in_target : (n, 2) int array-like
        Cells (row, col) of the in-target points; at least one.
    valid : (rows, cols) bool array, optional
        Cells that count; all by default. Distances run straight across the others.

    Returns
    -------
    (rows, cols) float32 array
        Distance between cell centres, divided by its largest value on a valid cell: 0 at the points, 1 furthest from
        them. 0 on cells that are not valid, and everywhere where all valid cells hold points.

    Raises
    ------
    NumericsError
        No point, points outside the map, or a mask of another shape.

    Notes
    -----
    Spencer and Chen measure from the polygon that the points span; here several regions may be marked, so that each
    point stands for itself.
    """
    seeds = _seeds(in_target, shape, valid)
    away = np.ones(shape, np.bool_)
    away[seeds[:, 0], seeds[:, 1]] = False
    return _normalised(distance_transform_edt(away), valid)


def geodesic_distance(
    z: NDArray[np.floating],
    in_target: ArrayLike,
    *,
    beta: float = BETA_G,
    epsilon: float = EPS_D,
    euclidean: float = EUCLIDEAN_SHARE,
    smoothing: float = SMOOTHING,
    valid: Valid | None = None,
) -> Map:
    """Normalised edge-weighted geodesic distance to the in-target points (Roberts, Chen and Irion 2019).

    D solves |grad D| = epsilon + beta |grad S(z)|^2 + euclidean D_E with D = 0 at the points and S a smoothing: it
    grows slowly over flat parts of the map and fast across edges, so that cells behind an edge are far away.

    Parameters
    ----------
    z : (rows, cols) float array
        Contrast map or grey image, in [0, 1] for the default weights; finite on valid cells. Not mutated.
    in_target : (n, 2) int array-like
        Cells (row, col) of the in-target points; at least one.
    beta : float
        Price of edges, 0 or more.
    epsilon : float
        Price of a step without any edge, positive.
    euclidean : float
        Weight of the normalised Euclidean distance D_E in the price, 0 or more: far away, steps cost more even where
        there is no edge (in blurred images edges leak).
    smoothing : float
        Standard deviation in cells of the Gaussian S, 0 or more; without it, noise counts as edges.
    valid : (rows, cols) bool array, optional
        Cells that count; all by default. Paths do not cross the others.

    Returns
    -------
    (rows, cols) float32 array
        In [0, 1], 0 at the points, 1 at the largest distance and on valid cells that no path reaches; 0 on cells that
        are not valid.

    Raises
    ------
    NumericsError
        No point on a valid cell, points outside the map, values that are not finite, impossible weights.

    Notes
    -----
    Shortest paths over eight neighbours (scikit-image's `MCP_Geometric`): a step costs its length times the mean price
    of its two cells. Away from the axes and diagonals such paths are up to 8% longer than the eikonal's; a flip or a
    transpose of the map gives the flipped or transposed distances. About 40 bytes per cell.
    """
    _check(z, beta=beta, epsilon=epsilon, euclidean=euclidean, smoothing=smoothing)
    seeds = _seeds(in_target, z.shape, valid)
    on_valid = seeds if valid is None else seeds[valid[seeds[:, 0], seeds[:, 1]]]
    if not len(on_valid):
        raise NumericsError("no in-target point lies on a valid cell")
    price = epsilon + _squared_slope(_smoothed(z, smoothing, valid), beta, valid)
    if euclidean > 0:
        price += euclidean * euclidean_distance(price.shape, on_valid, valid=valid)
    if valid is not None:
        price[~valid] = np.inf  # never entered
    costs, _ = MCP_Geometric(price).find_costs(on_valid.tolist())
    return _normalised(costs, valid)


def _smoothed(z: NDArray[np.floating], deviation: float, valid: Valid | None) -> NDArray[np.float64]:
    """Gaussian mean of the valid cells round each cell; 0 where not valid."""
    values = z.astype(np.float64) if valid is None else np.where(valid, z, 0).astype(np.float64)
    if not np.isfinite(values).all():
        raise NumericsError("z holds values that are not finite (NaN or infinite)")
    if deviation == 0:
        return values
    mean = gaussian_filter(values, deviation, mode="nearest")
    if valid is None:
        return np.asarray(mean)
    weight = gaussian_filter(valid.astype(np.float64), deviation, mode="nearest")
    return np.asarray(np.divide(mean, weight, out=np.zeros_like(values), where=valid))


def _squared_slope(z: NDArray[np.float64], beta: float, valid: Valid | None) -> NDArray[np.float64]:
    """Compute beta |grad z|^2, with the differences of the edge detector 1 / (1 + beta |grad z|^2)."""
    return np.asarray(1 / edge_weights(z, beta=beta, valid=valid) - 1)


def _normalised(distance: NDArray[np.float64], valid: Valid | None) -> Map:
    """Divide by the largest finite value over the valid cells; 1 where nothing led, 0 where not valid."""
    counts = np.isfinite(distance) if valid is None else np.isfinite(distance) & valid
    largest = float(distance.max(where=counts, initial=0.0))
    out = (np.where(counts, distance, np.inf) / (largest or 1.0)).clip(0, 1).astype(np.float32)
    return out if valid is None else np.where(valid, out, np.float32(0))


def _seeds(in_target: ArrayLike, shape: tuple[int, ...], valid: Valid | None) -> NDArray[np.int64]:
    check_valid(valid, shape)
    seeds = check_points(in_target, shape, kind="in-target point")
    if not len(seeds):
        raise NumericsError("no in-target points", remedy="at least one is needed")
    return seeds


def _check(z: NDArray[np.floating], *, epsilon: float, **others: float) -> None:
    if not isinstance(z, np.ndarray) or z.ndim != 2 or 0 in z.shape or not np.issubdtype(z.dtype, np.floating):
        got = f"{z.dtype} {z.shape}" if isinstance(z, np.ndarray) else type(z).__name__
        raise NumericsError(f"z is a (rows, cols) array of floats, got {got}")
    for name, value in others.items():
        if not (np.isfinite(value) and value >= 0):
            raise NumericsError(f"{name} is 0 or more, got {value}")
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise NumericsError(f"epsilon is positive, got {epsilon}")
