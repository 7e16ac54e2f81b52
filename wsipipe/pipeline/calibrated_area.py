"""What a report tells of a calibrated probability: the area in target, with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import CellGrid
from wsipipe.numerics.area_interval import BLOCK_UM, LEVEL, area_interval
from wsipipe.numerics.calibration import Calibration
from wsipipe.numerics.regrid import Band

_RASTER = "probability of being in target"
_REFINED = "half the mask and half the network's probability: graded, but no probability"


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a report needs to tell of a calibrated probability.

    Parameters
    ----------
    calibration : Calibration
        Of the model.
    refined : bool
        Whether the map that is written is no probability, but one that was refined.
    before : sequence of Band
        Calibrated probability before that, if an interval is to be told; filled while the map is read.
    """

    calibration: Calibration
    refined: bool = False
    before: Sequence[Band] = ()

    @property
    def about(self) -> str:
        """What the values of the probability raster are, for its metadata."""
        if self.refined:
            return _REFINED
        if self.calibration.shift is None:
            return f"{_RASTER}, not calibrated"
        return f"{_RASTER}, calibrated at a temperature of {self.calibration.temperature:.4g}"


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
    if told.refined:
        assumed += "; from the network's probability before it was refined"
    px_mm2 = (mpp / 1000) ** 2
    area = {f"area_{name}_mm2": getattr(found, name) * px_mm2 for name in ("expected", "low", "high")}
    return area, facts | {"area_interval": assumed}
