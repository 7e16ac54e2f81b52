"""The `points suggest` command: where to click next, from the probability that `segment` or `predict` wrote."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.points import OUT_OF_TARGET, PointSet
from wsipipe.annotations.reading import read_marks
from wsipipe.errors import ConfigError, WsipipeError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.suggestion import suggest_cells
from wsipipe.pipeline.marked_points import points_file
from wsipipe.pipeline.mask_extent import known_slide_size, report_beside
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.point_files import write_points
from wsipipe.pipeline.suggestion_looks import map_beside, pooled_looks
from wsipipe.store.feature_map import FeatureMap
from wsipipe.store.raster import iter_bands, raster_info, read_raster

CLASS_NAME = "Suggested"
_PROBABILITY = ".probability.tif"


@dataclass(frozen=True)
class Suggesting:
    """How places are chosen.

    Parameters
    ----------
    count : int
        Places for each slide.
    spacing_um : float
        Smallest distance between two places, and to a point there is; px of the raster where no resolution is known.
    points : Path or None
        Points there are, a file or a folder; those that `segment` used are known from its report.
    crop : bool
        The file is relative to the slide's bounds, as QuPath shows it.
    """

    count: int = 10
    spacing_um: float = 200.0
    points: Path | None = None
    crop: bool = True


def list_probabilities(inputs: Sequence[Path]) -> list[Path]:
    """Probability rasters among files and folders.

    Raises
    ------
    ConfigError
        A folder holds none, or a file is none by its name.
    """
    found = [
        file for place in inputs for file in (sorted(place.glob(f"*{_PROBABILITY}")) if place.is_dir() else [place])
    ]
    bad = next((file for file in found if not file.name.endswith(_PROBABILITY)), None)
    if bad is not None or not found:
        remedy = "give files that `segment` or `predict` wrote to masks/"
        raise ConfigError(f"no *{_PROBABILITY}", path=bad or inputs[0], remedy=remedy)
    return found


def suggest_many(rasters: Sequence[Path], folder: Path, how: Suggesting) -> list[SlideOutcome]:
    """Suggest places for every slide; one that cannot be read does not stop the others."""
    return [_guarded(path, folder, how) for path in rasters]


def _guarded(path: Path, folder: Path, how: Suggesting) -> SlideOutcome:
    try:
        return suggest_slide(path, folder, how)
    except WsipipeError as error:
        return SlideOutcome(path.name.removesuffix(_PROBABILITY), "failed", str(error))


def suggest_slide(path: Path, folder: Path, how: Suggesting) -> SlideOutcome:
    """Write the places where another point would say most as QuPath points of the class "Suggested".

    Those are places where the probability is not sure and, with the feature map at hand, whose tissue looks unlike that
    of the points there are.

    Parameters
    ----------
    path : Path
        `<slide>.probability.tif`; off the tissue it is 0, so that no place is suggested there.
    folder : Path
        Gets `<slide>.suggested.geojson`.
    how : Suggesting
        How many places, and how far apart.

    Raises
    ------
    WsipipeError
        A file cannot be read or written.
    """
    key, info = path.name.removesuffix(_PROBABILITY), raster_info(path)
    if info.classes:
        raise ConfigError("is of several classes, places are suggested where target and rest are unsure", path=path)
    told = report_beside(path, key)
    x, y = told.get("geojson_frame", {}).get("origin", (0.0, 0.0)) if how.crop else (0.0, 0.0)
    spacing = how.spacing_um / (info.mpp or 1.0)  # px of the raster
    # Places are looked for on cells of a quarter of the distance, which are fields rather than lines.
    step = max(1, math.floor(spacing / 4))
    source = map_beside(path, key, told)
    if source is not None:
        with FeatureMap.open(source) as features:
            step = max(step, math.ceil(features.grid.cell_px / info.grid.cell_px))
    uncertainty = pooled_doubt(iter_bands(path, step * max(1, 512 // step)), info.grid, step)
    rows, cols = uncertainty.shape
    cells = CellGrid(rows, cols, info.grid.cell_px * step)
    looks = None
    if source is not None:
        with FeatureMap.open(source) as features:
            looks, known = pooled_looks(features, cells)
        uncertainty[~known] = 0
    taken = _taken(how, key, told, (float(x), float(y)))
    at = taken[:, ::-1] / cells.cell_px
    chosen = suggest_cells(uncertainty, at, count=how.count, spacing=spacing / step, looks=looks)
    places = cells.centres(chosen)
    size = known_slide_size(info.grid, told)
    for index in range(len(chosen)):
        near = np.concatenate([taken, np.delete(places, index, axis=0)])
        places[index] = clickable(path, chosen[index], step, size, near, spacing * info.grid.cell_px)
    labels, names = np.full(len(chosen), OUT_OF_TARGET, np.int64), (CLASS_NAME,) * len(chosen)
    output = folder / f"{key}.suggested.geojson"
    write_points(output, PointSet(places, labels, names), slide=key, offset=(float(x), float(y)))
    basis = "doubt alone: no feature map beside the raster" if source is None else "doubt and features"
    return SlideOutcome(key, "done", f"{len(chosen)} places by {basis}", (output,))


def pooled_doubt(bands: Iterator[NDArray[np.uint8]], grid: CellGrid, step: int) -> NDArray[np.float32]:
    """Mean of 1 - |2 p - 1| over cells of `step` px squared; what lies past the raster counts as sure."""
    rows = []
    for band in bands:
        doubt = _doubt(band)
        padded = np.pad(doubt, ((0, -len(band) % step), (0, -grid.cols % step)))
        rows.append(padded.reshape(padded.shape[0] // step, step, -1, step).mean(axis=(1, 3)))
    return np.concatenate(rows)


def _doubt(probability: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(1 - np.abs(probability.astype(np.float32) * (2 / 255) - 1))


def clickable(
    path: Path,
    cell: NDArray[np.int64],
    step: int,
    slide_size: tuple[float, float],
    near: NDArray[np.float64],
    spacing: float,
) -> tuple[float, float]:
    """Place in a chosen cell that can be clicked: its centre, unless that lies off the slide or on a sure px.

    Then it is the most doubtful px, of those that keep their distance if there are any.

    Parameters
    ----------
    path : Path
        The raster.
    cell : (2,) int64 array
        (row, col) of the cell, which has doubtful px.
    step : int
        Its side in px of the raster.
    slide_size : (float, float)
        (width, height) in level-0 px.
    near : (n, 2) float64 array
        Other places (x, y) in level-0 px.
    spacing : float
        Smallest distance to them in level-0 px.

    Returns
    -------
    (float, float)
        (x, y) in level-0 px, on the slide.
    """
    grid, (row, col) = raster_info(path).grid, (int(index) * step for index in cell)
    doubt = _doubt(read_raster(path, slice(row, min(row + step, grid.rows)), slice(col, min(col + step, grid.cols))))
    middle = (col + step / 2) * grid.cell_px, (row + step / 2) * grid.cell_px
    if middle[0] < slide_size[0] and middle[1] < slide_size[1] and doubt[step // 2, step // 2] > 0:
        return middle
    x, y = (
        _middles((first + np.arange(count)) * grid.cell_px, grid.cell_px, side)
        for first, count, side in zip((col, row), doubt.shape[::-1], slide_size, strict=True)
    )
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    doubtful = doubt.ravel() > 0
    apart = (np.hypot(*(places[:, np.newaxis] - near).T) >= spacing).all(axis=0)
    best = places[np.argmax(doubt.ravel() + (apart & doubtful))]
    return float(best[0]), float(best[1])


def _middles(start: NDArray[np.float64], step: float, side: float) -> NDArray[np.float64]:
    """Middles of px; of those at the far edge of the slide, of their part on the slide."""
    return np.asarray((start + np.minimum(start + step, side)) / 2)


def _taken(how: Suggesting, key: str, told: Mapping[str, Any], offset: tuple[float, float]) -> NDArray[np.float64]:
    """(x, y) in level-0 px of all points there are."""
    provenance = told.get("provenance")
    used = provenance.get("points", []) if isinstance(provenance, dict) else []
    places = [[float(x), float(y)] for x, y, _ in used]
    if how.points is not None:
        marks = read_marks(points_file(how.points, key), offset=offset)
        places += [[point.x, point.y] for point in marks.points]
    return np.array(places, dtype=np.float64).reshape(-1, 2)
