"""What the tissue looks like where points could be suggested: features of the map that a mask was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import StoreError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.point_segmentation import WindowedMap
from wsipipe.numerics.shaping import fit_axes
from wsipipe.store.feature_map import FeatureMap

AXES = 20  # principal axes of the standardised features
_SAMPLE = 5000  # cells that they are fitted on

Floats = NDArray[np.float32]


def map_beside(raster: Path, key: str, report: Mapping[str, Any]) -> Path | None:
    """Feature map in the project folder of a probability raster that its report names; None where there is none.

    Parameters
    ----------
    raster : Path
        `masks/<slide>.probability.tif` of a project folder.
    key : str
        Of the slide.
    report : mapping
        Of the slide, as `segment` and `predict` write it.
    """
    told = report.get("provenance", {})
    for path in sorted((raster.resolve().parent.parent / "features").glob(f"*/{key}.h5")):
        try:
            info = FeatureMap.open(path).info
        except StoreError:  # another encoder's map may be damaged; one that this raster was made from was whole
            continue
        if told.get("slide") == info.slide_identity and told.get("features") in (info.settings_digest, info.settings):
            return path
    return None


def pooled_looks(features: FeatureMap, cells: CellGrid) -> tuple[Floats, NDArray[np.bool_]]:
    """Mean features, on their principal axes, of larger cells.

    Parameters
    ----------
    features : FeatureMap
        Read in windows, twice.
    cells : CellGrid
        None of them smaller than those of the map.

    Returns
    -------
    looks : (rows, cols, k) float32 array
    known : (rows, cols) bool array
        Cells that hold a valid one of the map.
    """
    grid = features.grid
    world = WindowedMap(features.read, grid.shape, features.read_valid(slice(None), slice(None)))
    axes = fit_axes(world.gather(_drawn(world.valid)), components=AXES)
    size = cells.rows * cells.cols
    counts, sums = np.zeros(size), np.zeros((AXES, size))
    for window in world.windows():
        valid = world.valid[window]
        looks = axes.apply(world.features(window, valid))
        places = np.argwhere(valid) + np.array([window[0].start, window[1].start])
        found = cells.cells_of(grid.centres(places))
        inside = cells.contains(found)
        index = found[inside, 0] * cells.cols + found[inside, 1]
        counts += np.bincount(index, minlength=size)
        for total, values in zip(sums, looks[inside].T, strict=False):  # fewer axes than that where features are short
            total += np.bincount(index, weights=values, minlength=size)
    mean = (sums / np.maximum(counts, 1)).T.reshape(cells.rows, cells.cols, AXES)
    return mean.astype(np.float32), (counts > 0).reshape(cells.shape)


def _drawn(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    ids = np.flatnonzero(valid)
    drawn = np.zeros(valid.shape, np.bool_)
    drawn.flat[np.random.default_rng(0).choice(ids, min(_SAMPLE, len(ids)), replace=False)] = True
    return drawn
