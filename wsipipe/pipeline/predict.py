"""The `predict` command's work on one slide: features, windows, blended probability, files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsipipe.annotations.classes import TissueClass
from wsipipe.config import USER_CODE, Recipe, updated
from wsipipe.errors import CheckpointError, ConfigError
from wsipipe.models.devices import pick_device
from wsipipe.models.encoders import Encoder
from wsipipe.models.methods.views import View
from wsipipe.models.segmentation import SegmentationModel, check_fits, probabilities, restore_model
from wsipipe.models.tuned_encoder import restore_encoder
from wsipipe.models.weights import weights_digest
from wsipipe.numerics.blending import blend_windows
from wsipipe.numerics.calibration import Calibration
from wsipipe.numerics.regrid import Band
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.calibrated_area import Calibrated
from wsipipe.pipeline.calibration import calibrated_bands, calibration_of, keep_calibrated
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.feature_plan import relevant_settings
from wsipipe.pipeline.large_maps import Room
from wsipipe.pipeline.map_source import ImageMap, MapSource
from wsipipe.pipeline.memory import release_memory
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
from wsipipe.store.checkpoint import Checkpoint, load_checkpoint
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
        Smallest probability in the mask; the recipe's where None. A model of several classes takes none.
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
    ConfigError
        A threshold for a model of several classes.
    WsipipeError
        The slide cannot be read, has no tissue, no resolution, or the results cannot be written.
    """
    checkpoint = load_checkpoint(checkpoint_path(model))
    flags = {"predict": {"threshold": threshold}, "encoder": {"weights": weights, "backend": backend}}
    recipe = updated(checkpoint.recipe, flags)
    classes = _classes_told(checkpoint, model, threshold)
    if not is_stored_map(entry.path):
        check_agreed(recipe.encoder.name, encoder, model)
    calibration = calibration_of(checkpoint, path=model)
    folder = out / "masks"
    with opened(entry, reader=reader) as slide:
        offset = bounds_offset(slide) if crop else (0.0, 0.0)
        provenance = {
            **_model_facts(checkpoint, recipe, calibration),
            "slide": slide_identity(entry.path),
            "mpp": slide.mpp,
            "offset": list(offset),
        }
        if not force and (outcome := settled(folder, entry.key, provenance)):
            return outcome
        tissue = slide.tissue if isinstance(slide, MapSlide) else _tissue(entry, slide, out, recipe)
        tuned = restore_encoder(checkpoint, device=device)
        with open_map(
            entry, slide, out, recipe, tuned, tissue=tissue, reader=reader, device=device, report=report
        ) as source:
            if isinstance(source, FeatureMap):
                check_fits(checkpoint, source.info)
            network = restore_model(checkpoint, device=str(pick_device(device)))
            kept: list[Band] | None = [] if calibration.shift is not None and slide.mpp is not None else None
            bands = predict_map(
                network,
                source,
                recipe,
                room=Room(folder, entry.key, report=report),
                temperature=calibration.temperature,
                before=kept,
                item=entry.key,
                report=report,
            )
            segmentation = Segmentation(
                source.grid,
                bands,
                tissue,
                threshold=recipe.predict.threshold,
                offset=offset,
                classes=classes,
                calibrated=None if classes else Calibrated(calibration, recipe.refines, () if kept is None else kept),
            )
            return settle(folder, entry.key, slide, segmentation, provenance=provenance)


def _model_facts(checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration) -> dict[str, object]:
    """Give what results of a model depend on, beside the slide."""
    return {
        "command": "predict",
        "checkpoint": weights_digest(checkpoint.tensors),
        "temperature": calibration.temperature,
        "shift": calibration.shift,
        "settings": recipe.digest(),
        "features": relevant_settings(recipe),
    }


