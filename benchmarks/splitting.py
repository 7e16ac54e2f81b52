"""Operator splitting against the primal-dual iteration: `python benchmarks/splitting.py [--side N] [--json]`.

Noisy synthetic contrast maps, isotropic lengths, both solvers at tol 1e-4 (which for operator splitting is the last
relative step, not a gap). For each lambda and noise: steps and wall seconds of operator splitting, its certified gap,
how far its energy lies above the best for the means that it ended with, the share of cells in which the masks of the
two differ, and the wall milliseconds of the primal-dual solve with free means.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from wsipipe.numerics.variational import CvmResult, solve_cvm

LAMBDAS = (1.0, 3.2, 20.0)
NOISES = (0.25, 0.6)
TOL = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256, help="side of the square maps")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = [measure(made_map(options.side, noise, options.seed), lam, noise) for lam in LAMBDAS for noise in NOISES]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("  ".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value:12.5g}" if isinstance(value, float) else f"{value:>12}" for value in row.values()))


def made_map(side: int, noise: float, seed: int) -> NDArray[np.float32]:
    """Blobs under noise, squared as contrast maps are, (side, side) in [0, 1]."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=(side, side)), 6) > 0
    z = np.clip(0.15 + 0.5 * truth + noise * rng.normal(size=(side, side)), 0, 1) ** 2
    return ((z - z.min()) / (z.max() - z.min())).astype(np.float32)


def measure(z: NDArray[np.float32], lam: float, noise: float) -> dict[str, Any]:
    """One row of the table."""
    splitting, seconds = timed(z, lam, scheme="aos")
    ours, our_seconds = timed(z, lam)
    means = splitting.c1[0], splitting.c2[0]
    best, _ = timed(z, lam, means=means, max_iter=10_000)
    return {
        "lambda": lam,
        "noise": noise,
        "steps": int(splitting.iterations[0]),
        "status": splitting.status[0],
        "seconds": seconds,
        "gap": float(splitting.gap[0]),
        "excess": float(splitting.energy[0] / best.energy[0] - 1),
        "mask": float(((splitting.u > 0.5) != (best.u > 0.5)).mean()),
        "ours_ms": our_seconds * 1e3,
        "ours_gap": float(ours.gap[0]),
        "ours_status": ours.status[0],
    }


def timed(z: NDArray[np.float32], lam: float, **options: Any) -> tuple[CvmResult, float]:  # noqa: ANN401
    """Solve one map; result and wall seconds, after a warm-up that compiles."""
    settings = {"lam": lam, "tol": TOL, "neighbourhood": "isotropic", **options}
    solve_cvm(z[None], **settings | {"max_iter": 2})
    start = time.perf_counter()
    result = solve_cvm(z[None], **settings)
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
