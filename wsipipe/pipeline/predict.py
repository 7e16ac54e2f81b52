"""The `predict` command's work on one slide: features, windows, blended probability, files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsipipe.config import USER_CODE, Recipe, updated
from wsipipe.errors import CheckpointError, ConfigError
from wsipipe.models.devices import pick_device
from wsipipe.models.encoders import Encoder
from wsipipe.models.methods.views import View
from wsipipe.models.segmentation import SegmentationModel, check_fits, restore_model
from wsipipe.models.tuned_encoder import restore_encoder
from wsipipe.models.weights import weights_digest
from wsipipe.numerics.blending import blend_windows
from wsipipe.numerics.regrid import Band
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.feature_plan import relevant_settings
from wsipipe.pipeline.large_maps import Room
from wsipipe.pipeline.map_source import ImageMap, MapSource
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.refine import refined_bands
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

# The symmetries that keep a window's size.
_VIEWS = tuple(View(quarters, mirrored) for quarters in (0, 2) for mirrored in (False, True))


def predict_slide(
    entry: SlideEntry,
    *,
    model: Path,
    out: Path,
    threshold: float | None = None,
    weights: str | None = None,
    encoder: str | None = None,
    backend: str | None = None,
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
        Encoder weights, where the file that the recipe names has moved; must be the same weights. A tuned encoder's
        are in the model.
    encoder : str, optional
        The encoder's name again, where it is code of the user's own: a checkpoint alone runs none.
    backend : str, optional
        What runs the encoder, see `EncoderSettings`; a tuned one is run by torch.
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
    flags = {"predict": {"threshold": threshold}, "encoder": {"weights": weights, "backend": backend}}
    recipe = updated(checkpoint.recipe, flags)
    if not is_stored_map(entry.path):
        check_agreed(recipe.encoder.name, encoder, model)
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
        tuned = restore_encoder(checkpoint, device=device)
        with open_map(entry, slide, out, recipe, tuned, reader=reader, device=device, report=report) as source:
            if isinstance(source, FeatureMap):
                check_fits(checkpoint, source.info)
            network = restore_model(checkpoint, device=str(pick_device(device)))
            room = Room(folder, entry.key, report=report)
            bands = predict_map(network, source, recipe, room=room, item=entry.key, report=report)
            threshold = recipe.predict.threshold
            segmentation = Segmentation(source.grid, bands, tissue, threshold=threshold, offset=offset)
            return settle(folder, entry.key, slide, segmentation, provenance=provenance)


def check_agreed(trained: str, agreed: str | None, model: Path) -> None:
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
def open_map(
    entry: SlideEntry,
    slide: SlideReader,
    out: Path,
    recipe: Recipe,
    encoder: Encoder | None,
    *,
    reader: str,
    device: str,
    report: Report,
) -> Iterator[MapSource]:
    """Open what a model reads of a slide: the pixels of an image, or features, extracted where they are missing."""
    stored = is_stored_map(entry.path)
    if recipe.encoder.uses_images and not stored:
        yield ImageMap(slide, recipe.tile.mpp, recipe.stain)
        return
    if encoder is not None:  # its maps lie beside those of the weights that the tuning began with
        recipe = updated(recipe, {"encoder": {"weights": encoder.weights_digest}})
    path = entry.path
    if not stored:
        made = extract_slide(entry, out, recipe, reader=reader, device=device, report=report, encoder=encoder)
        path = made.outputs[0]
    with FeatureMap.open(path) as features:
        yield features


def checkpoint_path(model: Path) -> Path:
    """Checkpoint of a run folder, or the file itself."""
    return model / "checkpoint.safetensors" if model.is_dir() else model


def predict_map(
    network: SegmentationModel,
    source: MapSource,
    recipe: Recipe,
    *,
    room: Room,
    item: str = "",
    report: Report = silent,
) -> Iterator[Band]:
    """Probability of a whole map as the recipe has it: of `predict_bands`, refined where it says so.

    Parameters
    ----------
    network, source, recipe, item, report
        See `predict_bands`.
    room : Room
        Where it is refined; then the whole map is held.

    Yields
    ------
    ((n, cols) float32, (n, cols) bool)
        Of consecutive rows.
    """
    bands = predict_bands(network, source, recipe, item=item, report=report)
    return refined_bands(bands, lam_rel=recipe.predict.lam_rel, room=room) if recipe.refines else bands


def predict_bands(
    network: SegmentationModel,
    source: MapSource,
    recipe: Recipe,
    *,
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
    recipe : Recipe
        Window and overlap in cells, views, precision.
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
        mixed = recipe.training.mixed_precision
        return probability(network, source.read(rows, cols), mixed=mixed, views=recipe.views)

    start, total, settings = 0, source.grid.rows, recipe.predict
    for values in blend_windows(source.grid.shape, predict, window=settings.window, overlap=settings.overlap):
        rows = slice(start, start + len(values))
        yield values, source.read_valid(rows, slice(0, source.grid.cols))
        start = rows.stop
        report(Progress(item, "predict", start, total))


@torch.inference_mode()
def probability(
    network: SegmentationModel, features: NDArray[np.float32], *, mixed: bool = True, views: int = 1
) -> NDArray[np.float32]:
    """Probability (rows, cols) float32 of being in target, from features (rows, cols, dim) float32.

    With 4 views, the mean over the window, mirrored, turned by half, and both: one at a time, so that it takes four
    times the time but no more memory.

    Raises
    ------
    ConfigError
        The device cannot hold a window.
    """
    device = next(network.parameters()).device
    try:
        batch = torch.from_numpy(features).permute(2, 0, 1)[None].to(device, non_blocking=True)
        with torch.autocast(device.type, enabled=mixed and device.type == "cuda"):
            seen = [view.undo(torch.sigmoid(network(view.apply(batch))[0].float())) for view in _VIEWS[:views]]
        return np.asarray(torch.stack(seen).mean(dim=0)[0, 0].cpu().numpy())
    except torch.OutOfMemoryError as error:
        rows, cols = features.shape[:2]
        raise ConfigError(
            f"the device has too little memory for a window of {rows} x {cols} cells", remedy="use --device cpu"
        ) from error
