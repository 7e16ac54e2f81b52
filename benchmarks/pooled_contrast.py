"""Pooled contrast without a network, on GlaS: `python benchmarks/pooled_contrast.py --data DIR [--pairs 3] [--json]`.

DIR holds images.csv (name, image, mask, patient), images and masks (0: no gland). What three pairs of points per image
say of glands of other patients when the points of all training images are pooled (`wsipipe.numerics.pooled_contrast`,
the teacher of `cvm_plus`), in four folds by patient, with and without the variational step; and on the training images
themselves, where each one's own points count more. Mean Dice over images, in map cells of 5 um.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from segment_glas import features_of, mask_of

from wsipipe.config import CvmPlusSettings
from wsipipe.numerics.metrics import dice
from wsipipe.numerics.pooled_contrast import Moments, PooledContrast, Prototypes, Standard, point_means
from wsipipe.numerics.variational import solve_cvm
from wsipipe.pipeline.folds import assign_folds
from wsipipe.pipeline.point_files import draw_points

FOLDS = 4
SETTINGS = CvmPlusSettings()
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Field:
    """One image: features and mask on its cells, and points."""

    features: Floats
    truth: NDArray[np.bool_]
    cells: NDArray[np.int64]
    label: NDArray[np.int64]
    fold: int


def main() -> None:
    torch.set_num_threads(1)
    options = parsed()
    fields = read_fields(options)
    rows = [measured(fields, fold) for fold in range(1, FOLDS + 1)]
    rows.append(
        {"fold": "mean"} | {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "fold"}
    )
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images.csv, images and masks")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--mpp", type=float, default=1.24)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--image-mpp", type=float, default=0.62)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def read_fields(options: argparse.Namespace) -> list[Field]:
    with (options.data / "images.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    folds = assign_folds([row["patient"] for row in rows], folds=FOLDS, seed=options.seed)
    return [read_field(row, fold, options) for row, fold in zip(rows, folds, strict=True)]


def read_field(row: dict[str, str], fold: int, options: argparse.Namespace) -> Field:
    features = features_of(options.data / row["image"], options)
    mask, cell = mask_of(options.data / row["mask"]), options.stride * options.mpp / options.image_mpp
    at = [
        np.minimum((np.arange(count) + 0.5) * cell, side - 1).astype(int)
        for count, side in zip(features.shape[:2], mask.shape, strict=True)
    ]
    truth = mask[np.ix_(*at)]
    points = draw_points(truth, pairs=options.pairs, seed=options.seed, key=row["name"])
    return Field(features, truth, np.floor(points.xy[:, ::-1]).astype(np.int64), points.label, fold)


def measured(fields: Sequence[Field], fold: int) -> dict[str, float | str]:
    """Dice of one fold's images and of the others, with and without the variational step."""
    train = [field for field in fields if field.fold != fold]
    standard, contrast = learnt(train)
    held_out = [(field, contrast.of(standard.apply(field.features))) for field in fields if field.fold == fold]
    own = [(field, contrast.of(standard.apply(field.features), group=i)) for i, field in enumerate(train)]
    row: dict[str, float | str] = {"fold": str(fold)}
    for name, parts in (("held out", held_out), ("training", own)):
        z = [1 / (1 + np.exp(-SETTINGS.gain * values)) for _, values in parts]
        u = [solve_cvm(values[None], tol=1e-3, threads=1).u[0] for values in z]
        for step, maps in (("contrast", z), ("variational", u)):
            row[f"{name}, {step}"] = float(
                np.mean([dice(values > 0.5, field.truth) for values, (field, _) in zip(maps, parts, strict=True)])
            )
    return row


def learnt(train: Sequence[Field]) -> tuple[Standard, PooledContrast]:
    moments = Moments()
    for field in train:
        moments.add(field.features.reshape(-1, field.features.shape[2]))
    standard = moments.standard()
    vectors = [point_means(standard.apply(field.features), field.cells, side=SETTINGS.prototype) for field in train]
    group = np.repeat(np.arange(len(train)), [len(field.label) for field in train])
    points = Prototypes(np.concatenate(vectors), np.concatenate([field.label for field in train]), group)
    return standard, PooledContrast(points, reach=SETTINGS.reach, noise=SETTINGS.noise, own=SETTINGS.own)


def table(rows: Sequence[dict[str, float | str]]) -> str:
    names = list(rows[0])
    lines = ["  ".join(f"{name:>22}" for name in names)]
    lines += ["  ".join(f"{v:>22}" if isinstance(v, str) else f"{v:22.3f}" for v in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
