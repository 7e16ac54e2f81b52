"""The contrast-based variational model: from points on a feature map to a segmentation (eq. 4 to 7)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import NumericsError
from wsipipe.numerics.contrast import check_valid, contrast_map
from wsipipe.numerics.energy import region_means
from wsipipe.numerics.solvers.differences import OFFSETS, Neighbourhood
from wsipipe.numerics.solvers.problem import Backend, Limits, Problem, Solution, Start, Status
from wsipipe.numerics.solvers.pyramid import solve_coarse_to_fine
from wsipipe.numerics.solvers.two_means import two_means

BackendName = Literal["auto", "reference", "compiled"]
Solved = tuple[Solution, float]  # with its lambda
Initial = tuple[NDArray[np.float32], NDArray[np.float32] | None]  # u and dual variable to start from

# Squares of z and 1 / (c1 - c2)^2 have to stay well inside the range of float32.
SMALLEST_RANGE, LARGEST_VALUE = 1e-12, 1e12


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
        Eq. 6 with (1 - u): see `wsipipe.numerics.energy`.
    gap : (P,) float64 array
        Duality gap / sum |force|: for its c1 and c2, the energy of u is at most this far above the global minimum.
    iterations : (P,) int64 array
        Primal-dual iterations on the map itself.
    status : tuple of P str
        "converged"; "empty" or "full" (converged, to nothing or to everything); "constant" (z is constant: u = 0, no
        iteration); "capped" (`max_iter` reached first: look at `gap`).
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


def solve_cvm(
    z: NDArray[np.floating],
    *,
    lam: ArrayLike | None = None,
    lam_rel: float = 1.0,
    beta: float = 10.0,
    means: tuple[ArrayLike, ArrayLike] | None = None,
    tol: float = 1e-4,
    valid: NDArray[np.bool_] | None = None,
    init: CvmResult | NDArray[np.floating] | None = None,
    backend: BackendName = "auto",
    neighbourhood: Neighbourhood = "crofton",
    max_iter: int = 1000,
    levels: int = 0,
    threads: int | None = None,
    keep_dual: bool = False,
) -> CvmResult:
    """Minimise E = sum g |grad u| + lambda sum [(z - c1)^2 u + (z - c2)^2 (1 - u)] over u, c1 and c2 (eq. 6).

    Each map starts from its two means; u and the means are then updated in turn until u is certified to be within
    `tol` of the global optimum for its means, and the means no longer move.

    Parameters
    ----------
    z : (P, rows, cols) float array
        Contrast maps. Never mutated.
    lam : float or (P,) array, optional
        Weight lambda of the fitting term. By default lam_rel / (c1 - c2)^2 with the means at the start, so that maps
        of high and of low contrast are smoothed alike.
    lam_rel : float
        See `lam`.
    beta : float
        Edge detector g = 1 / (1 + beta |grad z|^2).
    means : (c1, c2), optional
        Floats or (P,) arrays: keeps the means fixed; the problem is then convex and u its global optimum.
    tol : float
        Largest duality gap as a share of sum |force|, and largest last change of the means as a share of the range
        of z. Below 1e-6, float32 is not enough.
    valid : (rows, cols) bool array, optional
        Cells that count: others get u = 0, have no edges to their neighbours and no part in means, energy and gap.
    init : CvmResult or (P, rows, cols) float array, optional
        Warm start from a former segmentation of maps of this size.
    backend : {"auto", "reference", "compiled"}
        "reference": plain numpy, float64; "compiled": numba, float32. "auto" takes the compiled one.
    neighbourhood : {"crofton", "isotropic"}
        How contours are measured: by eight neighbours (default), or by forward differences. With eight neighbours, u
        above a threshold is itself optimal, and flips and transposes of the map flip and transpose the result;
        forward differences favour one diagonal and change about 1% of a mask under a flip.
    max_iter : int
        Iterations after which a map is given up as "capped".
    levels : int
        Coarse to fine: number of halvings of the map that are solved first; see `wsipipe.numerics.solvers.pyramid`.
    threads : int, optional
        Maps solved at a time; by default one per processor. The result does not depend on it.
    keep_dual : bool
        Keep the dual variables (4 or 2 maps of float32 per map).

    Returns
    -------
    CvmResult

    Raises
    ------
    NumericsError
        Wrong shapes or types, values that are not finite on valid cells, impossible settings.
    """
    _check_maps(z, valid)
    count = len(z)
    model = _Model(lam_rel=lam_rel, beta=beta, neighbourhood=neighbourhood, levels=levels)
    limits = Limits(tol=tol, max_iter=max_iter, fixed_means=means is not None)
    lams = None if lam is None else _per_map("lam", lam, count)
    pairs = None if means is None else _means(means, count)
    starts = _initial(init, z.shape, neighbourhood)
    engine = _backend(backend)

    def one(index: int) -> Solved:
        task = _Task(
            z=_prepared(z[index], valid),
            valid=valid,
            lam=None if lams is None else float(lams[index]),
            means=None if pairs is None else (float(pairs[0][index]), float(pairs[1][index])),
            init=starts[index],
        )
        return task.solve(engine, model, limits)

    return _gathered(_mapped(one, count, threads), keep_dual=keep_dual)


def _mapped(work: Callable[[int], Solved], count: int, threads: int | None) -> list[Solved]:
    """Do work on maps 0 to count - 1 in threads: the compiled loops run beside one another."""
    if threads is not None and threads < 1:
        raise NumericsError(f"threads is at least 1, got {threads}")
    workers = min(count, threads or os.cpu_count() or 1)
    if workers == 1:
        return [work(index) for index in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, range(count)))


@dataclass(frozen=True)
class _Model:
    """What all maps of one call share."""

    lam_rel: float
    beta: float
    neighbourhood: Neighbourhood
    levels: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lam_rel) and self.lam_rel > 0):
            raise NumericsError(f"lam_rel is positive, got {self.lam_rel}")
        if not (np.isfinite(self.beta) and self.beta >= 0):
            raise NumericsError(f"beta is 0 or more, got {self.beta}")
        if self.levels < 0:
            raise NumericsError(f"levels is 0 or more, got {self.levels}")
        if self.neighbourhood not in OFFSETS:
            raise NumericsError(f"there is no neighbourhood {self.neighbourhood!r}", remedy=" or ".join(OFFSETS))


@dataclass(frozen=True)
class _Task:
    """One map with what is known of its solution."""

    z: NDArray[np.float32]
    valid: NDArray[np.bool_] | None
    lam: float | None
    means: tuple[float, float] | None
    init: Initial | None

    def solve(self, engine: Backend, model: _Model, limits: Limits) -> Solved:
        """Solution and the lambda used."""
        where = True if self.valid is None else self.valid
        low, high = float(self.z.min(where=where, initial=np.inf)), float(self.z.max(where=where, initial=-np.inf))
        if high - low < SMALLEST_RANGE:
            return self._constant(low, model.neighbourhood)
        parts = self.means or two_means(lambda t: engine.split(self.z, t, self.valid), low=low, high=high)
        lam = model.lam_rel / (parts[0] - parts[1]) ** 2 if self.lam is None else self.lam
        g = engine.edge_weights(self.z, beta=model.beta, valid=self.valid)
        problem = Problem(self.z, g, lam, model.neighbourhood, self.valid)
        return solve_coarse_to_fine(engine, problem, self._start(parts), limits, levels=model.levels), lam

    def _start(self, parts: tuple[float, float]) -> Start:
        if self.init is None:
            u = (self.z > np.float32((parts[0] + parts[1]) / 2)).astype(np.float32)
            return Start(_only(u, self.valid), *parts)
        u, dual = _only(self.init[0], self.valid), self.init[1]
        c1, c2 = region_means(self.z, u, self.valid)
        if self.means is not None or not c1 > c2:  # nothing is inside, or nothing outside, or they are upside down
            c1, c2 = parts
        return Start(u, c1, c2, dual=dual)

    def _constant(self, value: float, neighbourhood: Neighbourhood) -> Solved:
        """Nothing stands out: u = 0 with both means at the only value there is, and no energy."""
        shape = self.z.shape
        nothing = np.zeros(shape, np.float32)
        dual = np.zeros((len(OFFSETS[neighbourhood]), *shape), np.float32)
        c1, c2 = self.means or (value, value)
        return Solution(nothing, dual, c1, c2, 0.0, 0.0, 0, "constant"), self.lam or float("nan")


def variational_segmentation(
    features: NDArray[np.floating],
    in_target: ArrayLike,
    out_of_target: ArrayLike,
    *,
    eta: float = 0.6,
    prototype: int = 3,
    lam: ArrayLike | None = None,
    lam_rel: float = 1.0,
    beta: float = 10.0,
    tol: float = 1e-4,
    valid: NDArray[np.bool_] | None = None,
    init: CvmResult | NDArray[np.floating] | None = None,
    backend: BackendName = "auto",
    neighbourhood: Neighbourhood = "crofton",
    max_iter: int = 1000,
    levels: int = 0,
    threads: int | None = None,
    keep_dual: bool = False,
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
    lam, lam_rel, beta, tol, init, backend, neighbourhood, max_iter, levels, threads, keep_dual
        See `solve_cvm`.
    valid : (rows, cols) bool array, optional
        Cells that count in all steps; u is 0 on the others.

    Returns
    -------
    VariationalSegmentation

    Raises
    ------
    NumericsError
        As `contrast_map` and `solve_cvm`.
    """
    contrast = contrast_map(features, in_target, out_of_target, eta=eta, prototype=prototype, valid=valid)
    cvm = solve_cvm(
        contrast,
        lam=lam,
        lam_rel=lam_rel,
        beta=beta,
        tol=tol,
        valid=valid,
        init=init,
        backend=backend,
        neighbourhood=neighbourhood,
        max_iter=max_iter,
        levels=levels,
        threads=threads,
        keep_dual=keep_dual,
    )
    u_mean = cvm.u.mean(axis=0)
    return VariationalSegmentation(_stretched(u_mean, valid), u_mean, contrast, cvm)


