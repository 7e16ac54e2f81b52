"""The whole path on a slide that comes with the installation: tile, extract, train, predict, compare with the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from wsipipe.config import load_recipe
from wsipipe.geometry import CellGrid
from wsipipe.numerics.metrics import dice
from wsipipe.numerics.regrid import sample_nearest
from wsipipe.pipeline.demo_slide import DemoSlide, make_demo_slide
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.segment import segment_slide
from wsipipe.pipeline.tile import tile_slide
from wsipipe.pipeline.train import train
from wsipipe.progress import Report, silent
from wsipipe.slides import list_slides
from wsipipe.store.raster import raster_info, read_raster
from wsipipe.store.tables import write_csv


def run_demo(folder: Path, *, device: str = "auto", report: Report = silent) -> Iterator[str]:
    """Run every stage on the demo slide.

    Parameters
    ----------
    folder : Path
        Where the slide and a project folder go; what is finished there is not done again.
    device : str
        For the networks.

    Yields
    ------
    str
        What was done, line by line; the last lines hold the Dice coefficients against the outlines drawn by hand.
    """
    recipe = load_recipe("demo")
    files = make_demo_slide(folder)
    yield f"slide      {files.slide}: real tissue, mirrored into a small pyramid"
    yield f"points     {files.points}: 12 in target (epithelium), 12 out of target"
    entry = list_slides([files.slide])[0]
    yield f"tile       {tile_slide(entry, folder, recipe.tile, report=report).message}"
    yield f"extract    {extract_slide(entry, folder, recipe, device=device, report=report).message}"
    segmented = segment_slide(
        entry, points=files.points, out=folder / "segment", recipe=recipe, device=device, report=report
    )
    yield f"segment    {segmented.message}: no training; Dice {score(segmented.outputs[0], files):.3f}"
    trained = train(
        write_manifest(folder, files), recipe, folder / "runs" / "demo", out=folder, device=device, report=report
    )
    yield f"train      {trained}"
    predicted = predict_slide(entry, model=folder / "runs" / "demo", out=folder, device=device, report=report)
    yield f"predict    {predicted.message}; Dice {score(predicted.outputs[0], files):.3f}"
    yield f"look at    {folder / 'masks' / 'demo.overlay.png'}"


def write_manifest(folder: Path, files: DemoSlide) -> Path:
    """Manifest of the demo slide for `train`."""
    path = folder / "demo.manifest.csv"
    write_csv(path, [{"slide": files.slide.name, "points": files.points.name, "mask": files.mask.name}])
    return path


def score(mask: Path, files: DemoSlide) -> float:
    """Dice of a written mask against the reference, at the mask's pixels."""
    info = raster_info(mask)
    predicted = read_raster(mask, slice(None), slice(None)) > 0
    truth = np.asarray(Image.open(files.mask)) > 0
    at_mask = sample_nearest(truth, CellGrid(truth.shape[0], truth.shape[1], 1.0), info.grid, slice(0, info.grid.rows))
    return dice(predicted, at_mask)
