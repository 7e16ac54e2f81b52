"""A model's calibration: fitted when it is saved, found again when it predicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import CheckpointError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.area_interval import BLOCK_UM, LEVEL, area_interval
from wsipipe.numerics.calibration import Calibration, calibrated, fit_calibration
from wsipipe.numerics.regrid import Band
from wsipipe.pipeline.samples import Sample
from wsipipe.store.checkpoint import Checkpoint

_ENTRY = "calibration"
_RASTER = "probability of being in target"
_REFINED = "half the mask and half the network's probability: graded, but no probability"


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a report needs to tell of a calibrated probability.

    Parameters
    ----------
    calibration : Calibration
        Of the model.
    before : sequence of Band, optional
        Calibrated probability, where the map that is written is a refined one; None where it is the probability itself.
        Filled while the map is read.
    """

    calibration: Calibration
    before: Sequence[Band] | None = None

    @property
    def about(self) -> str:
        """What the values of the probability raster are, for its metadata."""
        if self.before is not None:
            return _REFINED
        if self.calibration.shift is None:
            return f"{_RASTER}, not calibrated"
        return f"{_RASTER}, calibrated at a temperature of {self.calibration.temperature:.4g}"


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


def interval_told(
    told: Calibrated, raster: CellGrid, mpp: float | None, bands: Iterator[NDArray[np.uint8]]
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Tell, for a report, of the area and of the calibration.

    Parameters
    ----------
    told : Calibrated
        Of the model.
    raster : CellGrid
        Of the bands.
    mpp : float or None
        um per px of the raster.
    bands : iterator of (h, cols) uint8 arrays
        Calibrated probability, 255: 1.

    Returns
    -------
    area, calibration : mapping
        For the class, and for the report.
    """
    calibration = told.calibration
    facts: dict[str, object] = {**asdict(calibration), "probability_raster": told.about}
    if calibration.shift is None or mpp is None:
        lacking = "the slide's resolution is not known" if mpp is None else "the model is not calibrated"
        return {}, facts | {"area_interval": f"none: {lacking}"}
    block = max(1, min(round(BLOCK_UM / mpp), max(raster.shape)))
    found = area_interval(bands, block_px=block, shift=calibration.shift)
    assumed = (
        f"{LEVEL:.0%}: blocks of {BLOCK_UM:g} um err as a whole, and all logits by one number of standard deviation "
        f"{calibration.shift:.3g}; target is as common as among the points"
    )
    if told.before is not None:
        assumed += "; from the network's probability before it was refined"
    px_mm2 = (mpp / 1000) ** 2
    area = {f"area_{name}_mm2": getattr(found, name) * px_mm2 for name in ("expected", "low", "high")}
    return area, facts | {"area_interval": assumed}
