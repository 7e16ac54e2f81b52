"""Regions as QuPath reads them, streamed to disk one by one.

Source: QuPath's GeoJSON (`qupath.lib.io.GsonTools`) and RFC 7946: a UUID per feature, `classification` with a colour,
`measurements` as a map, closed rings, holes as interior rings; no `crs`.
"""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import shapely
from shapely.geometry import LinearRing, MultiPolygon, Polygon
from shapely.geometry.polygon import orient

from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError
from wsipipe.store.atomic import atomic_path
from wsipipe.store.regions import check_region, region_color
from wsipipe.store.tables import plain

DECIMALS = 2
FILE_TYPE, FILE_VERSION = "wsipipe.regions", 1
# Names the features of a file: the same content gives the same UUIDs in every run.
_NAMESPACE = uuid.UUID("6f1d2c3e-3f0b-5a55-9c2f-8d0f7c1f2a10")


def write_geojson(
    path: Path,
    regions: Iterable[OutlinedRegion],
    *,
    offset: tuple[float, float] = (0.0, 0.0),
    slide: str | None = None,
    locked: bool = False,
) -> None:
    """Write regions as a QuPath feature collection, whole or not at all.

    Parameters
    ----------
    path : Path
        ".geojson", or ".geojson.gz" for a compressed file.
    regions : iterable of OutlinedRegion
        Polygons in level-0 px; taken one by one, so a generator keeps memory flat.
    offset : (float, float)
        (x, y) in level-0 px subtracted from every coordinate: the corner of the slide's bounds, where QuPath crops
        to them. The member "wsipipe" at the top of the file says which frame was used.
    slide : str, optional
        Key of the slide, to be written at the top beside the frame.
    locked : bool
        Whether QuPath protects the regions against editing.

    Raises
    ------
    StoreError
        A region is empty, or a coordinate or measurement is not finite, or the file cannot be written.

    Notes
    -----
    Coordinates are rounded to 2 decimals. Identifiers are UUIDs (version 5) of the content and its place in the
    file: a second run gives the same file.
    """
    with atomic_path(path) as temporary, _text(temporary) as file:
        top = {"type": FILE_TYPE, "version": FILE_VERSION} | _frame(offset) | ({"slide": slide} if slide else {})
        file.write(f'{{"type": "FeatureCollection", "wsipipe": {json.dumps(top)}, "features": [')
        for number, region in enumerate(regions):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(_feature(region, number, offset, locked=locked, path=path), allow_nan=False))
        file.write("\n]}\n")


@contextmanager
def _text(path: Path) -> Iterator[IO[str] | _Encoder]:
    if path.suffix.lower() != ".gz":
        with path.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    # No name and no time in the header: equal content, equal bytes.
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
    ):
        yield _Encoder(packed)


class _Encoder:
    """Text in, bytes out."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def write(self, text: str) -> None:
        self._file.write(text.encode("utf-8"))


def _frame(offset: tuple[float, float]) -> dict[str, object]:
    x, y = (float(value) for value in offset)
    return {"frame": "bounds" if (x, y) != (0.0, 0.0) else "level-0", "offset_px": [_short(x), _short(y)]}


def _feature(
    region: OutlinedRegion, number: int, offset: tuple[float, float], *, locked: bool, path: Path
) -> dict[str, object]:
    check_region(region, number, path=path)
    geometry = _geometry(_rounded(region.geometry, offset, number, path))
    properties: dict[str, object] = {"objectType": "annotation", "isLocked": locked}
    if region.class_name is not None:
        color = [int(value) for value in region_color(region)]
        properties["classification"] = {"name": region.class_name, "color": color}
    properties["measurements"] = plain(dict(region.measurements), path=path, where=f"region {number}: measurements")
    content = json.dumps([number, geometry, properties], sort_keys=True)
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, content)),
        "geometry": geometry,
        "properties": properties,
    }


def _rounded(
    geometry: Polygon | MultiPolygon, offset: tuple[float, float], number: int, path: Path
) -> Polygon | MultiPolygon:
    """Shift and round; where rounding folds a thin part over, let GEOS put it right."""
    moved = shapely.transform(geometry, lambda xy: xy - np.asarray(offset))
    rounded = shapely.transform(moved, lambda xy: np.round(xy, DECIMALS))
    if not rounded.is_valid:
        rounded = shapely.set_precision(moved.buffer(0), 10.0**-DECIMALS)
    if rounded.is_empty or not isinstance(rounded, Polygon | MultiPolygon):
        raise StoreError(f"region {number} is thinner than {10.0**-DECIMALS} px, bounds {geometry.bounds}", path=path)
    return rounded


def _geometry(geometry: Polygon | MultiPolygon) -> dict[str, object]:
    parts = [_rings(part) for part in getattr(geometry, "geoms", [geometry])]
    if len(parts) == 1:
        return {"type": "Polygon", "coordinates": parts[0]}
    return {"type": "MultiPolygon", "coordinates": parts}


def _rings(polygon: Polygon) -> list[list[list[float]]]:
    """Exterior counter-clockwise, holes clockwise (RFC 7946, 3.1.6), each closed."""
    turned = orient(polygon, sign=1.0)
    return [_positions(ring) for ring in (turned.exterior, *turned.interiors)]


def _positions(ring: LinearRing) -> list[list[float]]:
    """Corners of a ring, each number as short as it is; all are whole, and quickly told, where outlines follow px."""
    xy = np.asarray(ring.coords)[:, :2]
    whole = np.rint(xy)
    if np.array_equal(xy, whole):
        positions: list[list[float]] = whole.astype(np.int64).tolist()
        return positions
    return [[_short(x), _short(y)] for x, y in xy.tolist()]


def _short(value: float) -> float:
    value = round(value, DECIMALS)
    return int(value) if value.is_integer() else value
