"""Suggested points against random ones: `python benchmarks/suggestion.py --data DIR [--first 8] [--json]`.

DIR holds images.csv (name, image, mask, patient), images and masks (0: no gland). Four images side by side are one
slide; the images are dealt to slides by --deal. From 2 + 2 random points, four more are added at a time, until there
are 28: at random in the tissue, where the probability is in doubt, or as `wsipipe points suggest` has it (doubt and
features); their labels are read off the mask. After each step the slide is segmented from its points as `wsipipe
segment` does it (cells of 8 um and 500 landmarks, for speed). Prints mean Dice coefficients by number of points, and
the difference to random points with its 95% interval (bootstrap over slides). `--plot FILE` draws the curves. The
criterion was chosen on slides 0 to 7.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_glas import features_of, mask_of

from wsipipe.config import SegmentSettings
from wsipipe.geometry import CellGrid
from wsipipe.numerics.bootstrap import paired_difference
from wsipipe.numerics.metrics import dice
from wsipipe.numerics.point_segmentation import PointSegmentation, segment_map
from wsipipe.numerics.suggestion import suggest_cells
from wsipipe.pipeline.point_suggestion import pooled_doubt
from wsipipe.pipeline.suggestion_looks import pooled_looks

IMAGE_MPP, MPP, STRIDE = 0.62, 1.0, 8
STEP, LAST, ACROSS = 4, 28, 2
SETTINGS = SegmentSettings(landmarks=500)
RANDOM, DOUBT, SUGGEST = "random", "doubt alone", "suggest"
Cells = NDArray[np.int64]


@dataclass(frozen=True)
class Slide:
    """Several images side by side; what `pooled_looks` reads of a map."""

    features: NDArray[np.float32]
    truth: NDArray[np.bool_]
    valid: NDArray[np.bool_]

    @property
    def grid(self) -> CellGrid:
        """Cells in px at the target resolution."""
        return CellGrid(*self.valid.shape, float(STRIDE))

    def read(self, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Features of a window."""
        return self.features[rows, cols]

    def read_valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """Cells that an image fills."""
        return self.valid[rows, cols]

    def segmented(self, cells: Cells) -> PointSegmentation:
        """Segment from points at cells, labelled by the mask."""
        label = self.truth[tuple(cells.T)].astype(np.int64)
        return segment_map(self.read, self.valid.shape, cells, label, settings=SETTINGS, valid=self.valid)


Policy = Callable[[Slide, PointSegmentation, Cells, np.random.Generator], Cells]


