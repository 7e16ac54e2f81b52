"""Do probabilities mean what they say? `python benchmarks/calibration.py RUN --manifest M.csv --out PROJECT [--json]`.

RUN is the folder of a finished `wsipipe crossval`, M.csv its manifest (masks, patients), PROJECT the folder that holds
its feature maps. For every method and fold, the temperature of its validation points; on the fold's held-out images,
cell by cell: expected calibration error and cross-entropy of the network's probability and of the calibrated one, and
of one with a shift too (Platt); how often the 95% interval of the area holds the mask's, and its mean width as a share
of the area looked at: for single images, and for all held-out images of a patient taken as one slide. `free` is the
temperature of the validation points where it may be below 1, too, `oracle` the one that the held-out masks ask for.
`--windows` tells of windows of the images by how much target they hold (mean share by true mask, by the predicted one,
sum of probabilities, and sum after the prior was put right by EM, Saerens et al. 2002).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

from wsipipe.annotations.masks import read_mask
from wsipipe.config import load_recipe
from wsipipe.models.segmentation import restore_model
from wsipipe.numerics.area_interval import BLOCK_UM, area_interval
from wsipipe.numerics.calibration import Calibration, calibrated, expected_calibration_error
from wsipipe.pipeline.calibration import fit_to_held_out
from wsipipe.pipeline.manifest import read_manifest
from wsipipe.pipeline.predict import predict_bands
from wsipipe.pipeline.preparation import Reading, prepare
from wsipipe.pipeline.samples import Sample, truth_of
from wsipipe.pipeline.sources import feature_source
from wsipipe.progress import silent
from wsipipe.slides import SlideEntry
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.feature_map import FeatureMap

Floats = NDArray[np.float32]
METHODS = ("partial_ce", "cvm", "cvm_plus")
WINDOW, SHARES = 32, (0.0, 0.1, 0.25, 0.5, 0.75, 1.01)


@dataclass(frozen=True)
class Image:
    """A held-out image on the cells of its map."""

    patient: str
    probability: Floats
    truth: NDArray[np.bool_]
    cell_um: float


@dataclass(frozen=True)
class Model:
    """What one training came to."""

    method: str
    fold: int
    calibration: Calibration
    points: tuple[NDArray[np.float64], NDArray[np.float64]]
    images: list[Image]


def main() -> None:
    torch.set_num_threads(1)
    options = parsed()
    models = [read(options, method, fold) for method in options.methods for fold in range(1, options.folds + 1)]
    rows = [row(model, options.block) for model in models]
    rows += [mean(method, [r for r in rows if r["method"] == method]) for method in options.methods]
    windows = [told for method in options.methods for told in by_share(method, models)] if options.windows else []
    if options.json:
        sys.stdout.write(json.dumps(rows + windows, indent=1) + "\n")
        return
    sys.stdout.write(table(rows) + ("\n" + table(windows) if windows else ""))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--block", type=float, default=BLOCK_UM, help="um")
    parser.add_argument("--windows", action="store_true")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def read(options: argparse.Namespace, method: str, fold: int) -> Model:
    job = options.run / f"fold-{fold}" / method
    recipe, checkpoint = load_recipe(job / "recipe.yaml"), load_checkpoint(job / "checkpoint.safetensors")
    network = restore_model(checkpoint, device="cpu")
    manifest = read_manifest(options.run / f"fold-{fold}" / "train.csv")
    data = prepare(manifest, recipe, out=options.out, reading=Reading(device="cpu"), report=silent)
    seen: list[tuple[float, int]] = []

    @torch.no_grad()
    def logits(sample: Sample) -> torch.Tensor:
        features = sample.source.read(sample.rows, sample.cols).astype(np.float32)
        found = network(torch.from_numpy(features).permute(2, 0, 1)[None])[0][0, 0]
        cells = sample.points.cells
        seen.extend(zip(found[cells[:, 0], cells[:, 1]].tolist(), sample.points.label.tolist(), strict=True))
        return found

    calibration = fit_to_held_out(data.train, data.validation, logits)
    folder = data.train[0].source.path.parent
    with (options.run / "folds.csv").open(newline="", encoding="utf-8") as handle:
        held = {told["slide"]: told["patient"] for told in csv.DictReader(handle) if int(told["fold"]) == fold}
    with options.manifest.open(newline="", encoding="utf-8") as handle:
        places = {Path(told["slide"]).stem: told for told in csv.DictReader(handle)}
    images = [predicted(key, patient, places[key], folder, network, recipe) for key, patient in held.items()]
    z, y = np.array(seen, np.float64).T
    return Model(method, fold, calibration, (z, y), images)


def predicted(key: str, patient: str, told: dict[str, str], folder: Path, network: Any, recipe: Any) -> Image:  # noqa: ANN401
    path, mask = folder / f"{key}.h5", Path(told["mask"])
    source = feature_source(SlideEntry(key, Path(told["slide"]), float(told["mpp"])), path, reader="auto")
    with FeatureMap.open(path) as features:
        values = np.concatenate([band for band, _ in predict_bands(network, features, recipe)])
    rows, cols = source.grid.shape
    truth = truth_of(read_mask(mask), source, slice(0, rows), slice(0, cols), path=mask)
    return Image(patient, values, truth, source.grid.cell_px * float(told["mpp"]))


def row(model: Model, block_um: float) -> dict[str, Any]:
    """Figures of one training; of all cells of its held-out images."""
    heat = model.calibration.temperature
    p = np.concatenate([image.probability.ravel() for image in model.images])
    y = np.concatenate([image.truth.ravel() for image in model.images])
    slope, shift = platt(*model.points)
    z = logit(np.clip(p, 2.0**-24, 1 - 2.0**-24, dtype=np.float64))
    after, both = calibrated(p, heat), expit(slope * z + shift)
    free = fitted(*model.points)
    single = [covered([image], model.calibration, block_um) for image in model.images]
    patients = [covered(images, model.calibration, block_um) for images in by_patient(model.images)]
    return {
        "method": model.method,
        "fold": str(model.fold),
        "points": len(model.points[1]),
        "temperature": heat,
        "free": free,
        "oracle": fitted(z[::7], y[::7]),
        "ece": expected_calibration_error(p, y),
        "ece_after": expected_calibration_error(after, y),
        "ece_free": expected_calibration_error(expit(z / free), y),
        "ece_platt": expected_calibration_error(both, y),
        "nll": cross_entropy(z, y),
        "nll_after": cross_entropy(z / heat, y),
        "images": len(single),
        "image_cover": float(np.mean([inside for inside, _ in single])),
        "image_width": float(np.mean([width for _, width in single])),
        "patients": len(patients),
        "patient_cover": float(np.mean([inside for inside, _ in patients])),
        "patient_width": float(np.mean([width for _, width in patients])),
    }


def by_patient(images: Sequence[Image]) -> list[list[Image]]:
    groups = defaultdict(list)
    for image in images:
        groups[image.patient].append(image)
    return list(groups.values())


def covered(images: Sequence[Image], calibration: Calibration, block_um: float) -> tuple[bool, float]:
    """Whether the interval holds the true area, and its width as a share of all cells."""
    block = round(block_um / images[0].cell_um)
    maps = [np.rint(calibrated(image.probability, calibration.temperature) * 255).astype(np.uint8) for image in images]
    width = max(values.shape[1] for values in maps)
    # Rows of nothing between the images, so that no block holds two of them.
    sides = [((0, -len(values) % block), (0, width - values.shape[1])) for values in maps]
    bands = (np.pad(values, side) for values, side in zip(maps, sides, strict=True))
    found = area_interval(bands, block_px=block, shift=calibration.shift or 0.0)
    true = sum(int(image.truth.sum()) for image in images)
    return found.low <= true <= found.high, (found.high - found.low) / sum(values.size for values in maps)


def platt(z: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    slope, shift = minimize(lambda t: cross_entropy(t[0] * z + t[1], y), (1.0, 0.0), bounds=((0.1, 10), (-5, 5))).x
    return float(slope), float(shift)


def fitted(z: NDArray[np.float64], y: NDArray[Any]) -> float:
    """Temperature that suits best, below 1 as well."""
    found = minimize_scalar(lambda s: cross_entropy(z / np.exp(s), y), bounds=(-2, 2), method="bounded")
    return float(np.exp(found.x))


def cross_entropy(z: NDArray[np.float64], y: NDArray[Any]) -> float:
    return float(np.mean(np.logaddexp(0, z) - y * z))


def by_share(method: str, models: Sequence[Model]) -> Iterator[dict[str, Any]]:
    """Windows of all held-out images by their share of target."""
    found = np.array([told for model in models if model.method == method for told in windows_of(model)])
    for low, high in pairwise(SHARES):
        part = found[(found[:, 0] >= low) & (found[:, 0] < high)]
        true, mask, said, prior = part.mean(axis=0)
        error = np.sqrt(((part[:, 1:] - part[:, :1]) ** 2).mean(axis=0))
        names = ("rmse_mask", "rmse_sum", "rmse_em")
        shares = {"true": true, "mask": mask, "sum": said, "em": prior}
        head = {"method": method, "share": f"{low:g} to {min(high, 1):g}", "windows": len(part)}
        yield head | {key: float(value) for key, value in (shares | dict(zip(names, error, strict=True))).items()}


def windows_of(model: Model) -> Iterator[tuple[float, float, float, float]]:
    for image in model.images:
        p = calibrated(image.probability, model.calibration.temperature)
        for top in range(0, p.shape[0] - WINDOW + 1, WINDOW):
            for left in range(0, p.shape[1] - WINDOW + 1, WINDOW):
                window = slice(top, top + WINDOW), slice(left, left + WINDOW)
                values = p[window].astype(np.float64)
                yield image.truth[window].mean(), (values >= 0.5).mean(), values.mean(), prior_by_em(values)


def prior_by_em(p: NDArray[np.float64], steps: int = 200) -> float:
    """Share of target under which the probabilities, put right for it, have it as their mean."""
    share = 0.5
    for _ in range(steps):
        odds = share / (1 - share)
        share = float(np.clip((odds * p / (odds * p + 1 - p)).mean(), 1e-6, 1 - 1e-6))
    return share


def mean(method: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over folds; coverage and width over images and patients of all folds."""
    out: dict[str, Any] = {"method": method, "fold": "all", "points": sum(told["points"] for told in rows)}
    for name in rows[0]:
        if name in out:
            continue
        values = [told[name] for told in rows]
        kind = name.split("_")[0] + "s"
        weights = [told[kind] for told in rows] if kind in ("images", "patients") else None
        out[name] = sum(values) if name in ("images", "patients") else float(np.average(values, weights=weights))
    return out


def table(rows: Sequence[dict[str, Any]]) -> str:
    widths = {name: max(len(name), 10) for name in rows[0]}
    lines = ["  ".join(f"{name:>{width}}" for name, width in widths.items())]
    for told in rows:
        cells = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in told.values()]
        lines.append("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths.values(), strict=True)))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
