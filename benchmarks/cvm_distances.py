"""The paper's step from points to mask on stored features: eta and the selective terms, told apart.

    python benchmarks/cvm_distances.py --data DIR [--images 24] [--pairs 3 10]
    python benchmarks/cvm_distances.py --map MAP.h5 --points POINTS --reference MASK.tif

On images (DIR as for `segment_glas.py`): each alone, random points, filter bank; mean Dice and standard error in the
pixels of the mask. On a slide's feature map: `wsipipe cvm` against a reference mask of the same slide, such as that of
`wsipipe segment`: Dice, and the area segmented as a share of the reference's.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from segment_glas import Case, features_of, marked, mask_of

from wsipipe.numerics.metrics import dice
from wsipipe.numerics.variational import Distance, variational_segmentation

Choice = tuple[Distance, float]
CHOICES: tuple[Choice, ...] = (
    ("none", 0.0),
    ("geodesic", 0.5),
    ("geodesic", 1.0),
    ("geodesic", 2.0),
    ("euclidean", 0.5),
    ("euclidean", 1.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with images.csv, images and masks")
    parser.add_argument("--images", type=int, default=24, help="how many, drawn with the seed")
    parser.add_argument("--pairs", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--mpp", type=float, default=0.62)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--image-mpp", type=float, default=0.62)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--map", type=Path, help="feature map of a slide")
    parser.add_argument("--points", type=Path)
    parser.add_argument("--reference", type=Path, help="mask of the same slide, TIFF")
    parser.add_argument("--etas", type=float, nargs="+", default=[0.6, 0.8, 1.0])
    options = parser.parse_args()
    lines = on_slide(options) if options.map else on_images(options)
    for line in lines:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def on_images(options: argparse.Namespace) -> Iterator[str]:
    """One line per number of pairs, eta and distance."""
    torch.set_num_threads(1)
    with (options.data / "images.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    rows = [rows[i] for i in np.random.default_rng(options.seed).permutation(len(rows))[: options.images]]
    images = [(row["name"], features_of(options.data / row["image"], options), row["mask"]) for row in rows]
    yield "pairs  eta  distance   theta  Dice"
    for pairs, eta, (distance, theta) in itertools.product(options.pairs, options.etas, CHOICES):
        scores = []
        for name, features, mask in images:
            rng = np.random.default_rng([zlib.crc32(name.encode()), pairs, options.seed])
            cell = options.stride * options.mpp / options.image_mpp
            case = marked(features, mask_of(options.data / mask), cell, pairs=pairs, rng=rng)
            scores.append(case.score(segmented(case, eta, distance, theta)))
        error = np.std(scores) / np.sqrt(len(scores))
        yield f"{pairs:5d}  {eta:.1f}  {distance:9s}  {theta:5.1f}  {np.mean(scores):.3f} +- {error:.3f}"


def segmented(case: Case, eta: float, distance: Distance, theta: float) -> NDArray[np.bool_]:
    """Mask of an image, eq. 4 to 7."""
    inside, outside = (case.cells[case.label == value] for value in (1, 0))
    found = variational_segmentation(
        case.features, inside, outside, eta=eta, distance=distance, theta=theta, tol=1e-3, threads=1
    )
    return found.u > 0.5


def on_slide(options: argparse.Namespace) -> Iterator[str]:
    """One line per eta and distance."""
    reference = tifffile.imread(options.reference) > 0
    yield "eta  distance   theta  Dice   area"
    for eta, (distance, theta) in itertools.product(options.etas, CHOICES):
        with tempfile.TemporaryDirectory() as out:
            command = ["wsipipe", "cvm", str(options.map), "--points", str(options.points), "-o", out]
            command += ["--eta", str(eta), "--distance", distance, "--theta", str(theta)]
            subprocess.run(command, check=True, capture_output=True)
            mask = tifffile.imread(next(Path(out, "masks").glob("*.mask.tif"))) > 0
        if mask.shape != reference.shape:
            rows, cols = (np.arange(n) * m // n for n, m in zip(reference.shape, mask.shape, strict=True))
            mask = mask[rows[:, None], cols]
        yield f"{eta:.1f}  {distance:9s}  {theta:5.1f}  {dice(mask, reference):.3f}  {mask.sum() / reference.sum():.2f}"


if __name__ == "__main__":
    main()
