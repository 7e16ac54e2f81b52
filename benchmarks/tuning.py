"""What tuning the encoder does for masks: `python benchmarks/tuning.py --data DIR --out WORK`.

GlaS images (see glas_manifest.py), the patients of `--held-out` kept apart, three random pairs of points on each of the
others, learnt from points or from masks (`--method full`). The same network is trained on features of a ResNet from
random weights (or `--weights FILE`), frozen and tuned along; same points, same seed. Prints the training loss of the
last epoch, the validation loss of each and the mean Dice of the masks that `predict` writes of the held-out images.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from glas_manifest import write_manifest

from wsipipe.config import Recipe, updated
from wsipipe.pipeline.evaluate import score_pair
from wsipipe.pipeline.evaluation_pairs import Pair
from wsipipe.pipeline.point_sampling import Drawing, sample_many
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.train import train
from wsipipe.slides import SlideEntry

# Cells of 20 um: small enough for glands, few enough for a step in two seconds. Patches are those of 30 um around them.
MARGIN_PX = 23  # half the diagonal of a cell in px of the images: no cell has points of both classes
SETTINGS = {
    "tile": {"mpp": 1.24, "patch_size_px": 24, "overlap_px": 8, "tissue": {"detect": False}},
    "encoder": {"name": "resnet18", "weights": "none", "tuned_stages": None},
    "network": {"width": 16, "depth": 1},
    "training": {
        "method": "partial_ce",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "pairs": 3,
        "previews": 0,
        "window": 64,
    },
    "predict": {"window": 64, "overlap": 16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images.csv, images and masks")
    parser.add_argument("--out", type=Path, required=True, help="folder for points, features, runs and masks")
    parser.add_argument("--held-out", nargs="+", default=["P02", "P16"], help="patients")
    parser.add_argument(
        "--images", type=int, default=24, help="train on so many images, spread over the others; 0: all"
    )
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--kind", choices=["dense", "patch"], default="dense")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--method", default="partial_ce")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate-ratio", type=float, default=0.3, help="learning rate of the encoder in the network's")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options)
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train frozen and tuned; each as a row."""
    options.out.mkdir(parents=True, exist_ok=True)
    everything = options.out / "glas.csv"
    write_manifest(options.data, everything)
    with everything.open(newline="", encoding="utf-8") as file:
        cases = list(csv.DictReader(file))
    held_out = [case for case in cases if case["patient"] in options.held_out]
    others = [case for case in cases if case["patient"] not in options.held_out]
    step = max(1, len(others) // options.images) if options.images else 1
    chosen = options.out / "train.csv"
    with chosen.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, cases[0].keys())
        writer.writeheader()
        writer.writerows(others[::step])
    sample_many([chosen], options.out / "points", Drawing(margin_px=MARGIN_PX))
    return [row(options, options.out / "points" / "train.csv", held_out, tuned=tuned) for tuned in (False, True)]


def row(options: argparse.Namespace, manifest: Path, held_out: list[dict[str, str]], *, tuned: bool) -> dict[str, Any]:
    """Train one model and score its masks of the held-out images."""
    encoder = {"name": options.encoder, "kind": options.kind, "weights": options.weights, "trainable": tuned}
    encoder["rate_ratio"] = options.rate_ratio
    training = {"method": options.method, "epochs": options.epochs, "seed": options.seed}
    recipe = updated(Recipe.model_validate(SETTINGS), {"encoder": encoder, "training": training})
    name = "tuned" if tuned else "frozen"
    run, out = options.out / "runs" / name, options.out / name
    result = train(manifest, recipe, run, out=out)
    scores = []
    for case in held_out:
        slide = Path(case["slide"])
        outcome = predict_slide(SlideEntry(slide.stem, slide, float(case["mpp"])), model=run, out=out)
        scores.append(score_pair(Pair(slide.stem, outcome.outputs[0], Path(case["mask"]))).figures()["dice"])
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        epochs = list(csv.DictReader(file))
    return {
        "encoder": name,
        "best_epoch": result.best_epoch,
        "loss": float(epochs[-1]["loss_points"]),
        "val_pce": [float(line["val_pce"]) for line in epochs],
        "dice": float(np.mean(scores)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    heads = f"{'encoder':<9}{'held-out Dice':>14}{'best epoch':>12}{'training loss':>15}"
    lines = [f"{heads}  validation partial cross-entropy by epoch"]
    lines += [
        f"{row['encoder']:<9}{row['dice']:>14.3f}{row['best_epoch']:>12}{row['loss']:>15.3f}  "
        + " ".join(f"{loss:.3f}" for loss in row["val_pce"])
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
