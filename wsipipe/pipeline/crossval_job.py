"""One job of a comparison: train a variant on one fold's training images, score it on those held out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.masks import read_mask
from wsipipe.config import Recipe
from wsipipe.errors import StoreError, WsipipeError
from wsipipe.geometry import CellGrid
from wsipipe.models.devices import pick_device
from wsipipe.models.segmentation import SegmentationModel, restore_model
from wsipipe.numerics.metrics import METRICS, Counts, auc
from wsipipe.pipeline.calibration import calibration_of
from wsipipe.pipeline.crossval_plan import HeldOut, Job
from wsipipe.pipeline.large_maps import Room
from wsipipe.pipeline.predict import checkpoint_path, predict_map
from wsipipe.pipeline.samples import truth_of
from wsipipe.pipeline.sources import Source
from wsipipe.pipeline.train import train
from wsipipe.progress import Progress, Report
from wsipipe.store.atomic import writing
from wsipipe.store.checkpoint import load_checkpoint
from wsipipe.store.images import write_png
from wsipipe.store.tables import read_json, write_csv, write_json

COLUMNS = ("fold", "variant", "slide", "patient", "cells", "target_share", *METRICS)
"""Of the table of a job's images."""

DECIMALS = 6
_PICTURE_PX = 512


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job.

    Parameters
    ----------
    name : str
        "fold-1/cvm".
    status : str
        "done", "skipped" (finished before, with the same settings and content) or "failed".
    message : str
        Mean Dice of the held-out images, or why it failed.
    """

    name: str
    status: Literal["done", "skipped", "failed"]
    message: str


def table_path(job: Job) -> Path:
    """Scores of a job's held-out images, one row each; whole wherever `is_done`."""
    return job.folder / "images.csv"


def probability_picture(job: Job, key: str) -> Path:
    """Probability of a held-out image as a grey PNG (255: 1.0), cells thinned to at most 512 a side."""
    return job.folder / "probability" / f"{key}.png"


def is_done(job: Job) -> bool:
    """Whether the scores of a job are there and come from the same settings, images, masks and points."""
    try:
        return table_path(job).is_file() and read_json(_mark(job)) == dict(job.identity)
    except StoreError:  # there is no mark, or it is damaged
        return False


def run_job(job: Job, report: Report) -> JobOutcome:
    """Do a job, or find it finished; what can go wrong with one becomes a failed outcome, so that the others go on."""
    try:
        return _run(job, report)
    except WsipipeError as error:
        return JobOutcome(job.name, "failed", str(error))
    except MemoryError:
        return JobOutcome(job.name, "failed", "out of memory (use fewer --workers or a coarser --mpp)")
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch says that memory is out, among others
        return JobOutcome(job.name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _run(job: Job, report: Report) -> JobOutcome:
    if not job.force and is_done(job):
        return JobOutcome(job.name, "skipped", "finished before")
    with writing(_mark(job)):
        _mark(job).unlink(missing_ok=True)

    def named(progress: Progress, /) -> None:
        report(replace(progress, item=job.name))

    reading = job.reading
    result = train(
        job.manifest,
        job.recipe,
        job.folder,
        out=job.out,
        slide_mpp=reading.slide_mpp,
        classes=reading.classes,
        crop=reading.crop,
        device=reading.device,
        reader=reading.reader,
        force=job.force,
        report=named,
    )
    rows = list(_scores(job, named))
    write_csv(table_path(job), rows, columns=COLUMNS)
    # Last: where this is, all the rest is.
    write_json(_mark(job), dict(job.identity))
    mean = float(np.mean([row["dice"] for row in rows]))
    return JobOutcome(job.name, "done", f"Dice {mean:.3f} on {len(rows)} images, model of epoch {result.best_epoch}")


def _mark(job: Job) -> Path:
    return job.folder / "job.json"


def _scores(job: Job, report: Report) -> Iterator[dict[str, Any]]:
    checkpoint = load_checkpoint(checkpoint_path(job.folder))
    network = restore_model(checkpoint, device=str(pick_device(job.reading.device)))
    heat = calibration_of(checkpoint, path=job.folder).temperature
    for done, image in enumerate(job.held_out, start=1):
        room = Room(job.folder, image.case.key, threads=1)
        values, valid = predicted(network, image.source, job.recipe, room, temperature=heat)
        _write_picture(probability_picture(job, image.case.key), values)
        yield {"fold": job.fold, "variant": job.variant} | score_image(
            image, values, valid, threshold=job.recipe.predict.threshold
        )
        report(Progress(job.name, "score", done, len(job.held_out)))


@dataclass(frozen=True, eq=False)
class _SourceMap:
    """Cells of a source as what the network takes: float32, RGB in [0, 1]."""

    source: Source

    @property
    def grid(self) -> CellGrid:
        """Where the cells lie."""
        return self.source.grid

    def read_stored(self, rows: slice, cols: slice) -> NDArray[np.float32]:
        """Features (rows, cols, dim)."""
        values = self.source.read(rows, cols)
        scale = np.float32(255) if values.dtype == np.uint8 else np.float32(1)
        return np.asarray(values, np.float32) / scale

    def read_valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """Which cells hold something."""
        return self.source.read_valid(rows, cols)


def predicted(
    network: SegmentationModel, source: Source, recipe: Recipe, room: Room, *, temperature: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Probability of every cell of an image, and which cells hold something, both (rows, cols)."""
    bands = predict_map(network, _SourceMap(source), recipe, room=room, temperature=temperature)
    values, valid = (np.concatenate(parts) for parts in zip(*bands, strict=True))
    return np.where(valid, values, np.float32(0)), valid


def score_image(
    image: HeldOut, values: NDArray[np.float32], valid: NDArray[np.bool_], *, threshold: float
) -> dict[str, Any]:
    """Compare a prediction with the reference mask, on the cells of the map.

    Parameters
    ----------
    image : HeldOut
        Names the mask.
    values : (rows, cols) float32 array
        Probability of being in target, 0 where a cell is not valid.
    valid : (rows, cols) bool array
        Cells that the network saw. Others count where the reference is in target, as missed: tissue that the
        tissue detection lost is no excuse, but glass that nobody segments adds nothing.
    threshold : float
        Smallest probability in target.

    Returns
    -------
    dict
        Row of the table, less fold and variant; None for a figure that is undefined.
    """
    grid, case = image.source.grid, image.case
    whole = slice(0, grid.rows), slice(0, grid.cols)
    truth = truth_of(read_mask(case.mask), image.source, *whole, path=case.mask)
    counted = valid | truth
    if not counted.any():
        raise StoreError("has no cell to compare", path=case.slide)
    counts = Counts.of((values >= threshold)[counted], truth[counted])
    figures = counts.agreement() | {"auc": auc(values[counted], truth[counted])}
    told = {name: None if math.isnan(value) else round(value, DECIMALS) for name, value in figures.items()}
    share = round(counts.wanted / counts.total, DECIMALS)
    return {"slide": case.key, "patient": case.patient, "cells": counts.total, "target_share": share, **told}


def _write_picture(path: Path, values: NDArray[np.float32]) -> None:
    step = -(-max(values.shape) // _PICTURE_PX)
    write_png(path, np.rint(values[::step, ::step] * 255).astype(np.uint8))
