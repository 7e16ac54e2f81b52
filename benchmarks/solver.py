"""Time of the variational solver: `python benchmarks/solver.py [--large] [--maps FILE.npy] [--json]`.

For each size, backend, neighbourhood and lambda: the whole joint solve (edge weights, two means, u, c1 and c2) from a
map to a certified result, against one rfft2 and one copy of the same map in the same run (CPU seconds, the least of
several runs each), and against the authors' kind of solver: 51 steps of additive operator splitting with sparse
direct solves. There are two yardsticks: numpy's rfft2, and scipy's in float32, which is two to five times faster.
Threads are compared in wall seconds, over maps and over bands of rows of one map, in alternation.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy.fft
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from wsipipe.numerics.edges import edge_weights
from wsipipe.numerics.energy import energy, region_means
from wsipipe.numerics.solvers import compiled
from wsipipe.numerics.solvers.differences import OFFSETS, Neighbourhood
from wsipipe.numerics.solvers.tasks import BackendName, Scheme
from wsipipe.numerics.variational import CvmResult, solve_cvm

Map = NDArray[np.float32]
Row = dict[str, Any]
T = TypeVar("T")
LAMBDAS: tuple[float | None, ...] = (None, 1.0, 5.0, 20.0)  # None: scale-free
AOS_STEPS = 51


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256, 1024], help="sides of square maps")
    parser.add_argument("--large", action="store_true", help="also a map of 4096 x 3072 cells")
    parser.add_argument("--maps", type=Path, help="an .npy file of contrast maps (n, rows, cols) to time as well")
    parser.add_argument("--points", type=int, default=10, help="maps in the comparison of thread counts")
    parser.add_argument("--threads", type=int, default=2, help="compared with one")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    shapes = [(side, side) for side in options.sizes] + [(3072, 4096)] * options.large
    maps = [made_map(shape, options.seed) for shape in shapes]
    maps += list(np.load(options.maps).astype(np.float32)) if options.maps else []
    rows: list[Row] = []
    for z in maps:
        rows += list(measure(z, options.repeat))
    many = np.stack([made_map((256, 256), seed) for seed in range(options.points)])
    rows += thread_rows(many, options.threads, options.repeat)
    rows += thread_rows(maps[len(shapes) - 1][None], options.threads, options.repeat)
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def made_map(shape: tuple[int, int], seed: int) -> Map:
    """Make a noisy map with two kinds of region, in [0, 1]."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=shape), 12) > 0
    z = np.clip(0.15 + 0.5 * truth + 0.25 * rng.normal(size=shape), 0, 1) ** 2
    return ((z - z.min()) / (z.max() - z.min())).astype(np.float32)


def measure(z: Map, repeat: int) -> Iterator[Row]:
    """Rows of one map: yardsticks, every backend, the stand-in for the authors' scheme."""
    small = z.size <= 1 << 17
    repeat = repeat if z.size <= 1 << 21 else 2
    yardsticks = {
        "copy": best(z.copy, repeat)[1],
        "rfft2 (scipy)": best(lambda: scipy.fft.rfft2(z), repeat)[1],
        "rfft2 (numpy)": best(lambda: np.fft.rfft2(z), repeat)[1],
        "edge weights": best(lambda: compiled.edge_weights(z, beta=10.0, valid=None), repeat)[1],
    }
    rows = [{"what": what, "seconds": seconds} for what, seconds in yardsticks.items()]
    for kind in OFFSETS:
        rows += [solved(z, repeat, "compiled", kind, lam, tol) for tol in (1e-3, 1e-4) for lam in LAMBDAS]
        rows += [solved(z, 1, "torch", kind, 5.0, 1e-4)]
        rows += [solved(z, 1, "reference", kind, 5.0, 1e-4)] if small else []
    rows += against_aos(z, repeat) if small else []
    for row in rows:
        ratios = {
            "scipy": yardsticks["rfft2 (scipy)"],
            "numpy": yardsticks["rfft2 (numpy)"],
            "copies": yardsticks["copy"],
        }
        yield {"shape": z.shape, "maps": 1, "threads": 1} | row | {k: row["seconds"] / v for k, v in ratios.items()}


def solved(
    z: Map,
    repeat: int,
    backend: BackendName,
    kind: Neighbourhood,
    lam: float | None,
    tol: float,
    *,
    scheme: Scheme = "primal_dual",
) -> Row:
    """Time and certificate of one solve."""
    result, seconds = best(
        lambda: solve_cvm(
            z[None], lam=lam, tol=tol, backend=backend, neighbourhood=kind, scheme=scheme, max_iter=3000, threads=1
        ),
        repeat,
    )
    return {"what": f"{backend} {kind}", "tol": tol, "seconds": seconds} | certificate(result)


def certificate(result: CvmResult) -> Row:
    """Tell the first map's lambda, iterations, gap, energy and status."""
    names = ("lam", "iterations", "gap", "energy", "status")
    return {name: value.item() if hasattr(value := getattr(result, name)[0], "item") else value for name in names}