def main() -> None:
    torch.set_num_threads(1)
    options = parsed()
    slides = [made(rows, options) for rows in dealt(options)]
    policies = {RANDOM: at_random, DOUBT: suggested(options, looks=False), SUGGEST: suggested(options, looks=True)}
    scores = {
        name: np.array(
            [[curve(slide, policy, [i, seed]) for seed in range(options.seeds)] for i, slide in enumerate(slides)]
        )
        for name, policy in policies.items()
    }
    rows = list(summarised(scores))
    if options.plot:
        draw(rows, options.plot)
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows, len(slides), options.seeds))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images.csv, images and masks")
    parser.add_argument("--first", type=int, default=8, help="number of the first slide")
    parser.add_argument("--mosaics", type=int, default=12, help="number of slides")
    parser.add_argument("--seeds", type=int, default=2, help="of the first points, for each slide")
    parser.add_argument("--spacing", type=float, default=100.0, help="of suggested points, um")
    parser.add_argument("--deal", type=int, default=0, help="seed that deals images to slides")
    parser.add_argument("--plot", type=Path, help="PNG or SVG of the curves")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def dealt(options: argparse.Namespace) -> list[list[dict[str, str]]]:
    """Rows of images.csv by slide."""
    with (options.data / "images.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    order = np.random.default_rng(options.deal).permutation(len(rows)).tolist()
    groups = [order[start : start + 4] for start in range(0, len(order), 4)]
    return [[rows[i] for i in group] for group in groups[options.first : options.first + options.mosaics]]


def made(rows: Sequence[dict[str, str]], options: argparse.Namespace) -> Slide:
    """Put images side by side, two in a row; cells that no image fills count as glass."""
    reading = argparse.Namespace(mpp=MPP, stride=STRIDE, image_mpp=IMAGE_MPP)
    features = [features_of(options.data / row["image"], reading) for row in rows]
    high, wide = (max(part.shape[axis] for part in features) for axis in (0, 1))
    shape = high * -(-len(rows) // ACROSS), wide * ACROSS
    whole, truth = np.zeros((*shape, features[0].shape[2]), np.float32), np.zeros(shape, np.bool_)
    valid = np.zeros(shape, np.bool_)
    for i, (part, row) in enumerate(zip(features, rows, strict=True)):
        top, left = i // ACROSS * high, i % ACROSS * wide
        place = slice(top, top + part.shape[0]), slice(left, left + part.shape[1])
        whole[place], truth[place], valid[place] = part, on_cells(mask_of(options.data / row["mask"]), part.shape), True
    return Slide(whole, truth, valid)


def on_cells(mask: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.bool_]:
    at = [
        np.minimum((np.arange(count) + 0.5) * STRIDE * MPP / IMAGE_MPP, side - 1).astype(int)
        for count, side in zip(shape[:2], mask.shape, strict=True)
    ]
    return mask[np.ix_(*at)]


def curve(slide: Slide, policy: Policy, seed: Sequence[int]) -> list[float]:
    """Dice coefficients from the first points on; all policies begin with the same ones."""
    rng = np.random.default_rng(seed)
    both = [np.argwhere(slide.valid & (slide.truth == value)) for value in (True, False)]
    cells, scores = np.concatenate([rng.permutation(side)[:2] for side in both]), []
    while True:
        found = slide.segmented(cells)
        scores.append(float(dice(found.mask[slide.valid], slide.truth[slide.valid])))
        if len(scores) > (LAST - 4) // STEP:
            return scores
        cells = np.concatenate([cells, policy(slide, found, cells, rng)])


def at_random(slide: Slide, found: PointSegmentation, cells: Cells, rng: np.random.Generator) -> Cells:
    return rng.permutation(np.argwhere(slide.valid))[:STEP]


def suggested(options: argparse.Namespace, *, looks: bool) -> Policy:
    """Places of `wsipipe points suggest`; where it finds fewer than four, there are fewer points."""
    spacing = options.spacing / (STRIDE * MPP)
    step = max(1, int(spacing / 4))

    def policy(slide: Slide, found: PointSegmentation, cells: Cells, rng: np.random.Generator) -> Cells:
        raster = np.rint(np.where(slide.valid, found.probability, 0) * 255).astype(np.uint8)
        doubt = pooled_doubt(iter([np.pad(raster, ((0, -len(raster) % step), (0, 0)))]), slide.grid, step)
        larger = CellGrid(*doubt.shape, float(STRIDE * step))
        seen, known = pooled_looks(slide, larger)  # type: ignore[arg-type]
        doubt[~known] = 0
        chosen = suggest_cells(
            doubt, (cells + 0.5) / step, count=STEP, spacing=spacing / step, looks=seen if looks else None
        )
        places = slide.grid.cells_of(larger.centres(chosen))
        places = places[slide.grid.contains(places)]
        return places[slide.valid[tuple(places.T)]]

    return policy


def summarised(scores: dict[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    rows = []
    for number in range(scores[RANDOM].shape[2]):
        baseline = scores[RANDOM][:, :, number].mean(axis=1)
        for name, values in scores.items():
            means = values[:, :, number].mean(axis=1)
            gap = paired_difference(means, baseline, [str(i) for i in range(len(means))], seed=0)
            row = {"points": 4 + number * STEP, "method": name, "dice": float(means.mean())}
            rows.append(row | {"difference": gap.mean, "low": gap.low, "high": gap.high})
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    for name in (RANDOM, DOUBT, SUGGEST):
        told = [row for row in rows if row["method"] == name]
        axes.plot([row["points"] for row in told], [row["dice"] for row in told], marker="o", label=name)
    axes.set(xlabel="points", ylabel="Dice")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def table(rows: Sequence[dict[str, Any]], slides: int, seeds: int) -> str:
    lines = [f"{slides} slides, {seeds} seeds", f"{'points':>6}  {'method':<12} {'Dice':>6}  minus random (95%)"]
    for row in rows:
        gap = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})" if row["method"] != RANDOM else ""
        lines.append(f"{row['points']:>6}  {row['method']:<12} {row['dice']:6.3f}  {gap}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
