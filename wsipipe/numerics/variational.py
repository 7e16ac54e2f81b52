"""The contrast-based variational model: from points on a feature map to a segmentation (eq. 4 to 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import NumericsError
from wsipipe.numerics.contrast import check_valid, contrast_map, stretched
from wsipipe.numerics.distances import euclidean_distance, geodesic_distance
from wsipipe.numerics.solvers.differences import OFFSETS, Neighbourhood
from wsipipe.numerics.solvers.problem import Status
from wsipipe.numerics.solvers.tasks import (
    LARGEST_VALUE,
    Initial,
    Solved,
    SolverKeywords,
    SolverSettings,
    Task,
    only,
    prepared,
    solve_tasks,
)

Distance = Literal["none", "euclidean", "geodesic"]


@dataclass(frozen=True)
class CvmResult:
    """Segmentations of P contrast maps, each with the certificate of its optimality.

    Parameters
    ----------
    u : (P, rows, cols) float32 array
        In [0, 1]; above 0.5: in the target. 0 on cells that are not valid.
    c1, c2 : (P,) float64 array
        Mean of z inside and outside.
    lam : (P,) float64 array
        Weight of the fitting term that was used.
    energy : (P,) float64 array
        Eq. 6 with (1 - u), and the extra force: see `wsipipe.numerics.energy`.
    gap : (P,) float64 array
        Duality gap / sum |force|: for its c1 and c2, the energy of u is at most this far above the global minimum.
    iterations : (P,) int64 array
        Primal-dual iterations on the map itself.
    status : tuple of P str
        "converged"; "empty" or "full" (converged, to nothing or to everything; "empty" with c1 = c2 where lambda is too
        small, or the noise too strong, for two phases); "constant" (z is constant: u = 0, no iteration); "capped"
        (`max_iter` reached first: look at `gap`).
    dual : tuple of P (k, rows, cols) float32 arrays, or None
        Dual variables, where asked for: they make the next warm start warmer.
    """

    u: NDArray[np.float32]
    c1: NDArray[np.float64]
    c2: NDArray[np.float64]
    lam: NDArray[np.float64]
    energy: NDArray[np.float64]
    gap: NDArray[np.float64]
    iterations: NDArray[np.int64]
    status: tuple[Status, ...]
    dual: tuple[NDArray[np.float32], ...] | None = None


@dataclass(frozen=True)
class VariationalSegmentation:
    """What the points say of a map (eq. 7).

    Parameters
    ----------
    u : (rows, cols) float32 array
        N(mean of u_p over the in-target points): stretched to [0, 1] over the valid cells. A constant mean stays as
        it is (stretching has no meaning for it).
    u_mean : (rows, cols) float32 array
        The mean itself. Where its maximum is below 1, a threshold of 0.5 means different things on u and on u_mean.
    contrast : (n, rows, cols) float32 array
        Mean contrast map z_p of each in-target point (eq. 5).
    cvm : CvmResult
        Segmentation u_p of each, with certificates.
    """

    u: NDArray[np.float32]
    u_mean: NDArray[np.float32]
    contrast: NDArray[np.float32]
    cvm: CvmResult


@dataclass(frozen=True, eq=False)
class CvmCase:
    """Maps of one size to segment, with what is known of them.

    Parameters
    ----------
    z : (P, rows, cols) float array
        Contrast maps. Never mutated.
    lam : float or (P,) array, optional
        Weight lambda of the fitting term; by default scale-free (`SolverSettings.lam_rel`).
    means : (c1, c2), optional
        Floats or (P,) arrays: keeps the means fixed; the problem is then convex and u its global optimum.
    extra : (P, rows, cols) or (rows, cols) float array, optional
        Force added to that of the fitting term: theta times a distance makes the model selective
        (`wsipipe.numerics.distances`).
    valid : (rows, cols) bool array, optional
        Cells that count: others get u = 0, have no edges to their neighbours and no part in means, energy and gap.
    init : CvmResult or (P, rows, cols) float array, optional
        Warm start from a former segmentation of maps of this size.
    """

    z: NDArray[np.floating]
    lam: ArrayLike | None = None
    means: tuple[ArrayLike, ArrayLike] | None = None
    extra: NDArray[np.floating] | None = None
    valid: NDArray[np.bool_] | None = None
    init: CvmResult | NDArray[np.floating] | None = None


def solve_cvm(
    z: NDArray[np.floating],
    *,
    lam: ArrayLike | None = None,
    means: tuple[ArrayLike, ArrayLike] | None = None,
    extra: NDArray[np.floating] | None = None,
    valid: NDArray[np.bool_] | None = None,
    init: CvmResult | NDArray[np.floating] | None = None,
    **settings: Unpack[SolverKeywords],
) -> CvmResult:
    """Minimise E = sum g |grad u| + lambda sum [(z - c1)^2 u + (z - c2)^2 (1 - u)] over u, c1 and c2 (eq. 6).

    Each map starts from its two means; u and the means are then updated in turn until u is certified to be within
    `tol` of the global optimum for its means, and the means agree with u.

    Parameters
    ----------
    z, lam, means, extra, valid, init
        See `CvmCase`.
    **settings
        See `wsipipe.numerics.solvers.tasks.SolverSettings`.

    Returns
    -------
    CvmResult

    Raises
    ------
    NumericsError
        Wrong shapes or types, values that are not finite on valid cells, impossible settings.
    """
    case = CvmCase(z, lam=lam, means=means, extra=extra, valid=valid, init=init)
    return solve_cvm_batch([case], **settings)[0]


def solve_cvm_batch(cases: Sequence[CvmCase], **settings: Unpack[SolverKeywords]) -> list[CvmResult]:
    """Segment maps of different sizes at once: as `solve_cvm` on each, with all threads, or the device, kept busy.

    Parameters
    ----------
    cases : sequence of CvmCase
    **settings
        See `wsipipe.numerics.solvers.tasks.SolverSettings`.

    Returns
    -------
    list of CvmResult
        In the order of the cases.

    Raises
    ------
    NumericsError
        As `solve_cvm`.
    """
    chosen = SolverSettings(**settings)
    tasks = [_tasks(case, chosen.neighbourhood) for case in cases]
    solved = iter(solve_tasks([task for of_case in tasks for task in of_case], chosen))
    return [_gathered([next(solved) for _ in of_case], keep_dual=chosen.keep_dual) for of_case in tasks]


def _tasks(case: CvmCase, neighbourhood: Neighbourhood) -> list[Task]:
    """One task for each map of a case."""
    z, valid = case.z, case.valid
    _check_maps(z, valid)
    count = len(z)
    lams = None if case.lam is None else _per_map("lam", case.lam, count)
    pairs = None if case.means is None else _means(case.means, count)
    extra = None if case.extra is None else _extra(case.extra, z.shape)
    starts = _initial(case.init, z.shape, neighbourhood, valid)
    return [
        Task(
            z=prepared("z", z[index], valid),
            valid=valid,
            extra=None if extra is None else prepared("extra", extra[index], valid),
            lam=None if lams is None else float(lams[index]),
            means=None if pairs is None else (float(pairs[0][index]), float(pairs[1][index])),
            init=starts[index],
        )
        for index in range(count)
    ]


def variational_segmentation(
    features: NDArray[np.floating],
    in_target: ArrayLike,
    out_of_target: ArrayLike,
    *,
    eta: float = 0.6,
    prototype: int = 3,
    distance: Distance = "none",
    theta: float = 1.0,
    lam: ArrayLike | None = None,
    valid: NDArray[np.bool_] | None = None,
    init: CvmResult | NDArray[np.floating] | None = None,
    **settings: Unpack[SolverKeywords],
) -> VariationalSegmentation:
    """Segment a feature map from points, eq. 4 to 7: contrast maps, one segmentation each, and their mean.

    Parameters
    ----------
    features : (rows, cols, dim) float array
        Feature map.
    in_target, out_of_target : (n, 2) and (m, 2) int array-likes
        Cells (row, col) inside and outside the target.
    eta, prototype
        See `wsipipe.numerics.contrast.contrast_map`.
    distance : {"none", "euclidean", "geodesic"}
        Selective term of section 3: theta times the distance to the in-target points, Euclidean or along each contrast
        map, is added to the force; see `wsipipe.numerics.distances`.
    theta : float
        Weight of the selective term, 0 or more.
    lam, init
        See `CvmCase`.
    valid : (rows, cols) bool array, optional
        Cells that count in all steps; u is 0 on the others.
    **settings
        See `wsipipe.numerics.solvers.tasks.SolverSettings`.

    Returns
    -------
    VariationalSegmentation

    Raises
    ------
    NumericsError
        As `contrast_map` and `solve_cvm`.
    """
    contrast = contrast_map(features, in_target, out_of_target, eta=eta, prototype=prototype, valid=valid)
    extra = selective_force(contrast, in_target, distance=distance, theta=theta, valid=valid)
    cvm = solve_cvm(contrast, lam=lam, extra=extra, valid=valid, init=init, **settings)
    u_mean = cvm.u.mean(axis=0)
    return VariationalSegmentation(stretched(u_mean, valid), u_mean, contrast, cvm)


def selective_force(
    contrast: NDArray[np.float32],
    in_target: ArrayLike,
    *,
    distance: Distance,
    theta: float,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32] | None:
    """Force theta D of the selective models of section 3.

    Parameters
    ----------
    contrast : (P, rows, cols) float32 array
        Contrast maps, in [0, 1].
    in_target : (n, 2) int array-like
        Cells (row, col) of the in-target points.
    distance : {"none", "euclidean", "geodesic"}
    theta : float
        0 or more.
    valid : (rows, cols) bool array, optional
        Cells that count.

    Returns
    -------
    (rows, cols) or (P, rows, cols) float32 array, or None
        Euclidean: one for all maps; geodesic: one for each; None: no force.
    """
    if not (np.isfinite(theta) and theta >= 0):
        raise NumericsError(f"theta is 0 or more, got {theta}")
    if distance not in ("none", "euclidean", "geodesic"):
        raise NumericsError(f"there is no distance {distance!r}", remedy="none, euclidean or geodesic")
    if distance == "none" or theta == 0:
        return None
    if distance == "euclidean":
        return np.float32(theta) * euclidean_distance(contrast.shape[1:], in_target, valid=valid)
    return np.float32(theta) * np.stack([geodesic_distance(z, in_target, valid=valid) for z in contrast])


def _gathered(solved: Sequence[Solved], *, keep_dual: bool) -> CvmResult:
    solutions = [solution for solution, _ in solved]
    return CvmResult(
        u=np.stack([s.u for s in solutions]),
        c1=np.array([s.c1 for s in solutions]),
        c2=np.array([s.c2 for s in solutions]),
        lam=np.array([lam for _, lam in solved]),
        energy=np.array([s.energy for s in solutions]),
        gap=np.array([s.gap for s in solutions]),
        iterations=np.array([s.iterations for s in solutions], np.int64),
        status=tuple(s.status for s in solutions),
        dual=tuple(s.dual for s in solutions if s.dual is not None) if keep_dual else None,
    )


def _check_maps(z: NDArray[np.floating], valid: NDArray[np.bool_] | None) -> None:
    if not isinstance(z, np.ndarray) or z.ndim != 3 or 0 in z.shape:
        shape = getattr(z, "shape", type(z).__name__)
        raise NumericsError(f"contrast maps are a (P, rows, cols) array, got {shape}", remedy="z[None] for one map")
    if not np.issubdtype(z.dtype, np.floating):
        raise NumericsError(f"contrast maps hold floats, got {z.dtype}")
    check_valid(valid, z.shape[1:])


def _extra(extra: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
    if not isinstance(extra, np.ndarray) or extra.shape not in (shape, shape[1:]):
        got = getattr(extra, "shape", type(extra).__name__)
        raise NumericsError(f"extra has the shape of z, {shape}, or of one map, got {got}")
    return np.broadcast_to(extra, shape)


def _per_map(name: str, value: ArrayLike, count: int) -> NDArray[np.float64]:
    values = np.asarray(value, np.float64)
    if values.shape not in ((), (count,)):
        raise NumericsError(f"{name} is a number or one for each of {count} maps, got an array of {values.shape}")
    if not np.isfinite(values).all():
        raise NumericsError(f"{name} is finite, got {values}")
    if (np.abs(values) > LARGEST_VALUE).any():
        raise NumericsError(f"{name} is at most {LARGEST_VALUE:g}, got {values}")
    if name == "lam" and (values <= 0).any():
        raise NumericsError(f"lam is positive, got {values}")
    return np.broadcast_to(values, (count,))


def _means(means: tuple[ArrayLike, ArrayLike], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(means) != 2:
        raise NumericsError(f"means are a pair (c1, c2), got {len(means)} values")
    c1, c2 = (_per_map(name, value, count) for name, value in zip(("c1", "c2"), means, strict=True))
    if (c1 == c2).any():
        raise NumericsError(f"the means c1 and c2 differ, got {means}")
    return c1, c2


def _initial(
    init: CvmResult | NDArray[np.floating] | None,
    shape: tuple[int, ...],
    neighbourhood: Neighbourhood,
    valid: NDArray[np.bool_] | None,
) -> Sequence[Initial | None]:
    """U and dual variable to start from, one for each map."""
    if init is None:
        return [None] * shape[0]
    u = init.u if isinstance(init, CvmResult) else np.asarray(init)
    if u.shape != shape:
        raise NumericsError(f"init has the shape of z, {shape}, got {u.shape}")
    u = only(u.astype(np.float32, copy=False), valid)
    if not np.isfinite(u).all():
        raise NumericsError("init holds values that are not finite (NaN or infinite)")
    clipped = np.clip(u, 0, 1)
    duals = init.dual if isinstance(init, CvmResult) else None
    fits = duals is not None and duals[0].shape[0] == len(OFFSETS[neighbourhood])
    return [(clipped[i], duals[i] if duals is not None and fits else None) for i in range(shape[0])]
