"""The `predict` command's work on one slide: features, windows, blended probability, files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsipipe.config import USER_CODE, PredictSettings, Recipe, updated
from wsipipe.errors import CheckpointError, ConfigError
from wsipipe.models.devices import pick_device
from wsipipe.models.segmentation import SegmentationModel, check_fits, restore_model
from wsipipe.models.weights import weights_digest
from wsipipe.numerics.blending import blend_windows
from wsipipe.numerics.regrid import Band
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.feature_plan import relevant_settings
from wsipipe.pipeline.map_source import ImageMap, MapSource
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.results import Segmentation, bounds_offset, settle, settled
from wsipipe.pipeline.sources import opened
from wsipipe.pipeline.stored_maps import is_stored_map
from wsipipe.pipeline.tissue import everything
from wsipipe.pipeline.tissue_reuse import tissue_for
from wsipipe.progress import Progress, Report, silent
from wsipipe.slides import MppView, SlideEntry, SlideReader, slide_identity
from wsipipe.slides.map_slide import MapSlide
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.feature_map import FeatureMap


def predict_slide(
    entry: SlideEntry,
    *,
    model: Path,
    out: Path,
    threshold: float | None = None,
    weights: str | None = None,
    encoder: str | None = None,
    crop: bool = True,
    reader: str = "auto",
    device: str = "auto",
    force: bool = False,
    report: Report = silent,
) -> SlideOutcome:
    """Segment one slide with a trained model; features are extracted where they are missing.

    Parameters
    ----------
    entry : SlideEntry
        The slide; or a feature map (.h5), for which no pixels are needed and the overlay is drawn on its cells.
    model : Path
        Run folder of `train`, or its checkpoint.
    out : Path
        Project folder; results go to its `masks`.
    threshold : float, optional
        Smallest probability in the mask; the recipe's where None.
    weights : str, optional
        Encoder weights, where the file that the recipe names has moved; must be the same weights.
    encoder : str, optional
        The encoder's name again, where it is code of the user's own: a checkpoint alone runs none.
    crop : bool
        Write the GeoJSON relative to the slide's bounds, as QuPath shows it.

    Raises
    ------
    CheckpointError
        The model is none, does not fit the features, or names code as its encoder that the caller does not.
    WsipipeError
        The slide cannot be read, has no tissue, no resolution, or the results cannot be written.
    """
    checkpoint = load_checkpoint(checkpoint_path(model))
    recipe = updated(checkpoint.recipe, {"predict": {"threshold": threshold}, "encoder": {"weights": weights}})
    if not is_stored_map(entry.path):
        _check_agreed(recipe.encoder.name, encoder, model)
    folder = out / "masks"
    with opened(entry, reader=reader) as slide:
        offset = bounds_offset(slide) if crop else (0.0, 0.0)
        provenance = {
            "command": "predict",
            "checkpoint": weights_digest(checkpoint.tensors),
            "settings": recipe.digest(),
            "features": relevant_settings(recipe),
            "slide": slide_identity(entry.path),
            "mpp": slide.mpp,
            "offset": list(offset),
        }
        if not force and (outcome := settled(folder, entry.key, provenance)):
            return outcome
        tissue = slide.tissue if isinstance(slide, MapSlide) else _tissue(entry, slide, out, recipe)
        with _open_map(entry, slide, out, recipe, reader=reader, device=device, report=report) as source:
            if isinstance(source, FeatureMap):
                check_fits(checkpoint, source.info)
            network = restore_model(checkpoint, device=str(pick_device(device)))
            mixed = recipe.training.mixed_precision
            bands = predict_bands(network, source, recipe.predict, mixed=mixed, item=entry.key, report=report)
            threshold = recipe.predict.threshold
            segmentation = Segmentation(source.grid, bands, tissue, threshold=threshold, offset=offset)
            return settle(folder, entry.key, slide, segmentation, provenance=provenance)


def _check_agreed(trained: str, agreed: str | None, model: Path) -> None:
    """Run code that a checkpoint names only where the user names it too; another encoder would not fit anyway."""
    if agreed not in (None, trained):
        raise CheckpointError(f"was trained with the encoder {trained!r}, not {agreed!r}", path=model)
    if agreed is None and trained.startswith(USER_CODE):
        raise CheckpointError(
            f"was trained with an encoder that is code of somebody's own, {trained!r}",
            path=model,
            remedy=f"if it is yours and you trust it, say so: --encoder {trained}",
        )


def _tissue(entry: SlideEntry, slide: SlideReader, out: Path, recipe: Recipe) -> Tissue:
    """Where there can be target: all of an image, as in training; the tissue of a slide."""
    if recipe.encoder.uses_images:
        return everything(*slide.dimensions)
    return tissue_for(entry, MppView(slide, recipe.tile.mpp), out, recipe.tile)


@contextmanager
def _open_map(
    entry: SlideEntry,
    slide: SlideReader,
    out: Path,
    recipe: Recipe,
    *,
    reader: str,
    device: str,
    report: Report,
) -> Iterator[MapSource]:
    stored = is_stored_map(entry.path)
    if recipe.encoder.uses_images and not stored:
        yield ImageMap(slide, recipe.tile.mpp)
        return
    path = entry.path
    if not stored:
        path = extract_slide(entry, out, recipe, reader=reader, device=device, report=report).outputs[0]
    with FeatureMap.open(path) as features:
        yield features


def checkpoint_path(model: Path) -> Path:
    """Checkpoint of a run folder, or the file itself."""
    return model / "checkpoint.safetensors" if model.is_dir() else model


def predict_bands(
    network: SegmentationModel,
    source: MapSource,
    settings: PredictSettings,
    *,
    mixed: bool = True,
    item: str = "",
    report: Report = silent,
) -> Iterator[Band]:
    """Probability of a whole map from overlapping windows.

    Parameters
    ----------
    network : SegmentationModel
        In evaluation mode; windows go to its device.
    source : MapSource
        Map that the windows are read from.
    settings : PredictSettings
        Window and overlap in cells.
    mixed : bool
        Mixed precision on CUDA.
    item : str
        Named in the progress reports.

    Yields
    ------
    ((n, cols) float32, (n, cols) bool)
        Probability of being in target and validity of consecutive rows. Memory holds two rows of windows.
    """

    def predict(rows: slice, cols: slice) -> NDArray[np.float32] | None:
        if not source.read_valid(rows, cols).any():
            return None
        return probability(network, source.read(rows, cols), mixed=mixed)

    start, total = 0, source.grid.rows
    for values in blend_windows(source.grid.shape, predict, window=settings.window, overlap=settings.overlap):
        rows = slice(start, start + len(values))
        yield values, source.read_valid(rows, slice(0, source.grid.cols))
        start = rows.stop
        report(Progress(item, "predict", start, total))


@torch.inference_mode()
def probability(
    network: SegmentationModel, features: NDArray[np.float32], *, mixed: bool = True
) -> NDArray[np.float32]:
    """Probability (rows, cols) float32 of being in target, from features (rows, cols, dim) float32.

    Raises
    ------
    ConfigError
        The device cannot hold a window.
    """
    device = next(network.parameters()).device
    try:
        batch = torch.from_numpy(features).permute(2, 0, 1)[None].to(device, non_blocking=True)
        with torch.autocast(device.type, enabled=mixed and device.type == "cuda"):
            logits, _ = network(batch)
        return np.asarray(torch.sigmoid(logits.float())[0, 0].cpu().numpy())
    except torch.OutOfMemoryError as error:
        rows, cols = features.shape[:2]
        raise ConfigError(
            f"the device has too little memory for a window of {rows} x {cols} cells", remedy="use --device cpu"
        ) from error
