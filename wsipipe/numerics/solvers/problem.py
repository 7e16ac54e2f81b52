"""What every backend is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError
from wsipipe.numerics.solvers.differences import Neighbourhood

Status = Literal["converged", "empty", "full", "constant", "capped"]


@dataclass(frozen=True)
class Problem:
    """One map to segment. Nothing in it is ever mutated.

    Parameters
    ----------
    z : (rows, cols) float32 array
        Contrast map, finite; 0 on cells that are not valid.
    g : (rows, cols) float32 array
        Edge detector in (0, 1]; 1 on cells that are not valid.
    lam : float
        Weight of the fitting term, positive.
    neighbourhood : {"crofton", "isotropic"}
        How lengths are measured.
    valid : (rows, cols) bool array or None
        Cells that count; None: all.
    extra : (rows, cols) float32 array or None
        Force added to that of the fitting term, finite; 0 on cells that are not valid. None: none.
    """

    z: NDArray[np.float32]
    g: NDArray[np.float32]
    lam: float
    neighbourhood: Neighbourhood = "crofton"
    valid: NDArray[np.bool_] | None = None
    extra: NDArray[np.float32] | None = None

    def cells(self) -> NDArray[np.float32]:
        """Values of the cells that count, (n,)."""
        return self.z.ravel() if self.valid is None else self.z[self.valid]


@dataclass(frozen=True)
class Start:
    """Where the iteration starts.

    Parameters
    ----------
    u : (rows, cols) float32 array
        In [0, 1].
    dual : (k, rows, cols) float32 array or None
        Dual variable of a former solve, k pairs per cell; None: 0.
    c1, c2 : float
        Means of z inside and outside.
    """

    u: NDArray[np.float32]
    c1: float
    c2: float
    dual: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Parameters
    ----------
    tol : float
        Largest relative duality gap, and largest distance of c1 and c2 from the means of u as a share of the range of
        z.
    max_iter : int
        Iterations after which the solve is given up as "capped".
    fixed_means : bool
        Whether c1 and c2 stay as they start.
    keep_dual : bool
        Whether the dual variable is wanted at the end.
    sweep : int
        Iterations between two updates of the means. More of them let the means lag behind, but bands of a map have to
        talk to one another less often.
    """

    tol: float
    max_iter: int
    fixed_means: bool = False
    keep_dual: bool = False
    sweep: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise NumericsError(f"tol lies in (0, 1), got {self.tol}")
        if self.max_iter < 1:
            raise NumericsError(f"max_iter is at least 1, got {self.max_iter}")
        if self.sweep < 1:
            raise NumericsError(f"sweep is at least 1, got {self.sweep}")


@dataclass(frozen=True)
class Solution:
    """What a backend found for one map; c1, c2 and the gap belong together (the gap is that of u for these means).

    Parameters
    ----------
    u : (rows, cols) float32 array
        In [0, 1]; 0 on cells that are not valid.
    dual : (k, rows, cols) float32 array or None
        Dual variable, for a warm start, where it was asked for.
    c1, c2, energy, gap : float
        Means, energy (eq. 6 with 1 - u, and the extra force) and relative duality gap.
    iterations : int
        Primal-dual iterations done.
    status : str
        "converged", "empty" or "full" (converged to nothing or everything), "constant", or "capped".
    """

    u: NDArray[np.float32]
    dual: NDArray[np.float32] | None
    c1: float
    c2: float
    energy: float
    gap: float
    iterations: int
    status: Status


@dataclass(frozen=True)
class Region:
    """Sums over the valid cells for w = u clipped to [0, 1]: sum w, and sum z w."""

    mass: float
    weighted: float


@dataclass(frozen=True)
class Measures:
    """Sums over the valid cells for w = u clipped to [0, 1] and the feasible dual variable.

    Parameters
    ----------
    excess : float
        Value of the primal problem for the current c1, c2, less that of the dual: never below 0, but for rounding.
    scale : float
        sum |f|, the yardstick of the gap.
    """

    excess: float
    scale: float


class Stepper(Protocol):
    """The inner loop of a backend on one map: it holds u and the dual variable and moves them."""

    def advance(self, c1: float, c2: float, iterations: int) -> Region:
        """Do primal-dual iterations for fixed means; sum up the segmentation that they end with."""
        ...

    def measure(self, c1: float, c2: float) -> Measures:
        """Sum up what the certificate is made of."""
        ...

    def energy(self, c1: float, c2: float) -> float:
        """E(clipped u, c1, c2) in float64."""
        ...

    def clear(self) -> None:
        """Set u and the dual variable to 0."""
        ...

    def segmentation(self) -> NDArray[np.float32]:
        """Clipped u, (rows, cols); 0 on cells that are not valid."""
        ...

    def dual(self) -> NDArray[np.float32]:
        """Dual variable, (k, rows, cols)."""
        ...


class Backend(Protocol):
    """One way to compute: plain numpy, compiled, on another device, in blocks."""

    def edge_weights(
        self, z: NDArray[np.float32], *, beta: float, valid: NDArray[np.bool_] | None, threads: int = 1
    ) -> NDArray[np.float32]:
        """Edge detector of a map; see `wsipipe.numerics.edges.edge_weights`."""
        ...

    def split(self, cells: NDArray[np.float32], threshold: float, *, largest: float, threads: int = 1) -> Split:
        """Count and sum (n,) cells above a threshold, and all; `largest` is the largest of their sizes."""
        ...

    def solve(self, problem: Problem, start: Start, limits: Limits, *, threads: int = 1) -> Solution:
        """Minimise the energy over u (and c1, c2 unless they are fixed), in threads where the backend has them."""
        ...


@dataclass(frozen=True)
class Split:
    """A map parted by a threshold: cells and sums of z above it, and in all."""

    count_above: int
    sum_above: float
    count: int
    total: float
