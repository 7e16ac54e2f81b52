"""Time of the torch solver against the bytes it must move: `python benchmarks/solver_torch.py [--device D] [--json]`.

For each size, neighbourhood and kernel (plain torch; Triton on CUDA): seconds per iteration alone, and in a solve, with
its sums, certificates and captured graph; both against the bound: a copy that moves as many bytes as an iteration
must (`BYTES` per cell: each plane read or written once), on the same device in the same run. Then the whole joint solve
from a map to a certified result and, on a CPU, that of the compiled solver with one thread, its start included. CPU
seconds on a CPU, wall seconds elsewhere; the least of several runs each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from wsipipe.numerics.solvers.differences import OFFSETS, Neighbourhood
from wsipipe.numerics.solvers.problem import Limits
from wsipipe.numerics.solvers.torch_batch import BatchSolver, Kernel, solve_maps
from wsipipe.numerics.solvers.torch_planes import Layout
from wsipipe.numerics.variational import solve_cvm

Row = dict[str, Any]
BYTES: dict[Neighbourhood, int] = {"crofton": 48, "isotropic": 32}  # u, z, g, p read, u, p written; p has 4 or 2 planes
ITERATIONS = 40  # in one measurement
TOL = 1e-4


@dataclass(frozen=True)
class Batch:
    """Maps on a device, and how to time work on it."""

    z: Tensor
    repeat: int

    @property
    def device(self) -> torch.device:
        """Where the maps are."""
        return self.z.device

    def seconds(self, work: Callable[[], object]) -> float:
        """Least time of several runs, after one that does not count."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        times = []
        for _ in range(self.repeat + 1):
            self.wait()
            start = clock()
            work()
            self.wait()
            times.append(clock() - start)
        return min(times[1:])

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--sizes", nargs="+", default=["8x256x256", "1x3072x4096"], help="maps x rows x columns, e.g. 8x256x256"
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows: list[Row] = []
    for size in options.sizes:
        count, height, width = (int(part) for part in size.split("x"))
        maps = np.stack([made_map((height, width), options.seed + index) for index in range(count)])
        rows += measure(Batch(torch.from_numpy(maps).to(options.device), options.repeat))
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def made_map(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Make a noisy map with two kinds of region, in [0, 1]."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=shape), 12) > 0
    z = np.clip(0.15 + 0.5 * truth + 0.25 * rng.normal(size=shape), 0, 1) ** 2
    return ((z - z.min()) / (z.max() - z.min())).astype(np.float32)


def measure(batch: Batch) -> Iterator[Row]:
    """Rows of one batch."""
    kernels: tuple[Kernel, ...] = ("eager", "triton") if batch.device.type == "cuda" else ("eager",)
    for kind in OFFSETS:
        bound = copy_seconds(batch, BYTES[kind] * batch.z.numel())
        shared = {
            "device": device_name(batch.device),
            "size": "x".join(str(side) for side in batch.z.shape),
            "kind": kind,
            "bound": bound,
            "rate": BYTES[kind] * batch.z.numel() / bound / 1e9,
        }
        for kernel in kernels:
            alone, inside = alone_seconds(batch, kind, kernel), solve_seconds_per_iteration(batch, kind, kernel)
            yield (
                shared
                | {"what": kernel, "alone": alone, "inside": inside, "share": bound / inside}
                | joint(batch, kind, kernel)
            )
        if batch.device.type == "cpu":
            yield shared | {"what": "compiled"} | joint_compiled(batch, kind)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def copy_seconds(batch: Batch, moved: int) -> float:
    """Time of a copy that reads half of `moved` bytes and writes as many."""
    source = torch.ones(moved // 8, device=batch.device)
    target = torch.zeros_like(source)
    return batch.seconds(lambda: target.copy_(source))


def made_solver(batch: Batch, kind: Neighbourhood, limits: Limits, kernel: Kernel) -> BatchSolver:
    return BatchSolver(Layout.of(batch.z, kind, masked=False, forced=False), limits, kernel=kernel)


def alone_seconds(batch: Batch, kind: Neighbourhood, kernel: Kernel) -> float:
    """One iteration, launched one by one."""
    solver = made_solver(batch, kind, Limits(TOL, 1), kernel)
    solve_maps(batch.z, solver.limits, neighbourhood=kind, solver=solver)
    slope, offset = torch.full((2, len(batch.z)), -0.1, device=batch.device)
    active = torch.ones(len(batch.z), dtype=torch.bool, device=batch.device)
    return batch.seconds(lambda: solver.planes.advance(slope, offset, active, ITERATIONS)) / ITERATIONS


def solve_seconds_per_iteration(batch: Batch, kind: Neighbourhood, kernel: Kernel) -> float:
    """One iteration with its share of sums and certificates: the longer of two solves less the shorter."""
    means = torch.full((2, len(batch.z)), 0.4, device=batch.device)
    means[1] = 0.2
    times = []
    for iterations in (ITERATIONS, 3 * ITERATIONS):
        solver = made_solver(batch, kind, Limits(1e-12, iterations, fixed_means=True), kernel)

        def solve(solver: BatchSolver = solver) -> None:
            solve_maps(batch.z, solver.limits, means=(means[0], means[1]), neighbourhood=kind, solver=solver)

        times.append(batch.seconds(solve))
    return (times[1] - times[0]) / (2 * ITERATIONS)


def joint(batch: Batch, kind: Neighbourhood, kernel: Kernel) -> Row:
    """Whole joint solve with a solver that is used again; on a CPU map by map, as its caches want it."""
    parts = [batch.z[index : index + 1] for index in range(len(batch.z))] if batch.device.type == "cpu" else [batch.z]
    limits = Limits(TOL, 1000)
    solver = made_solver(Batch(parts[0], 1), kind, limits, kernel)
    found = [solve_maps(part, limits, neighbourhood=kind, solver=solver) for part in parts]
    seconds = batch.seconds(lambda: [solve_maps(p, limits, neighbourhood=kind, solver=solver) for p in parts])
    return {"solve": seconds, "iterations": max(int(part.iterations.max()) for part in found)}


def joint_compiled(batch: Batch, kind: Neighbourhood) -> Row:
    """Let the compiled solver do the same, in one thread."""
    z = batch.z.numpy()
    found = solve_cvm(z, tol=TOL, neighbourhood=kind, backend="compiled", threads=1)
    seconds = batch.seconds(lambda: solve_cvm(z, tol=TOL, neighbourhood=kind, backend="compiled", threads=1))
    return {"solve": seconds, "iterations": int(found.iterations.max())}


def table(rows: list[Row]) -> str:
    """One line per row."""
    columns = {
        "device": str,
        "size": str,
        "kind": str,
        "what": str,
        "rate": "{:.1f} GB/s copied".format,
        "bound": lambda value: f"{1e6 * value:.0f} us",
        "alone": lambda value: f"{1e6 * value:.0f} us",
        "inside": lambda value: f"{1e6 * value:.0f} us",
        "share": "{:.2f} of bound".format,
        "solve": lambda value: f"{1e3 * value:.1f} ms",
        "iterations": str,
    }
    cells = [list(columns)]
    cells += [[tell(row[name]) if name in row else "" for name, tell in columns.items()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
