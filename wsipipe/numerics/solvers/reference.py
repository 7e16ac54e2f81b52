"""Over-relaxed primal-dual iteration in plain numpy, float64: slow, and meant to be read.

For fixed c1 and c2 the energy is convex in u: min over 0 <= u <= 1 of max over p of <p, grad u> + <f, u>, with p
bounded by the edge weights. One iteration (Chambolle and Pock, J. Math. Imaging Vis. 2011; relaxed after Condat, J.
Optim. Theory Appl. 2013), with grad^T = -div:

    v  = clip(u - tau (f + grad^T p), 0, 1)
    u' = u + rho (v - u)
    q  = project(p + sigma grad(2 v - u))
    p' = p + rho (q - p)

tau sigma |grad|^2 <= 1, where |grad|^2 <= 8 for forward differences and <= 12 for eight neighbours; 0 < rho < 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsipipe.numerics import edges, energy
from wsipipe.numerics.solvers.alternation import Totals, alternate
from wsipipe.numerics.solvers.differences import Neighbourhood, adjoint, differences
from wsipipe.numerics.solvers.problem import Limits, Measures, Problem, Region, Solution, Split, Start

RHO = 1.6
STEPS: dict[Neighbourhood, tuple[float, float]] = {"crofton": (1.0, 1 / 12), "isotropic": (0.25, 0.5)}  # tau, sigma


def edge_weights(
    z: NDArray[np.float32], *, beta: float, valid: NDArray[np.bool_] | None, threads: int = 1
) -> NDArray[np.float32]:
    """Edge detector; see `wsipipe.numerics.edges.edge_weights`. One thread, whatever is asked for."""
    del threads
    return edges.edge_weights(z, beta=beta, valid=valid).astype(np.float32, copy=False)


def split(cells: NDArray[np.float32], threshold: float, *, largest: float, threads: int = 1) -> Split:
    """Count and sum cells above a threshold and all; see `wsipipe.numerics.solvers.problem.Backend`."""
    del largest, threads
    values = cells.astype(np.float64)
    above = values[values > threshold]
    return Split(above.size, float(above.sum()), values.size, float(values.sum()))


def solve(problem: Problem, start: Start, limits: Limits, *, threads: int = 1) -> Solution:
    """Minimise the energy; see `wsipipe.numerics.solvers.alternation.alternate`. One thread, whatever is asked for."""
    del threads
    cells = problem.cells()
    totals = Totals(cells.size, float(cells.sum(dtype=np.float64)), float(cells.min()), float(cells.max()))
    return alternate(ReferenceStepper(problem, start), totals, start, limits)


class ReferenceStepper:
    """State of the iteration on one map, in float64."""

    def __init__(self, problem: Problem, start: Start) -> None:
        self.problem = problem
        self.u = start.u.astype(np.float64)
        zero = differences(np.zeros_like(self.u), problem.neighbourhood)
        self.p: NDArray[np.float64] = zero.astype(np.float64) if start.dual is None else start.dual.astype(np.float64)
        self.tau, self.sigma = STEPS[problem.neighbourhood]

    def advance(self, c1: float, c2: float, iterations: int) -> Region:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        f, kind = self._force(c1, c2), self.problem.neighbourhood
        for _ in range(iterations):
            v = np.clip(self.u - self.tau * (f + adjoint(self.p, kind)), 0, 1)
            q = self._project(self.p + self.sigma * differences(2 * v - self.u, kind))
            self.u += RHO * (v - self.u)
            self.p += RHO * (q - self.p)
        w = self._segmentation()
        return Region(mass=float(w.sum()), weighted=float((self.problem.z * w).sum()))

    def measure(self, c1: float, c2: float) -> Measures:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        f, w, case = self._force(c1, c2), self._segmentation(), self.problem
        primal = energy.primal_value(w, case.g, f, neighbourhood=case.neighbourhood, valid=case.valid)
        dual = energy.dual_value(self._project(self.p), f, neighbourhood=case.neighbourhood)
        return Measures(excess=primal - dual, scale=float(np.abs(f).sum()))

    def energy(self, c1: float, c2: float) -> float:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        case = self.problem
        return energy.energy(
            case.z,
            self._segmentation(),
            case.g,
            c1=c1,
            c2=c2,
            lam=case.lam,
            neighbourhood=case.neighbourhood,
            valid=case.valid,
            extra=case.extra,
        )

    def clear(self) -> None:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        self.u[...], self.p[...] = 0, 0

    def segmentation(self) -> NDArray[np.float32]:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        return self._segmentation().astype(np.float32)

    def dual(self) -> NDArray[np.float32]:
        """See `wsipipe.numerics.solvers.problem.Stepper`."""
        return self.p.astype(np.float32)

    def _force(self, c1: float, c2: float) -> NDArray[np.float64]:
        case = self.problem
        return energy.force(case.z, c1=c1, c2=c2, lam=case.lam, valid=case.valid, extra=case.extra)

    def _project(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        case = self.problem
        return energy.feasible(p, case.g, neighbourhood=case.neighbourhood, valid=case.valid)

    def _segmentation(self) -> NDArray[np.float64]:
        u = np.clip(self.u, 0, 1)
        return u if self.problem.valid is None else np.where(self.problem.valid, u, 0)
