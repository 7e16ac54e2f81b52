"""Cost and effect of stain normalisation: `python benchmarks/stain.py SLIDE SLIDE [--slide-mpp 1.0] [--json]`.

Per method: CPU seconds of the fit on a slide (reading of the sample included), pixels recoloured per second of one
core, beside those of the library's own way and those that ResNet34 to layer3 encodes, all in turn in one process; and
how far the mean colour of the tissue of the slides lies apart before and after (grey values, the worst channel).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchstain.base.normalizers import MacenkoNormalizer, ReinhardNormalizer

from wsipipe.config import EncoderSettings, StainSettings, TileSettings
from wsipipe.geometry import Region
from wsipipe.models.encoders import build_encoder
from wsipipe.numerics.stain import reinhard
from wsipipe.numerics.stain.recolouring import Recolouring
from wsipipe.pipeline.stain import fit_slide
from wsipipe.pipeline.tissue import slide_tissue
from wsipipe.slides import MppView, open_slide

METHODS = ("macenko", "reinhard")
_CORE_PX = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--slide-mpp", type=float, help="um per level-0 px of slides that do not say")
    parser.add_argument("--mpp", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    looks = [look_at(path, options) for path in options.slides]
    rates = measure(looks[0]["tile"], looks[0]["fitted"], options.repeat)
    rows = [
        {"method": method, **rates[method], "network_mp_s": rates["network"]["mp_s"], **effect(looks, method)}
        for method in METHODS
    ]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def look_at(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Fit a slide by every method; mean colours of its tissue, and a tile from the middle of it."""
    with open_slide(path) as slide:
        own = slide.mpp
    with open_slide(path, mpp=options.slide_mpp if own is None else None) as slide:
        view, tissue = MppView(slide, options.mpp), slide_tissue(slide, TileSettings())
        fitted, costs = {}, {}
        for method in METHODS:
            started = time.process_time()
            fitted[method] = fit_slide(view, tissue, StainSettings(method=method))
            costs[method] = time.process_time() - started
        cells = np.argwhere(tissue.mask)
        y, x = (cells[len(cells) // 2] * tissue.grid.cell_px / view.scale).astype(int).tolist()
        tile = view.read(Region(x - _CORE_PX // 2, y - _CORE_PX // 2, _CORE_PX, _CORE_PX))
        pixels = view.read(Region(0, 0, view.width, view.height))
    stained = pixels[pixels.min(axis=2) < 200]
    colours = {method: fitted[method](stained).mean(axis=0) for method in METHODS}
    return {"tile": tile, "fitted": fitted, "fit_s": costs, "plain": stained.mean(axis=0), "colours": colours}


def measure(tile: NDArray[np.uint8], fitted: dict[str, Recolouring], repeat: int) -> dict[str, dict[str, float]]:
    """Medians of MP per CPU second, all ways in turn."""
    encoder = build_encoder(EncoderSettings(name="resnet34", kind="dense", weights="none"))
    batch = torch.from_numpy(tile)[None]
    macenko_of, reinhard_of = MacenkoNormalizer(backend="numpy"), ReinhardNormalizer(backend="numpy")
    reinhard_of.target_means, reinhard_of.target_stds = np.split(np.array(reinhard.PUBLISHED), 2)
    ways: dict[tuple[str, str], Callable[[], object]] = {
        ("macenko", "mp_s"): lambda: fitted["macenko"](tile),
        ("macenko", "library_mp_s"): lambda: macenko_of.normalize(tile, stains=False),
        ("reinhard", "mp_s"): lambda: fitted["reinhard"](tile),
        ("reinhard", "library_mp_s"): lambda: reinhard_of.normalize(tile),
        ("network", "mp_s"): lambda: encoder.encode(batch),
    }
    runs: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for turn in range(repeat + 1):
        for way, call in ways.items():
            started = time.process_time()
            call()
            if turn:  # the first warms up
                runs[way].append(tile[..., 0].size / 1e6 / (time.process_time() - started))
    rates: dict[str, dict[str, float]] = {}
    for (method, name), values in runs.items():
        rates.setdefault(method, {})[name] = median(values)
    return rates


def effect(looks: Sequence[dict[str, Any]], method: str) -> dict[str, float]:
    fit = {"fit_s": median(look["fit_s"][method] for look in looks)}
    if len(looks) < 2:
        return fit
    before, after = (
        np.ptp(of, axis=0).max()
        for of in ([look["plain"] for look in looks], [look["colours"][method] for look in looks])
    )
    return fit | {"apart_before": float(before), "apart_after": float(after)}


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = ["  ".join(f"{name:>12}" for name in names)]
    lines += [
        "  ".join(f"{row[n]:>12}" if isinstance(row[n], str) else f"{row[n]:12.2f}" for n in names) for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
