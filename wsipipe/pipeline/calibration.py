"""A model's calibration: fitted when it is saved, found again when it predicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsipipe.errors import CheckpointError
from wsipipe.numerics.calibration import Calibration, calibrated, fit_calibration
from wsipipe.numerics.regrid import Band
from wsipipe.pipeline.samples import Sample
from wsipipe.store.checkpoint import Checkpoint

_ENTRY = "calibration"


def fit_to_held_out(
    train: Sequence[Sample], validation: Sequence[Sample], logits_of: Callable[[Sample], Any]
) -> Calibration:
    """Fit to the validation points that the network has not learnt from.

    Parameters
    ----------
    train, validation : sequence of Sample
        Windows with points; those that serve both ends, because there were too few to hold any out, do not count.
    logits_of : callable
        Logits (h, w) of a window.
    """
    learnt = {place for sample in train for place in _places(sample)}
    logits: dict[tuple[str, int, int], float] = {}
    labels: dict[tuple[str, int, int], int] = {}
    for sample in validation:
        map_of = np.asarray(logits_of(sample))
        for place, cell, label in zip(_places(sample), sample.points.cells, sample.points.label, strict=True):
            if place not in learnt:
                logits[place], labels[place] = float(map_of[tuple(cell)]), int(label)
    found = fit_calibration(np.array([*logits.values()]), np.array([*labels.values()]))
    trained_on = {sample.source.entry.key for sample in train}
    if found.note or not any(key in trained_on for key, _, _ in logits):
        return found
    return replace(found, note="calibrated on points of slides that it was trained on: others may be further off")


def _places(sample: Sample) -> list[tuple[str, int, int]]:
    cells = sample.points.cells + np.array([sample.rows.start, sample.cols.start])
    return [(sample.source.entry.key, row, col) for row, col in cells.tolist()]


def calibration_told(calibration: Calibration) -> dict[str, Any]:
    """Entry of a checkpoint's provenance."""
    return {_ENTRY: asdict(calibration)}


def calibration_of(checkpoint: Checkpoint, *, path: Path) -> Calibration:
    """Calibration of a checkpoint; of temperature 1, with a note, where it is older than that.

    Raises
    ------
    CheckpointError
        The entry is damaged.
    """
    told = checkpoint.provenance.get(_ENTRY)
    if told is None:
        return Calibration(note="not calibrated: the model tells of no held-out points (train it again)")
    try:
        found = Calibration(**told)
        sound = 0 < found.temperature < math.inf and (found.shift is None or 0 <= found.shift < math.inf)
    except TypeError:
        sound = False
    if not sound:
        raise CheckpointError(f"has a damaged calibration: {told}", path=path, remedy="train again")
    return found


def calibrated_bands(bands: Iterator[Band], temperature: float) -> Iterator[Band]:
    """Bring a map that comes in bands to a temperature."""
    return ((calibrated(values, temperature), valid) for values, valid in bands)


def keep_calibrated(bands: Iterator[Band], temperature: float, kept: list[Band]) -> Iterator[Band]:
    """Pass a map on as it is, and keep what it is at a temperature."""
    for values, valid in bands:
        kept.append((calibrated(values, temperature), valid))
        yield values, valid
