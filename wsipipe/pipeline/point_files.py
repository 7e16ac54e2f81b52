"""Points drawn from reference masks, and the files that hold them: QuPath GeoJSON, or CSV."""

from __future__ import annotations

import json
import uuid
import zlib
from pathlib import Path

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from wsipipe.annotations.classes import class_color
from wsipipe.annotations.points import PointSet
from wsipipe.annotations.sampling import sample_points
from wsipipe.errors import StoreError
from wsipipe.store.tables import read_csv, read_json, write_csv, write_json

DEFAULT_PAIRS = 3
"""Pairs of points per image of the paper's Camelyon-16 experiments (section 5.2)."""

DEFAULT_MARGIN = 1.0
FILE_TYPE, FILE_VERSION = "wsipipe.points", 1
# Names the features of a file: the same content gives the same UUIDs in every run.
_NAMESPACE = uuid.UUID("6f1d2c3e-3f0b-5a55-9c2f-8d0f7c1f2a11")


def draw_points(
    mask: NDArray[np.bool_],
    *,
    pairs: int,
    seed: int,
    key: str,
    margin: float = DEFAULT_MARGIN,
    valid: NDArray[np.bool_] | None = None,
) -> PointSet:
    """Draw points from a mask, by seed and slide.

    Parameters
    ----------
    mask : (h, w) bool array
        In-target cells.
    pairs : int
        Points of each class.
    seed : int
        Of the draw; with the key it decides alone, whatever other slides there are.
    key : str
        Slide.
    margin : float
        Points lie farther than this, in cells, from the nearest cell of the other class. 1 keeps points of two
        classes from touching, which would be taken for a contradiction.
    valid : (h, w) bool array, optional
        Where points may lie.

    Returns
    -------
    PointSet
        Centres of cells in cells, (x, y).

    Raises
    ------
    AnnotationError
        A class has too few cells that far from the other one.
    """
    inner = _away_from_border(mask, margin)
    allowed = inner if valid is None else inner & valid
    draw = int(np.random.SeedSequence([seed, zlib.crc32(key.encode())]).generate_state(1)[0])
    return sample_points(mask, pairs=pairs, seed=draw, valid=allowed)


def _away_from_border(mask: NDArray[np.bool_], margin: float) -> NDArray[np.bool_]:
    if margin <= 0 or mask.all() or not mask.any():
        return np.ones(mask.shape, dtype=np.bool_)
    inside, outside = (scipy.ndimage.distance_transform_edt(part) for part in (mask, ~mask))
    return np.asarray(inside + outside > margin)


def write_points(path: Path, points: PointSet, *, slide: str, offset: tuple[float, float] = (0.0, 0.0)) -> None:
    """Write points in a form that QuPath and every command of ours read.

    Parameters
    ----------
    path : Path
        ".geojson": one MultiPoint per class, in QuPath's frame; ".csv": x, y, label, slide in level-0 px.
    points : PointSet
        In level-0 px.
    slide : str
        Key of the slide, written into the file.
    offset : (float, float)
        GeoJSON: corner of the slide's bounds in level-0 px, to which QuPath crops; the file says so.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    if path.suffix == ".csv":
        write_csv(path, _table(points, slide))
        return
    frame = {"frame": "bounds" if offset != (0.0, 0.0) else "level-0", "offset_px": list(offset), "slide": slide}
    features = [_feature(points, name, offset) for name in dict.fromkeys(points.class_names)]
    top = {"type": FILE_TYPE, "version": FILE_VERSION} | frame
    write_json(path, {"type": "FeatureCollection", "wsipipe": top, "features": features})


def refuse_others(path: Path, points: PointSet, *, slide: str) -> None:
    """Refuse to replace a file of points that `write_points` did not write, or that was changed since.

    Parameters
    ----------
    path : Path
        File to be written; need not exist.
    points, slide
        What it is to hold. A table bears no mark of ours: one that holds just this may be written again.

    Raises
    ------
    StoreError
        The file is somebody's own.
    """
    if path.exists() and not (_holds(path, points, slide) if path.suffix == ".csv" else _is_ours(path)):
        remedy = "choose another --output, or --force to replace it"
        raise StoreError("holds other points, or was changed since it was written", path=path, remedy=remedy)


def _holds(path: Path, points: PointSet, slide: str) -> bool:
    wanted = [{name: str(value) for name, value in row.items()} for row in _table(points, slide)]
    try:
        return read_csv(path) == wanted
    except StoreError:
        return False


def _is_ours(path: Path) -> bool:
    """Whether a GeoJSON bears our mark and ids that fit its content; programs that save it anew keep neither."""
    try:
        told = read_json(path)
        ours: bool = told["wsipipe"]["type"] == FILE_TYPE and all(
            feature["id"] == _id(feature["geometry"]["coordinates"], feature["properties"])
            for feature in told["features"]
        )
    except (StoreError, LookupError, TypeError):
        return False
    return ours


def _table(points: PointSet, slide: str) -> list[dict[str, object]]:
    named = zip(points.xy.tolist(), points.class_names, strict=True)
    return [{"x": x, "y": y, "label": name, "slide": slide} for (x, y), name in named]


def _id(xy: object, properties: object) -> str:
    return str(uuid.uuid5(_NAMESPACE, json.dumps([xy, properties], sort_keys=True)))


def _feature(points: PointSet, name: str, offset: tuple[float, float]) -> dict[str, object]:
    chosen = np.array([other == name for other in points.class_names])
    xy = np.round(points.xy[chosen] - np.asarray(offset), 2).tolist()
    properties = {
        "objectType": "annotation",
        "isLocked": False,
        "classification": {"name": name, "color": list(class_color(name))},
        "measurements": {},
    }
    return {
        "type": "Feature",
        "id": _id(xy, properties),
        "geometry": {"type": "MultiPoint", "coordinates": xy},
        "properties": properties,
    }
