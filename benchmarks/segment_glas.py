"""Points to mask without training, on GlaS: `python benchmarks/segment_glas.py --data DIR [--images 24] [--json]`.

DIR holds images.csv (name, image, mask, patient), images and masks (0: no gland). For 3, 5 and 10 random points inside
and as many outside the glands, on each image alone: the Dice coefficient in the pixels of the mask, its mean and
standard error over images, and the bootstrap interval (95%) of what is segmented minus the forest, paired by image.
All methods see the same filter bank. Settings were chosen on patients P02, P04 and P09 only.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from wsipipe.config import SegmentSettings
from wsipipe.geometry import Region
from wsipipe.models.filterbank import FilterBank
from wsipipe.numerics.metrics import dice
from wsipipe.numerics.point_segmentation import segment_map
from wsipipe.numerics.shaping import Shaping, fit_axes, fit_diffusion, ridge_weights
from wsipipe.numerics.variational import solve_cvm, variational_segmentation
from wsipipe.slides import MppView, open_slide

TUNED_ON = ("P02", "P04", "P09")
OURS, FOREST = "shaped contrast + variational step (wsipipe segment)", "random forest"
Bool = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """An image's feature map, its mask, and points on both."""

    features: Floats
    mask: Bool
    cell: float  # mask px per map cell
    cells: NDArray[np.int64]
    label: NDArray[np.int64]

    @property
    def squares(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cells (3 x 3 round every point, clipped to the map) and their labels."""
        steps = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), -1).reshape(-1, 2)
        around = (self.cells[:, None] + steps).reshape(-1, 2)
        return np.clip(around, 0, np.array(self.features.shape[:2]) - 1), np.repeat(self.label, 9)

    def score(self, segmented: Bool) -> float:
        """Dice coefficient in mask px of a (rows, cols) segmentation."""
        rows, cols = (
            np.minimum((np.arange(side) + 0.5) / self.cell, limit - 1).astype(int)
            for side, limit in zip(self.mask.shape, segmented.shape, strict=True)
        )
        return float(dice(segmented[rows[:, None], cols], self.mask))


def main() -> None:
    options = parsed()
    with (options.data / "images.csv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if chosen(row["patient"], options.patients)]
    rows = [rows[i] for i in np.random.default_rng(options.seed).permutation(len(rows))[: options.images]]
    work = partial(scores_of, options=options)
    if options.workers > 1:
        with ProcessPoolExecutor(options.workers) as pool:
            tables = list(pool.map(work, rows))
    else:
        tables = [work(row) for row in rows]
    out = list(summarised(tables, options.pairs))
    sys.stdout.write(json.dumps(out, indent=1) + "\n" if options.json else table(out, len(tables)))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images.csv, images and masks")
    parser.add_argument("--images", type=int, default=24, help="how many, drawn with the seed; 0: all")
    parser.add_argument("--patients", choices=["all", "tuned", "others"], default="others")
    parser.add_argument("--pairs", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--draws", type=int, default=1, help="draws of points per image")
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--mpp", type=float, default=SegmentSettings().mpp)
    parser.add_argument("--stride", type=int, default=SegmentSettings().stride_px)
    parser.add_argument("--image-mpp", type=float, default=0.62)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    options.images = options.images or None
    return options


def chosen(patient: str, which: str) -> bool:
    return which == "all" or (patient in TUNED_ON) == (which == "tuned")


def segmentations(case: Case, options: argparse.Namespace) -> dict[str, Bool]:
    """Segment a case with every method."""
    settings = SegmentSettings(mpp=options.mpp, stride_px=options.stride)
    forest = probability(case, RandomForestClassifier(options.trees, random_state=0))
    extra = probability(case, ExtraTreesClassifier(options.trees, random_state=0))
    ours = segmented(case, settings)
    return {
        "raw contrast + variational step": raw_contrast(case),
        FOREST: forest > 0.5,
        "random forest + variational step": smoothed(forest),
        "extra trees": extra > 0.5,
        "extra trees + variational step": smoothed(extra),
        "ridge on the features, no graph": plain_ridge(case, settings),
        "shaped, eq. 5 as printed + variational step": printed(case, settings),
        "shaped contrast alone": ours.z > 0.5,
        OURS: ours.mask,
    }


def scores_of(row: dict[str, str], options: argparse.Namespace) -> dict[tuple[int, str], float]:
    """Dice of one image by number of pairs and method, averaged over the draws of points."""
    torch.set_num_threads(1)
    features, mask = features_of(options.data / row["image"], options), mask_of(options.data / row["mask"])
    out: dict[tuple[int, str], list[float]] = {}
    for pairs in options.pairs:
        for draw in range(options.draws):
            rng = np.random.default_rng([zlib.crc32(row["name"].encode()), pairs, draw, options.seed])
            case = marked(features, mask, options.stride * options.mpp / options.image_mpp, pairs=pairs, rng=rng)
            for name, found in segmentations(case, options).items():
                out.setdefault((pairs, name), []).append(case.score(found))
    return {key: float(np.mean(values)) for key, values in out.items()}


def mask_of(path: Path) -> Bool:
    return np.asarray(Image.open(path)) > 0


def marked(features: Floats, mask: Bool, cell: float, *, pairs: int, rng: np.random.Generator) -> Case:
    """Draw points uniformly inside and outside the mask."""
    pixels = [rng.choice(np.flatnonzero(mask.ravel() == value), pairs) for value in (True, False)]
    at = np.stack(np.unravel_index(np.concatenate(pixels), mask.shape), 1)
    cells = np.minimum((at + 0.5) / cell, np.array(features.shape[:2]) - 1).astype(np.int64)
    return Case(features, mask, cell, cells, np.repeat([1, 0], pairs))


def features_of(path: Path, options: argparse.Namespace) -> Floats:
    with open_slide(path, mpp=options.image_mpp) as reader:
        view = MppView(reader, options.mpp)
        image = view.read(Region(0, 0, view.width, view.height))
    fill = [(0, -side % options.stride) for side in image.shape[:2]]
    batch = torch.from_numpy(np.pad(image, [*fill, (0, 0)], mode="edge"))[None]
    return FilterBank(options.stride).encode(batch)[0].permute(1, 2, 0).contiguous().numpy()


def raw_contrast(case: Case) -> Bool:
    inside, outside = case.cells[case.label == 1], case.cells[case.label == 0]
    return variational_segmentation(case.features, inside, outside, threads=1).u > 0.5


def probability(case: Case, model: Any) -> Floats:  # noqa: ANN401
    cells, label = case.squares
    model.fit(case.features[cells[:, 0], cells[:, 1]], label)
    flat = case.features.reshape(-1, case.features.shape[2])
    return model.predict_proba(flat)[:, 1].reshape(case.features.shape[:2]).astype(np.float32)


def smoothed(z: Floats) -> Bool:
    return solve_cvm(z[None], tol=1e-3, threads=1).u[0] > 0.5


def plain_ridge(case: Case, settings: SegmentSettings) -> Bool:
    """Ridge contrast of the standardised features, without the graph."""
    shape = case.features.shape
    flat = case.features.reshape(-1, shape[2])
    unit = normed(fit_axes(flat, components=settings.components).apply(flat)).reshape(*shape[:2], -1)
    prototypes = normed(unit_squares(case, unit))
    weights = ridge_weights(prototypes, case.label, noise=settings.noise)
    return unit @ (weights @ prototypes) > 0


def printed(case: Case, settings: SegmentSettings) -> Bool:
    """Eq. 5 with its fixed eta, square and min-max, on the shaped features."""
    shape = case.features.shape
    flat = case.features.reshape(-1, shape[2])
    axes = fit_axes(flat, components=settings.components)
    landmarks = np.random.default_rng(settings.seed).permutation(axes.apply(flat))[: settings.landmarks]
    graph = fit_diffusion(landmarks, neighbours=settings.neighbours, rank=settings.rank, reach=settings.reach)
    shaped = Shaping(axes, [graph]).apply(flat).reshape(*shape[:2], -1)
    inside, outside = case.cells[case.label == 1], case.cells[case.label == 0]
    return variational_segmentation(shaped, inside, outside, threads=1).u > 0.5


def unit_squares(case: Case, unit: Floats) -> Floats:
    cells = case.squares[0]
    return unit[cells[:, 0], cells[:, 1]].reshape(len(case.label), 9, -1).mean(axis=1)


def normed(values: Floats) -> Floats:
    return values / (np.linalg.norm(values, axis=-1, keepdims=True) + np.float32(1e-9))


def segmented(case: Case, settings: SegmentSettings) -> Any:  # noqa: ANN401
    return segment_map(
        lambda rows, cols: case.features[rows, cols],
        case.features.shape[:2],
        case.cells,
        case.label,
        settings=settings,
    )


def summarised(tables: Sequence[dict[tuple[int, str], float]], pairs: Sequence[int]) -> Iterator[dict[str, Any]]:
    for count in pairs:
        forest = np.array([t[count, FOREST] for t in tables])
        for name in [method for number, method in tables[0] if number == count]:
            values = np.array([t[count, name] for t in tables])
            low, high = interval(values - forest)
            yield {
                "pairs": count,
                "method": name,
                "dice": values.mean(),
                "error": values.std(ddof=1) / np.sqrt(len(values)),
                "minus_forest": (values - forest).mean(),
                "low": low,
                "high": high,
            }


def interval(differences: NDArray[np.float64], times: int = 10_000) -> tuple[float, float]:
    """Bootstrap interval (95%) of a mean over images."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (times, len(differences)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def table(rows: Sequence[dict[str, Any]], images: int) -> str:
    lines = [f"{images} images", f"{'pairs':>5}  {'method':<54} {'Dice':>6} {'s.e.':>6} {'minus forest (95%)':>26}"]
    for r in rows:
        against = f"{r['minus_forest']:+.3f} ({r['low']:+.3f} to {r['high']:+.3f})"
        lines.append(f"{r['pairs']:>5}  {r['method']:<54} {r['dice']:6.3f} {r['error']:6.3f} {against:>26}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