def _stretched(u: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """N of eq. 7: min-max normalisation over the valid cells; a constant map stays as it is."""
    where = True if valid is None else valid
    low, high = u.min(where=where, initial=np.inf), u.max(where=where, initial=-np.inf)
    if low == high:
        return u.copy()
    return _only(((u - low) / (high - low)).astype(np.float32, copy=False), valid)


def _only(u: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    return u if valid is None else np.where(valid, u, np.float32(0))


def _prepared(z: NDArray[np.floating], valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """One map in float32, 0 where not valid; refuse values that are not finite elsewhere."""
    single = _only(np.ascontiguousarray(z, np.float32), valid)
    if not np.isfinite(single).all():
        raise NumericsError("z holds values that are not finite (NaN or infinite)")
    largest = max(float(single.max()), -float(single.min()))
    if largest > LARGEST_VALUE:
        raise NumericsError(f"z holds values as large as {largest:g}", remedy="scale it to [0, 1]")
    return single


def _backend(name: BackendName) -> Backend:
    """Import a backend only when it is used: numba takes a second to load."""
    if name == "reference":
        from wsipipe.numerics.solvers import reference

        return reference
    if name in ("auto", "compiled"):  # compiled is best at every size
        from wsipipe.numerics.solvers import compiled

        return compiled
    raise NumericsError(f"there is no backend {name!r}", remedy="auto, reference or compiled")


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
        dual=tuple(s.dual for s in solutions) if keep_dual else None,
    )


def _check_maps(z: NDArray[np.floating], valid: NDArray[np.bool_] | None) -> None:
    if not isinstance(z, np.ndarray) or z.ndim != 3 or 0 in z.shape:
        shape = getattr(z, "shape", type(z).__name__)
        raise NumericsError(f"contrast maps are a (P, rows, cols) array, got {shape}", remedy="z[None] for one map")
    if not np.issubdtype(z.dtype, np.floating):
        raise NumericsError(f"contrast maps hold floats, got {z.dtype}")
    check_valid(valid, z.shape[1:])


def _per_map(name: str, value: ArrayLike, count: int) -> NDArray[np.float64]:
    values = np.asarray(value, np.float64)
    if values.shape not in ((), (count,)):
        raise NumericsError(f"{name} is a number or one for each of {count} maps, got an array of {values.shape}")
    if not np.isfinite(values).all():
        raise NumericsError(f"{name} is finite, got {values}")
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
    init: CvmResult | NDArray[np.floating] | None, shape: tuple[int, ...], neighbourhood: Neighbourhood
) -> Sequence[Initial | None]:
    """U and dual variable to start from, one for each map."""
    if init is None:
        return [None] * shape[0]
    u = init.u if isinstance(init, CvmResult) else np.asarray(init)
    if u.shape != shape:
        raise NumericsError(f"init has the shape of z, {shape}, got {u.shape}")
    if not np.isfinite(u).all():
        raise NumericsError("init holds values that are not finite (NaN or infinite)")
    clipped = np.clip(u, 0, 1).astype(np.float32)
    duals = init.dual if isinstance(init, CvmResult) else None
    fits = duals is not None and duals[0].shape[0] == len(OFFSETS[neighbourhood])
    return [(clipped[i], duals[i] if duals is not None and fits else None) for i in range(shape[0])]
