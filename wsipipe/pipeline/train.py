"""The `train` command: from a manifest of slides and points to a run folder with a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from wsipipe._version import __version__
from wsipipe.annotations.classes import ClassList, ClassMap
from wsipipe.config import Recipe, TrainingSettings
from wsipipe.errors import NumericsError
from wsipipe.models.devices import pick_device
from wsipipe.numerics.calibration import Calibration
from wsipipe.pipeline.calibration import calibration_of, calibration_told, fit_to_held_out
from wsipipe.pipeline.curves import draw_curves
from wsipipe.pipeline.manifest import read_manifest
from wsipipe.pipeline.preparation import Reading, prepare, recipe_of_maps
from wsipipe.pipeline.previews import draw_preview
from wsipipe.pipeline.stain import with_target
from wsipipe.pipeline.trainer import Trainer
from wsipipe.pipeline.training_state import check_same_run
from wsipipe.progress import Report, silent
from wsipipe.store.checkpoint import Checkpoint, load_checkpoint
from wsipipe.store.run_folder import RunFolder


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Parameters
    ----------
    run : Path
        The run folder.
    status : str
        "done", or "skipped" where it was finished before.
    epochs : int
        Epochs trained, interrupted runs included.
    best_epoch : int
        The one whose model is the checkpoint.
    best_pce : float
        Its validation partial cross-entropy.
    best_dice : float or None
        Its validation Dice coefficient, where there are masks.
    notes : tuple of str
        What the user should know of points and split.
    """

    run: Path
    status: str
    epochs: int
    best_epoch: int
    best_pce: float
    best_dice: float | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        score = "" if self.best_dice is None else f", Dice {self.best_dice:.3f}"
        done = "finished before" if self.status == "skipped" else "trained"
        head = (
            f"{self.run}: {done}, best of {self.epochs} epochs is {self.best_epoch} "
            f"(validation loss {self.best_pce:.4f}{score})"
        )
        return "\n".join([head, *(f"  {note}" for note in self.notes)])


def train(
    manifest: Path,
    recipe: Recipe,
    run: Path,
    *,
    out: Path,
    slide_mpp: float | None = None,
    classes: ClassMap | ClassList | None = None,
    crop: bool = True,
    device: str = "auto",
    reader: str = "auto",
    workers: int = 1,
    scheduler: str | None = None,
    force: bool = False,
    report: Report = silent,
) -> TrainResult:
    """Train on the points of a manifest; go on where an interrupted run stopped.

    Parameters
    ----------
    manifest : Path
        CSV, see `read_manifest`.
    recipe : Recipe
        All settings.
    run : Path
        Run folder, see `RunFolder`.
    out : Path
        Project folder; feature maps that are missing are made in its `features`.
    slide_mpp : float, optional
        um per level-0 px of slides that do not say it themselves.
    classes : ClassMap, optional
        Which classes are in-target and out-of-target; where the recipe lists several classes, these count instead.
    crop : bool
        GeoJSON points are relative to the slide's bounds, as QuPath writes them.
    device : str
        "auto", "cpu", "cuda", "cuda:1", "mps".
    reader : str
        Slide library.
    workers : int
        Slides that are encoded at a time.
    scheduler : str, optional
        Address of a dask cluster that encodes instead.
    force : bool
        Forget an earlier run in this folder.
    report : Report
        Told cells encoded, steps trained ("train") and windows asked of the teacher ("teacher").

    Raises
    ------
    ConfigError
        Manifest or settings are wrong.
    AnnotationError
        Points cannot be read or used.
    CheckpointError
        The folder holds a run of other settings or points, or of more epochs, and `force` is not set.
    NumericsError
        The loss is no longer finite, or the device has too little memory.
    StoreError
        The folder cannot be written, or another process trains into it.
    """
    rows = read_manifest(manifest)
    recipe = with_target(recipe_of_maps(rows, recipe))
    target = pick_device(device)
    # The device as it was asked for: workers that are free to choose each take one of their own.
    reading = Reading(slide_mpp, _listed(recipe) or classes, crop, reader, device, workers, scheduler)
    data = prepare(rows, recipe, out=out, reading=reading, report=report)
    with _enough_memory(recipe.training):
        trainer = Trainer(data, recipe, device=target, item=run.name, report=report)
        return _result(trainer, run, _run(trainer, run, force=force))


