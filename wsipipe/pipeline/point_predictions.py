"""What a trained model says of single points of a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.config import updated
from wsipipe.errors import ConfigError
from wsipipe.models.devices import pick_device
from wsipipe.models.segmentation import check_fits, restore_model
from wsipipe.models.tuned_encoder import restore_encoder
from wsipipe.pipeline.calibration import calibration_of
from wsipipe.pipeline.large_maps import Room
from wsipipe.pipeline.predict import check_agreed, checkpoint_path, open_map, predict_map
from wsipipe.progress import Report, silent
from wsipipe.slides import SlideEntry, open_slide
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.feature_map import FeatureMap


def predict_points(
    entry: SlideEntry,
    xy: NDArray[np.float64],
    *,
    model: Path,
    out: Path,
    weights: str | None = None,
    reader: str = "auto",
    device: str = "auto",
    report: Report = silent,
) -> NDArray[np.float64]:
    """Probability of being in target at points, as `predict_slide` has it for the cells that they lie in.

    Parameters
    ----------
    entry : SlideEntry
        The slide.
    xy : (n, 2) float64 array
        Points in level-0 px.
    model, out, weights, reader, device
        See `predict_slide`; features go to the project folder, no mask is written.

    Returns
    -------
    (n,) float64 array
        NaN where a point lies on no cell that counts, or off the slide.

    Raises
    ------
    WsipipeError
        As `predict_slide`.
    """
    checkpoint = load_checkpoint(checkpoint_path(model))
    recipe = updated(checkpoint.recipe, {"encoder": {"weights": weights}})
    if recipe.training.classes:
        told = "tells several classes apart, points are judged as in target or not"
        raise ConfigError(told, path=model, remedy="give a model of target and rest, or none")
    check_agreed(recipe.encoder.name, None, model)
    encoder = restore_encoder(checkpoint, device=device)
    with (
        open_slide(entry.path, mpp=entry.mpp, reader=reader) as slide,
        open_map(entry, slide, out, recipe, encoder, reader=reader, device=device, report=report) as source,
    ):
        if isinstance(source, FeatureMap):
            check_fits(checkpoint, source.info)
        network = restore_model(checkpoint, device=str(pick_device(device)))
        cells = source.grid.nearest_cells(xy)
        cells[((xy < 0) | (xy >= slide.dimensions)).any(axis=1)] = -1
        found, start = np.full(len(xy), np.nan), 0
        room = Room(out / "audit", entry.key)
        heat = calibration_of(checkpoint, path=model).temperature
        bands = predict_map(network, source, recipe, room=room, temperature=heat, item=entry.key, report=report)
        for values, valid in bands:
            here = np.flatnonzero((cells[:, 0] >= start) & (cells[:, 0] < start + len(values)))
            rows, cols = cells[here, 0] - start, cells[here, 1]
            found[here] = np.where(valid[rows, cols], values[rows, cols], np.nan)
            start += len(values)
    return found