def _classes_told(checkpoint: Checkpoint, model: Path, threshold: float | None) -> tuple[TissueClass, ...]:
    """Classes of a model; ConfigError where there are several and a threshold is asked for."""
    classes = trained_classes(checkpoint, model)
    if classes and threshold is not None:
        problem = f"tells {len(classes)} classes apart and takes the most probable one: --threshold does not apply"
        raise ConfigError(problem, path=model, remedy="leave it out")
    return classes


def trained_classes(checkpoint: Checkpoint, model: Path) -> tuple[TissueClass, ...]:
    """Classes that a model tells apart, in the order of its outputs; empty: target and rest.

    Raises
    ------
    CheckpointError
        The checkpoint does not say of each what it is.
    """
    names, told = checkpoint.recipe.training.classes or (), checkpoint.provenance.get("classes", [])
    try:
        classes = tuple(TissueClass.of(item) for item in told)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"has damaged classes: {error}", path=model, remedy="train again") from error
    if len(classes) != len(names):
        problem = f"names {len(classes)} classes for {len(names)} outputs"
        raise CheckpointError(problem, path=model, remedy="train again")
    return classes


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
    tissue: Tissue | None = None,
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
        made = extract_slide(
            entry, out, recipe, reader=reader, device=device, report=report, encoder=encoder, tissue=tissue
        )
        path = made.outputs[0]
        release_memory()  # what the encoder left
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
    temperature: float = 1.0,
    before: list[Band] | None = None,
    item: str = "",
    report: Report = silent,
) -> Iterator[Band]:
    """Probability of a whole map as the recipe has it: that of `predict_bands`, calibrated; or refined instead.

    Parameters
    ----------
    network, source, recipe, item, report
        See `predict_bands`.
    room : Room
        Where it is refined; then the whole map is held.
    temperature : float
        Of the model's calibration. What is refined is the network's own probability, so that masks do not depend on it.
    before : list of Band, optional
        Where it is refined, gets the calibrated probability that it was refined from.

    Yields
    ------
    ((n, cols) float32, (n, cols) bool)
        Of consecutive rows.
    """
    bands = predict_bands(network, source, recipe, item=item, report=report)
    if not recipe.refines:
        return calibrated_bands(bands, temperature)
    if before is not None:
        bands = keep_calibrated(bands, temperature, before)
    return refined_bands(bands, lam_rel=recipe.predict.lam_rel, room=room)


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
        Probability of being in target (of K classes, (n, cols, K) float32) and validity of consecutive rows. Memory
        holds two rows of windows.
    """

    def predict(rows: slice, cols: slice) -> NDArray[np.float32] | None:
        if not source.read_valid(rows, cols).any():
            return None
        mixed = recipe.training.mixed_precision
        return probability(network, source.read_stored(rows, cols), mixed=mixed, views=recipe.views)

    start, total, settings = 0, source.grid.rows, recipe.predict
    channels = (len(recipe.training.classes),) if recipe.training.classes else ()
    for values in blend_windows(
        source.grid.shape, predict, window=settings.window, overlap=settings.overlap, channels=channels
    ):
        rows = slice(start, start + len(values))
        yield values, source.read_valid(rows, slice(0, source.grid.cols))
        start = rows.stop
        report(Progress(item, "predict", start, total))


@torch.inference_mode()
def probability(
    network: SegmentationModel,
    features: NDArray[np.float16] | NDArray[np.float32],
    *,
    mixed: bool = True,
    views: int = 1,
) -> NDArray[np.float32]:
    """Probability (rows, cols) float32 of being in target, from features (rows, cols, dim) of either precision.

    Of K classes, (rows, cols, K), of sum 1.

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
            seen = [view.undo(probabilities(network(view.apply(batch))[0].float())) for view in _VIEWS[:views]]
        mean = torch.stack(seen).mean(dim=0)[0].cpu().numpy()
        return np.asarray(mean[0] if len(mean) == 1 else np.moveaxis(mean, 0, 2))
    except torch.OutOfMemoryError as error:
        rows, cols = features.shape[:2]
        raise ConfigError(
            f"the device has too little memory for a window of {rows} x {cols} cells", remedy="use --device cpu"
        ) from error
