"""How good a teacher was: `python benchmarks/teacher_dice.py RUN [RUN ...] --manifest TRAIN.csv --out PROJECT`.

RUN is the folder of a finished training (of `train`, or fold-1/cvm of `crossval`), TRAIN.csv its manifest with masks,
PROJECT the folder that holds its features. Prints the mean Dice coefficient, over the training windows, of what the
teacher last said (cut at 0.5), and the shares of cells in target by teacher and mask.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from wsipipe.config import load_recipe
from wsipipe.numerics.metrics import dice
from wsipipe.pipeline.manifest import read_manifest
from wsipipe.pipeline.preparation import Reading, prepare
from wsipipe.pipeline.samples import WindowCache
from wsipipe.progress import silent
from wsipipe.store.run_folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sys.stdout.write(f"{'run':<40}{'windows':>9}{'Dice':>8}{'teacher':>9}{'mask':>8}\n")
    for run in options.runs:
        rows = told(run, options.manifest, options.out)
        score, said, wanted = np.mean(rows, axis=0)
        sys.stdout.write(f"{run!s:<40}{len(rows):>9}{score:>8.3f}{said:>9.3f}{wanted:>8.3f}\n")


def told(run: Path, manifest: Path, out: Path) -> list[tuple[float, float, float]]:
    """Dice, share of the teacher and share of the mask for every window that it has an opinion on."""
    with RunFolder(run) as folder:
        state = folder.load_state()
    if state is None:
        raise SystemExit(f"{run}: no training state")
    targets = {name: values.numpy() > 0.5 for name, values in state["method"].items()}
    data = prepare(read_manifest(manifest), load_recipe(run / "recipe.yaml"), out=out, reading=Reading(), report=silent)
    cache, rows = WindowCache(), []
    for sample in data.train:
        truth, said = cache.get(sample).truth, targets.get(sample.name)
        if truth is not None and said is not None:
            rows.append((dice(said, truth), float(said.mean()), float(truth.mean())))
    return rows


if __name__ == "__main__":
    main()
