"""What the network adds to `cvm_plus`: `python benchmarks/network_share.py glas.csv --run FOLDER --out PROJECT`.

FOLDER holds a finished `wsipipe crossval glas.csv --recipe glas_cpu --run FOLDER`. The images of each fold are
predicted again with the network's logit at other shares beside the pooled contrast (`cvm_plus.student`); Dice by fold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from wsipipe.config import load_recipe
from wsipipe.models.segmentation import restore_model
from wsipipe.pipeline.cases import read_cases
from wsipipe.pipeline.crossval_job import predicted, score_image
from wsipipe.pipeline.crossval_plan import Job, Variant, make_plan
from wsipipe.pipeline.large_maps import Room
from wsipipe.pipeline.preparation import Reading
from wsipipe.progress import silent
from wsipipe.store.checkpoint import load_checkpoint

METHOD = "cvm_plus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="glas_cpu")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.05, 0.1, 0.25, 0.5, 1])
    options = parser.parse_args()
    plan = make_plan(
        read_cases(options.manifest),
        load_recipe(options.recipe),
        options.run,
        [Variant(METHOD, {"training": {"method": METHOD}})],
        folds=options.folds,
        out=options.out,
        reading=Reading(),
        force=False,
        report=silent,
    )
    sys.stdout.write(f"{'share':<8}" + "".join(f"{job.fold:>8}" for job in plan.jobs) + f"{'mean':>8}\n")
    for share in options.shares:
        scores = [dice(job, share) for job in plan.jobs]
        sys.stdout.write(f"{share:<8g}" + "".join(f"{score:>8.3f}" for score in [*scores, np.mean(scores)]) + "\n")
        sys.stdout.flush()


def dice(job: Job, share: float) -> float:
    """Mean Dice of a fold's images."""
    network = restore_model(load_checkpoint(job.folder / "checkpoint.safetensors"), device="cpu")
    assert network.prior is not None
    network.prior.student.fill_(share)
    scores = []
    for image in job.held_out:
        values, valid = predicted(network, image.source, job.recipe, Room(job.folder, image.case.key, threads=1))
        scores.append(score_image(image, values, valid, threshold=job.recipe.predict.threshold)["dice"])
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
