"""From contrast maps to solutions: start, lambda, edge weights, and which backend solves them in how many threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import NumericsError
from wsipipe.numerics.energy import region_means
from wsipipe.numerics.solvers.differences import OFFSETS, Neighbourhood
from wsipipe.numerics.solvers.problem import Backend, Limits, Problem, Solution, Start
from wsipipe.numerics.solvers.pyramid import solve_coarse_to_fine
from wsipipe.numerics.solvers.two_means import two_means

BackendName = Literal["auto", "reference", "compiled", "torch"]
Scheme = Literal["primal_dual", "aos"]
Solved = tuple[Solution, float]  # with its lambda
Initial = tuple[NDArray[np.float32], NDArray[np.float32] | None]  # u and dual variable to start from

# Squares of z and 1 / (c1 - c2)^2 have to stay well inside the range of float32.
SMALLEST_RANGE, LARGEST_VALUE = 1e-12, 1e12


class SolverKeywords(TypedDict, total=False):
    """Fields of `SolverSettings`, for functions that take them by keyword."""

    lam_rel: float
    beta: float
    tol: float
    neighbourhood: Neighbourhood
    scheme: Scheme
    backend: BackendName
    device: str | None
    max_iter: int
    sweep: int
    levels: int
    threads: int | None
    keep_dual: bool


@dataclass(frozen=True)
class SolverSettings:
    """How maps are solved.

    Parameters
    ----------
    lam_rel : float
        Scale-free weight of the fitting term: where no lambda is given, it is lam_rel / (c1 - c2)^2 with the means at
        the start, so that maps of high and of low contrast are smoothed alike.
    beta : float
        Edge detector g = 1 / (1 + beta |grad z|^2).
    tol : float
        Largest duality gap as a share of sum |force|, and largest distance of the means from those of u as a share of
        the range of z. Below 1e-6, float32 is not enough.
    neighbourhood : {"crofton", "isotropic"}
        How contours are measured: by eight neighbours (default), or by forward differences. With eight neighbours, u
        above a threshold is itself optimal, and flips and transposes of the map flip and transpose the result;
        forward differences favour one diagonal and change about 1% of a mask under a flip.
    scheme : {"primal_dual", "aos"}
        "primal_dual": over-relaxed primal-dual iteration, exact, with a certificate. "aos": the paper's additive
        operator splitting, isotropic, for comparison; see `wsipipe.numerics.solvers.aos` for what its `tol` means.
    backend : {"auto", "reference", "compiled", "torch"}
        "reference": plain numpy, float64; "compiled": numba, float32; "torch": float32 on `device`. "auto" takes torch
        where a device other than the CPU is named, and the compiled one otherwise.
    device : str, optional
        Device of torch ("cuda", "cuda:1", "mps", "cpu"); None: the CPU.
    max_iter : int
        Iterations after which a map is given up as "capped".
    sweep : int
        Iterations between two updates of the means; see `wsipipe.numerics.solvers.problem.Limits`.
    levels : int
        Coarse to fine: number of halvings of the map that are solved first; see `wsipipe.numerics.solvers.pyramid`.
    threads : int, optional
        Threads on a CPU: one map each, and where there are fewer maps, several row bands of a large one. By default
        one per processor. The result does not depend on it.
    keep_dual : bool
        Keep the dual variables (4 or 2 maps of float32 per map).

    Raises
    ------
    NumericsError
        Impossible values, or settings that exclude one another.
    """

    lam_rel: float = 1.0
    beta: float = 10.0
    tol: float = 1e-4
    neighbourhood: Neighbourhood = "crofton"
    scheme: Scheme = "primal_dual"
    backend: BackendName = "auto"
    device: str | None = None
    max_iter: int = 1000
    sweep: int = Limits.sweep
    levels: int = 0
    threads: int | None = None
    keep_dual: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.lam_rel <= LARGEST_VALUE:
            raise NumericsError(f"lam_rel is positive and at most {LARGEST_VALUE:g}, got {self.lam_rel}")
        if not (np.isfinite(self.beta) and self.beta >= 0):
            raise NumericsError(f"beta is 0 or more, got {self.beta}")
        if self.levels < 0:
            raise NumericsError(f"levels is 0 or more, got {self.levels}")
        if self.threads is not None and self.threads < 1:
            raise NumericsError(f"threads is at least 1, got {self.threads}")
        _known("neighbourhood", self.neighbourhood, tuple(OFFSETS))
        _known("scheme", self.scheme, ("primal_dual", "aos"))
        _known("backend", self.backend, ("auto", "reference", "compiled", "torch"))
        if self.scheme == "aos" and self.neighbourhood != "isotropic":
            raise NumericsError(
                f"scheme aos works on rows and columns, not on the neighbourhood {self.neighbourhood}",
                remedy="neighbourhood isotropic, or scheme primal_dual",
            )
        elsewhere = self.device not in (None, "cpu")
        if (elsewhere and not self.uses_torch) or (self.scheme == "aos" and self.backend not in ("auto", "compiled")):
            raise NumericsError(
                f"scheme {self.scheme} with backend {self.backend} does not run on device {self.device or 'cpu'}",
                remedy="scheme primal_dual, with backend torch for devices",
            )
        if self.uses_torch and self.levels:
            raise NumericsError(f"torch solves maps at once, got levels {self.levels}", remedy="levels 0")
        self.limits(fixed_means=False)

    @property
    def uses_torch(self) -> bool:
        """Whether the maps go to a device of torch."""
        elsewhere = self.device is not None and self.device != "cpu"
        return self.scheme != "aos" and (self.backend == "torch" or (self.backend == "auto" and elsewhere))

    def limits(self, *, fixed_means: bool) -> Limits:
        """When to stop."""
        return Limits(self.tol, self.max_iter, fixed_means=fixed_means, keep_dual=self.keep_dual, sweep=self.sweep)


def _known(name: str, value: str, words: Sequence[str]) -> None:
    if value not in words:
        raise NumericsError(f"there is no {name} {value!r}", remedy=f"{', '.join(words[:-1])} or {words[-1]}")


@dataclass(frozen=True)
class Task:
    """One map with what is known of its solution.

    Parameters
    ----------
    z : (rows, cols) float32 array
        Finite; 0 on cells that are not valid.
    valid : (rows, cols) bool array or None
        Cells that count.
    extra : (rows, cols) float32 array or None
        Extra force; 0 on cells that are not valid.
    lam : float or None
        Weight of the fitting term; None: from `lam_rel`.
    means : (float, float) or None
        Fixed means.
    init : (u, dual variable or None), or None
        Warm start.
    """

    z: NDArray[np.float32]
    valid: NDArray[np.bool_] | None
    extra: NDArray[np.float32] | None
    lam: float | None
    means: tuple[float, float] | None
    init: Initial | None


def solve_tasks(tasks: Sequence[Task], settings: SolverSettings) -> list[Solved]:
    """Solve maps of any sizes; results in the order of the tasks."""
    if settings.uses_torch:
        from wsipipe.numerics.solvers.torch_tasks import solve_on_device  # torch takes a second to load

        return solve_on_device(tasks, settings)
    engine = _engine(settings)
    threads = settings.threads or available_threads()
    workers = min(len(tasks), threads)
    if workers <= 1:
        return [_solved(task, engine, settings, threads) for task in tasks]
    # The largest first, so that no thread is left alone with it at the end.
    order = sorted(range(len(tasks)), key=lambda index: -tasks[index].z.size)
    with ThreadPoolExecutor(workers) as pool:
        running = {index: pool.submit(_solved, tasks[index], engine, settings, threads // workers) for index in order}
        return [running[index].result() for index in range(len(tasks))]


def available_threads() -> int:
    """Count the cores that this process may use: its share, where workers share a machine."""
    share = os.environ.get("NUMBA_NUM_THREADS", "")
    if share.isdigit():
        return max(1, int(share))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _engine(settings: SolverSettings) -> Backend:
    """Import a backend only when it is used: numba takes a second to load."""
    if settings.scheme == "aos":
        from wsipipe.numerics.solvers import aos

        return aos
    if settings.backend == "reference":
        from wsipipe.numerics.solvers import reference

        return reference
    from wsipipe.numerics.solvers import compiled

    return compiled


def _solved(task: Task, engine: Backend, settings: SolverSettings, threads: int) -> Solved:
    """Solution and the lambda used."""
    cells = task.z.ravel() if task.valid is None else task.z[task.valid]
    low, high = float(cells.min()), float(cells.max())
    flat = high - low < SMALLEST_RANGE
    if flat and task.means is None and task.extra is None:
        return constant(task, low, settings)
    part = partial(engine.split, cells, largest=max(high, -low), threads=threads)
    parts = task.means or ((low, low) if flat else two_means(part, low=low, high=high))
    lam = first_lambda(parts, task.lam, settings)
    g = engine.edge_weights(task.z, beta=settings.beta, valid=task.valid, threads=threads)
    problem = Problem(task.z, g, lam, settings.neighbourhood, task.valid, task.extra)
    limits = settings.limits(fixed_means=flat or task.means is not None)
    start = _start(task, parts)
    return solve_coarse_to_fine(engine, problem, start, limits, levels=settings.levels, threads=threads), lam


def first_lambda(parts: tuple[float, float], given: float | None, settings: SolverSettings) -> float:
    """Lambda as given, or scale-free; without any contrast, nothing hangs on it."""
    if given is not None:
        return given
    return settings.lam_rel / ((parts[0] - parts[1]) ** 2 or 1.0)


def _start(task: Task, parts: tuple[float, float]) -> Start:
    """Cells nearer to c1 than to c2, or a former solution with its means."""
    if task.init is None:
        u = (task.z > np.float32((parts[0] + parts[1]) / 2)).astype(np.float32)
        return Start(only(u, task.valid), *parts)
    u, dual = only(task.init[0], task.valid), task.init[1]
    if task.means is not None:
        return Start(u, *parts, dual=dual)
    c1, c2 = region_means(task.z, u, task.valid)
    ordered = c1 > c2  # not where nothing is inside, or nothing outside, or they are upside down
    return Start(u, *((c1, c2) if ordered else parts), dual=dual)


def constant(task: Task, value: float, settings: SolverSettings) -> Solved:
    """Nothing stands out: u = 0 with both means at the only value there is, and no energy."""
    shape = task.z.shape
    dual = np.zeros((len(OFFSETS[settings.neighbourhood]), *shape), np.float32) if settings.keep_dual else None
    nothing = np.zeros(shape, np.float32)
    return Solution(nothing, dual, value, value, 0.0, 0.0, 0, "constant"), task.lam or float("nan")


def only(u: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Set cells that do not count to 0."""
    return u if valid is None else np.where(valid, u, np.float32(0))


def prepared(name: str, values: ArrayLike, valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Take a map, or rows of one, in float32, 0 where not valid.

    Raises
    ------
    NumericsError
        Values that are not finite, or too large, on valid cells.
    """
    single = only(np.ascontiguousarray(values, np.float32), valid)
    largest = max(float(single.max()), -float(single.min()))  # not a number as soon as one value is none
    if not np.isfinite(largest):
        raise NumericsError(f"{name} holds values that are not finite (NaN or infinite)")
    if largest > LARGEST_VALUE:
        raise NumericsError(f"{name} holds values as large as {largest:g}", remedy="scale it to [0, 1]")
    return single
