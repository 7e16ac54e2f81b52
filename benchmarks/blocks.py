"""Maps in bands on disk against the same map in one piece: time, peak memory, iterations.

    python benchmarks/blocks.py [--shape ROWS COLS] [--bands 4 16] [--sweeps 4 16 32] [--workers 1 2] [--json]

Every solve runs in a process of its own, on a noisy synthetic map that lies on disk as an .npy file; u goes to a memory
map. Peak memory is that above the process with everything imported and compiled; in bands, it counts the pages of both
files too (8 bytes per cell), which the system takes back when it needs them. With workers it is all of the largest one.
All solves of one `sweep` have to give the same u, or the script fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peak import own_peak
from scipy.ndimage import gaussian_filter

from wsipipe.numerics.solvers.blocks import solve_blocks
from wsipipe.numerics.solvers.field import LargeMap
from wsipipe.numerics.solvers.problem import Solution
from wsipipe.numerics.solvers.scratch import MemoryScratch
from wsipipe.numerics.solvers.tasks import SolverSettings
from wsipipe.numerics.variational import solve_cvm
from wsipipe.parallel import spread
from wsipipe.store.scratch import scratch_folder

Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=2, default=[2048, 2048])
    parser.add_argument("--bands", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--sweeps", type=int, nargs="+", default=[4, 16, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="*", default=[2], help="local processes")
    parser.add_argument("--tol", type=float, default=1e-3)
    parser.add_argument("--folder", type=Path, help="where the scratch files go (default: the temporary folder)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case = json.loads(options.one)
        sys.stdout.write(json.dumps(make(case) if "make" in case else measure(case)) + "\n")
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        made = Path(folder) / "z.npy"
        run({"make": options.shape, "z": str(made)})  # a child's peak starts at its parent's: this process stays small
        rows = [run(case | {"z": str(made), "tol": options.tol}) for case in cases(options)]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))
    return int(any(len({row["u"] for row in rows if row["sweep"] == sweep}) > 1 for sweep in options.sweeps))


def cases(options: argparse.Namespace) -> Iterator[Row]:
    """One piece first, for every sweep and number of threads; then bands."""
    for sweep in options.sweeps:
        for threads in options.threads:
            yield {"sweep": sweep, "bands": 0, "threads": threads, "workers": 1}
        for bands in options.bands:
            for threads in options.threads:
                yield {"sweep": sweep, "bands": bands, "threads": threads, "workers": 1}
            for workers in options.workers:
                yield {"sweep": sweep, "bands": bands, "threads": 1, "workers": workers}


def run(case: Row) -> Row:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(case)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout))


def make(case: Row) -> Row:
    """Write the map."""
    np.save(case["z"], made_map(tuple(case["make"])))
    return case


def measure(case: Row) -> Row:
    """Solve once, after a small map that compiles and imports everything."""
    path, settings = Path(case["z"]), SolverSettings(sweep=case["sweep"], tol=case["tol"])
    with spread(threads=case["threads"], workers=case["workers"]) as visits:
        small = LargeMap(made_map((64, 64)))
        solve_blocks(small, MemoryScratch(), SolverSettings(max_iter=8), bands=2)
        solve_cvm(small.z[None], max_iter=8, threads=1)
        base, started, cpu = own_peak(), time.perf_counter(), time.process_time()
        if case["bands"]:
            out = np.lib.format.open_memmap(path.with_name("u.npy"), "w+", np.float32, np.load(path, "r").shape)
            with scratch_folder(path.parent, key="blocks") as scratch:
                large = LargeMap(np.load(path, mmap_mode="r"))
                found, _ = solve_blocks(large, scratch, settings, bands=case["bands"], run=visits, out=out)
        else:
            found = undivided(path, case)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        peak = own_peak() - base
    if case["workers"] > 1:
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    figures = {"iterations": found.iterations, "gap": found.gap, "status": found.status}
    return case | {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak, "u": digest(found.u)} | figures


def undivided(path: Path, case: Row) -> Solution:
    """Solve the map in one piece."""
    z = np.load(path)
    result = solve_cvm(z[None], sweep=case["sweep"], tol=case["tol"], threads=case["threads"])
    c1, c2, energy, gap = (float(values[0]) for values in (result.c1, result.c2, result.energy, result.gap))
    return Solution(result.u[0], None, c1, c2, energy, gap, int(result.iterations[0]), result.status[0])


def made_map(shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Make a noisy map with two kinds of region, in [0, 1]."""
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.normal(size=shape).astype(np.float32), 12) > 0
    z = np.clip(0.15 + 0.5 * truth + 0.25 * rng.normal(size=shape).astype(np.float32), 0, 1) ** 2
    return ((z - z.min()) / (z.max() - z.min())).astype(np.float32)


def digest(u: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    """Tell maps apart that differ in a bit."""
    return hashlib.sha256(np.ascontiguousarray(u).data).hexdigest()[:12]


def table(rows: list[Row]) -> str:
    """One line per solve, against the one in one piece with the same sweep and as many threads."""
    lines = ["   K  bands  threads  workers   wall s  (times)    CPU s   peak MB  iterations      gap  u"]
    for row in rows:
        side = max(row["threads"], row["workers"])
        alike = [r for r in rows if not r["bands"] and r["sweep"] == row["sweep"] and r["threads"] == side]
        times = f"({row['wall_s'] / alike[0]['wall_s']:.2f})" if alike else ""
        lines.append(
            f"{row['sweep']:>4}  {row['bands'] or '-':>5}  {row['threads']:>7}  {row['workers']:>7}  "
            f"{row['wall_s']:>7.2f}  {times:>7}  {row['cpu_s']:>7.2f}  {row['peak_mb']:>8.0f}  "
            f"{row['iterations']:>10}  {row['gap']:.1e}  {row['u']}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
