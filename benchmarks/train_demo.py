"""Dice on the demo slide after training with other depths, seeds and methods.

    python benchmarks/train_demo.py --depth 1 2 3
    python benchmarks/train_demo.py --seed 0 1 2 --method cvm partial_ce

Dice is that of the written mask against the outlines drawn by hand, on the slide that bears the points.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

from wsipipe.config import load_recipe, updated
from wsipipe.pipeline.demo import score, write_manifest
from wsipipe.pipeline.demo_slide import make_demo_slide
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.train import train
from wsipipe.slides import list_slides


def run(folder: Path, *, depth: int, seed: int, method: str) -> dict[str, object]:
    """Train, predict and compare; features are shared between the runs in a folder."""
    recipe = updated(load_recipe("demo"), {"network": {"depth": depth}, "training": {"seed": seed, "method": method}})
    files = make_demo_slide(folder)
    run_folder = folder / "runs" / f"{method}-{depth}-{seed}"
    started = time.process_time()
    result = train(write_manifest(folder, files), recipe, run_folder, out=folder)
    seconds = time.process_time() - started
    outcome = predict_slide(list_slides([files.slide])[0], model=run_folder, out=folder)
    return {
        "method": method,
        "depth": depth,
        "seed": seed,
        "best_epoch": result.best_epoch,
        "dice": round(score(outcome.outputs[0], files), 3),
        "cpu_s": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, nargs="+", default=[1])
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--method", nargs="+", default=["cvm"])
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = itertools.product(wanted.method, wanted.depth, wanted.seed)
        rows = [run(Path(folder), method=m, depth=d, seed=s) for m, d, s in cases]
    if wanted.json:
        print(json.dumps(rows, indent=2))
        return
    print("  ".join(f"{name:>10}" for name in rows[0]))
    for row in rows:
        print("  ".join(f"{value!s:>10}" for value in row.values()))


if __name__ == "__main__":
    main()
