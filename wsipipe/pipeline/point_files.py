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
from wsipipe.store.tables import write_csv, write_json

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
        named = zip(points.xy.tolist(), points.class_names, strict=True)
        write_csv(path, [{"x": x, "y": y, "label": name, "slide": slide} for (x, y), name in named])
        return
    frame = {"frame": "bounds" if offset != (0.0, 0.0) else "level-0", "offset_px": list(offset), "slide": slide}
    features = [_feature(points, name, offset) for name in dict.fromkeys(points.class_names)]
    top = {"type": FILE_TYPE, "version": FILE_VERSION} | frame
    write_json(path, {"type": "FeatureCollection", "wsipipe": top, "features": features})


def _feature(points: PointSet, name: str, offset: tuple[float, float]) -> dict[str, object]:
    chosen = np.array([other == name for other in points.class_names])
    xy = np.round(points.xy[chosen] - np.asarray(offset), 2).tolist()
    properties = {
        "objectType": "annotation",
        "isLocked": False,
        "classification": {"name": name, "color": list(class_color(name))},
        "measurements": {},
    }
    content = json.dumps([xy, properties], sort_keys=True)
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, content)),
        "geometry": {"type": "MultiPoint", "coordinates": xy},
        "properties": properties,
    }