def thread_rows(z: Map, threads: int, repeat: int) -> list[Row]:
    """Time the same maps, (P, rows, cols), on one thread and on several, in wall seconds, in turn."""
    shared: Row = {"shape": z.shape[1:], "what": "compiled crofton", "maps": len(z), "lam": 5.0, "tol": 1e-4}
    settings: dict[str, Any] = {"lam": 5.0, "tol": 1e-4}
    counts = (1, threads)
    solve_cvm(z, threads=threads, **settings)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(repeat):
        for count in counts:
            _, wall = best(lambda count=count: solve_cvm(z, threads=count, **settings), 1, time.perf_counter)
            seconds[count].append(wall)
    least = {count: min(times) for count, times in seconds.items()}
    return [shared | {"threads": count, "seconds": least[count], "times": least[1] / least[count]} for count in counts]


def against_aos(z: Map, repeat: int) -> list[Row]:
    """51 steps of splitting for fixed means, and our solve of the same problem: time and energy of both."""
    g = edge_weights(z.astype(np.float64), beta=10.0)
    u = (z > 0.5 * (z.max() + z.min())).astype(np.float64)
    c1, c2 = region_means(z, u)
    given: dict[str, Any] = {"c1": c1, "c2": c2, "lam": 5.0, "neighbourhood": "isotropic"}
    split, aos_seconds = best(lambda: aos(z, g, u, c1=c1, c2=c2, lam=5.0), 1)
    ours, seconds = best(
        lambda: solve_cvm(z[None], lam=5.0, means=(c1, c2), neighbourhood="isotropic", threads=1), repeat
    )
    return [
        {
            "what": f"AOS, {AOS_STEPS} sparse steps",
            "seconds": aos_seconds,
            "lam": 5.0,
            "energy": energy(z, split, g, **given),
        },
        {"what": "compiled isotropic, same means", "seconds": seconds, "tol": 1e-4, "times": aos_seconds / seconds}
        | certificate(ours)
        | {"energy": energy(z, ours.u[0], g, **given)},
        solved(z, 1, "compiled", "isotropic", 5.0, 1e-4, scheme="aos") | {"what": "our own AOS, means joint"},
    ]


def aos(
    z: Map, g: NDArray[np.float64], u: NDArray[np.float64], *, c1: float, c2: float, lam: float
) -> NDArray[np.float64]:
    """Additive operator splitting (Weickert 1998) of the gradient flow, each half step by a sparse direct solve.

    Regularised diffusivity g / sqrt(|grad u|^2 + 1e-4), time step 0.5, u clipped to [0, 1] after each step.
    """
    tau, force = 0.5, lam * ((z - c1) ** 2 - (z - c2) ** 2)
    for _ in range(AOS_STEPS):
        down, right = np.gradient(u)
        diffusivity = g / np.sqrt(down**2 + right**2 + 1e-4)
        known = u - tau * force
        along_rows = line_solve(diffusivity, known, tau)
        along_cols = line_solve(diffusivity.T, known.T, tau).T
        u = np.clip((along_rows + along_cols) / 2, 0, 1)
    return u


def line_solve(diffusivity: NDArray[np.float64], known: NDArray[np.float64], tau: float) -> NDArray[np.float64]:
    """Solve (1 - 2 tau A) u = known with A the diffusion along the rows of the map, as one sparse system."""
    between = np.zeros_like(diffusivity)
    between[:, :-1] = (diffusivity[:, :-1] + diffusivity[:, 1:]) / 2  # half a pixel on; none past the last column
    flow = 2 * tau * between.ravel()
    main = 1 + flow + np.concatenate([[0.0], flow[:-1]])
    system = scipy.sparse.diags_array([-flow[:-1], main, -flow[:-1]], offsets=(-1, 0, 1), format="csc")
    return scipy.sparse.linalg.spsolve(system, known.ravel()).reshape(known.shape)


def best(work: Callable[[], T], repeat: int, clock: Callable[[], float] = time.process_time) -> tuple[T, float]:
    """Return the result and the least seconds of several runs, after one that does not count where there are several.

    CPU seconds by default: on a machine shared with others they hold where wall seconds do not.
    """
    if repeat > 1:
        work()
    times = []
    for _ in range(repeat):
        start = clock()
        result = work()
        times.append(clock() - start)
    return result, min(times)


def table(rows: list[Row]) -> str:
    """One line per row."""
    columns = {
        "shape": lambda value: f"{value[0]}x{value[1]}",
        "what": str,
        "maps": str,
        "threads": str,
        "lam": "{:.2f}".format,
        "tol": "{:.0e}".format,
        "seconds": lambda value: f"{1e3 * value:.2f} ms",
        "scipy": "{:.1f}".format,
        "numpy": "{:.1f}".format,
        "copies": "{:.0f}".format,
        "iterations": str,
        "gap": "{:.1e}".format,
        "energy": "{:.1f}".format,
        "status": str,
        "times": "{:.3g} times as fast".format,
    }
    cells = [[*list(columns)[:-1], ""]]
    cells += [[tell(row[name]) if name in row else "" for name, tell in columns.items()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