def _listed(recipe: Recipe) -> ClassList | None:
    """Several classes that are to be told apart, None where it is target and rest."""
    listed = recipe.training.classes
    if not listed:
        return None
    return ClassList(tuple(of.name for of in listed), tuple(of.patterns or (of.name,) for of in listed))


@contextmanager
def _enough_memory(settings: TrainingSettings) -> Iterator[None]:
    """Say what to do where the device runs out of memory, in a step, in validation or under the teacher."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NumericsError(
            f"the device has too little memory for {settings.batch_size} windows of {settings.window} cells a side",
            remedy="use a smaller training.window or training.batch_size, or --device cpu",
        ) from error


def _run(trainer: Trainer, run: Path, *, force: bool) -> str:
    """Train the epochs that are left; the status of the result."""
    # Opened only now: points that cannot be used leave no run folder behind.
    with RunFolder(run) as folder:
        if force:
            folder.clear()
        if (state := folder.load_state()) is not None:
            check_same_run(state, trainer.recipe, trainer.data.digest, path=folder.state_path)
            trainer.load_state(state)
        if trainer.finished:
            return "skipped"
        folder.write_recipe(trainer.recipe)
        while not trainer.finished:
            _epoch(trainer, folder)
    return "done"


def _epoch(trainer: Trainer, folder: RunFolder) -> None:
    """One epoch, and all that is written after it; the state comes last, so that what it tells of is there."""
    row = trainer.run_epoch()
    epoch, history = trainer.memory.epoch, trainer.memory.history
    if row["best"]:
        folder.save_checkpoint(_checkpoint(trainer))
    folder.write_metrics(history)
    figures = {name: value for name, value in row.items() if name not in ("epoch", "seconds") and value is not None}
    folder.log_scalars(epoch, figures)
    if _shows(epoch, trainer.settings):
        folder.write_curves(draw_curves(history))
        folder.write_preview(epoch, draw_preview(trainer))
    folder.save_state(trainer.state())


def _shows(epoch: int, settings: TrainingSettings) -> bool:
    """Whether pictures are drawn: after the first and the last epoch, and evenly between."""
    if not settings.previews:
        return False
    return epoch in (1, settings.epochs) or epoch % -(-settings.epochs // settings.previews) == 0


def _checkpoint(trainer: Trainer) -> Checkpoint:
    row = trainer.memory.history[-1]
    provenance = {
        **trainer.data.facts,
        "wsipipe": __version__,
        "method": trainer.settings.method,
        "epoch": row["epoch"],
        "val_pce": row["val_pce"],
        "val_dice": row["val_dice"],
        "training_set": trainer.data.digest,
        "windows": len(trainer.data.train),
        **calibration_told(_calibration(trainer)),
    }
    if trainer.data.classes:
        provenance["classes"] = [asdict(of) for of in trainer.data.classes]
    tensors = trainer.model.state_dict()
    if (tuner := trainer.tuner) is not None:
        provenance |= {"weights_digest": tuner.digest, "tuned_from": trainer.data.facts["weights_digest"]}
        tensors |= tuner.tensors()
    return Checkpoint(tensors, trainer.recipe, provenance)


def _calibration(trainer: Trainer) -> Calibration:
    if trainer.settings.classes:
        return Calibration(note="not calibrated: a temperature is fitted to target and rest alone")
    return fit_to_held_out(trainer.data.train, trainer.data.validation, trainer.logits)


def _result(trainer: Trainer, run: Path, status: str) -> TrainResult:
    memory = trainer.memory
    best = memory.history[memory.best_epoch - 1]
    saved = run / "checkpoint.safetensors"
    note = calibration_of(load_checkpoint(saved), path=saved).note
    return TrainResult(
        run=run,
        status=status,
        epochs=memory.epoch,
        best_epoch=memory.best_epoch,
        best_pce=memory.best_pce,
        best_dice=best["val_dice"],
        notes=(*trainer.data.notes, *([note] if note else [])),
    )
