"""QuPath GeoJSON: points, polygons and their classes.

Source: RFC 7946; QuPath's `QuPathTypeAdapters`, `GsonTools` and `ROITypeAdapters`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon

from wsipipe.annotations.marks import Marks, PointMark, checked_xy, merged
from wsipipe.annotations.outlines import as_area, outline
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import AnnotationError

Json = Mapping[str, object]
_REMEDY = "export it from QuPath again as GeoJSON"


def parse_qupath(text: str, *, path: Path) -> Marks:
    """Read the marks of a GeoJSON file.

    Parameters
    ----------
    text : str
        A feature collection, one feature, a bare geometry, or an array of features.
    path : Path
        Named in errors.

    Returns
    -------
    Marks
        In the frame of the file; `frame_offset` is set where the file says which frame that is (ours do). The class
        is the classification, and without one the name of the object.

    Raises
    ------
    AnnotationError
        The file is no JSON (with the line), no GeoJSON, or a geometry is broken; the message names the feature.
    """
    try:
        data = json.loads(text)
        features = list(_features(data, path))
        marks = merged(_feature_marks(feature, f"feature {i}", path) for i, feature in enumerate(features, start=1))
    except json.JSONDecodeError as error:
        raise AnnotationError(f"line {error.lineno}: is broken JSON: {error.msg}", path=path, remedy=_REMEDY) from error
    except RecursionError as error:
        raise AnnotationError("is JSON nested too deeply", path=path) from error
    except ValueError as error:
        raise AnnotationError(f"is broken JSON: {error}", path=path, remedy=_REMEDY) from error
    return _with_frame(marks, data, path)


def _with_frame(marks: Marks, data: object, path: Path) -> Marks:
    """Take over what our own writer says at the top of the file: the frame, and the slide."""
    ours = data.get("wsipipe") if isinstance(data, Mapping) else None
    if not isinstance(ours, Mapping):
        return marks
    slide = ours.get("slide")
    return replace(
        marks,
        slides=(slide,) if isinstance(slide, str) and slide else (),
        frame_offset=_frame_offset(ours, path),
    )


def _frame_offset(ours: Json, path: Path) -> tuple[float, float]:
    offset, frame = ours.get("offset_px"), ours.get("frame")
    if frame == "level-0":
        return 0.0, 0.0
    if frame != "bounds" or not isinstance(offset, list) or len(offset) != 2:
        raise AnnotationError(f"has frame {frame!r} with offset {offset!r}, which this version cannot read", path=path)
    (x, y) = _positions([offset], "frame", path)[0].tolist()
    return x, y


def _features(data: object, path: Path) -> Iterator[Json]:
    if isinstance(data, list):
        for item in data:
            yield from _features(item, path)
        return
    kind = data.get("type") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(kind, str):
        raise AnnotationError(f"is JSON but no GeoJSON: found {_shown(data)}", path=path, remedy=_REMEDY)
    if kind == "FeatureCollection":
        yield from _features(_a_list(data.get("features"), "features", path), path)
    elif kind == "Feature":
        yield data
        yield from _features(_children(data), path)
    elif "coordinates" in data or "geometries" in data:
        yield {"type": "Feature", "geometry": data}
    else:
        raise AnnotationError(f"is JSON but no GeoJSON: unknown type {kind!r}", path=path, remedy=_REMEDY)


def _children(feature: Json) -> list[object]:
    """Objects inside an object, where QuPath exported the hierarchy."""
    properties = _properties(feature)
    found = properties.get("childObjects", properties.get("children"))
    return found if isinstance(found, list) else []


def _properties(feature: Json) -> Json:
    properties = feature.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _feature_marks(feature: Json, where: str, path: Path) -> Marks:
    geometry, properties = feature.get("geometry"), _properties(feature)
    if geometry is None:
        return Marks(ignored={"feature without geometry": 1})
    named = properties.get("name")
    name = class_name(properties.get("classification")) or (named.strip() if isinstance(named, str) else "") or None
    shapes = list(_shapes(geometry, where, path))
    points = [shape for shape in shapes if isinstance(shape, np.ndarray)]
    areas = [shape for shape in shapes if isinstance(shape, Polygon | MultiPolygon)]
    color, measurements = _color(properties), _measurements(properties.get("measurements"))
    ignored = {name: sum(shape == name for shape in shapes if isinstance(shape, str)) for name in (_LINE, _NO_AREA)}
    return Marks(
        points=tuple(PointMark(x, y, name) for xy in points for x, y in xy.tolist()),
        regions=tuple(OutlinedRegion(area, name, color, measurements) for area in areas),
        ignored={name: count for name, count in ignored.items() if count},
        colors={name: color} if points and name and color else {},
    )


def class_name(value: object) -> str:
    """Class in any of the forms QuPath and others write: a string, an object with name or names, nested; "" if none."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return ": ".join(filter(None, map(class_name, value)))
    if isinstance(value, Mapping):
        found = (class_name(value.get(key)) for key in ("name", "names", "classification"))
        return next(filter(None, found), "")
    return ""


_LINE, _NO_AREA = "line", "outline without area"
_Shape = NDArray[np.float64] | Polygon | MultiPolygon | str


def _shapes(geometry: object, where: str, path: Path) -> Iterator[_Shape]:
    """Points (n, 2), areas, or the name of what is ignored."""
    if not isinstance(geometry, Mapping):
        raise AnnotationError(f"{where}: its geometry is {_shown(geometry)}", path=path, remedy=_REMEDY)
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        for part in _a_list(geometry.get("geometries"), f"{where}: geometries", path):
            yield from _shapes(part, where, path)
        return
    builders: dict[object, Callable[[object, str, Path], _Shape | None]] = {
        "Point": lambda value, where, path: _positions([value], where, path),
        "MultiPoint": _positions,
        "Polygon": _polygon,
        "MultiPolygon": _multi_polygon,
        "LineString": lambda value, where, path: _LINE,
        "MultiLineString": lambda value, where, path: _LINE,
    }
    if kind not in builders:
        raise AnnotationError(f"{where}: unknown type of geometry {kind!r}", path=path, remedy=_REMEDY)
    shape = builders[kind](geometry.get("coordinates"), where, path)
    yield _NO_AREA if shape is None else shape


def _polygon(value: object, where: str, path: Path) -> Polygon | MultiPolygon | None:
    rings = [_positions(ring, where, path) for ring in _a_list(value, f"{where}: coordinates", path)]
    return outline(rings[0], rings[1:]) if rings else None


def _multi_polygon(value: object, where: str, path: Path) -> Polygon | MultiPolygon | None:
    drawn = [_polygon(part, where, path) for part in _a_list(value, f"{where}: coordinates", path)]
    parts = list(shapely.get_parts([area for area in drawn if area is not None]))
    whole = MultiPolygon(parts)
    return as_area(whole if whole.is_valid else shapely.union_all(parts))


def _positions(value: object, where: str, path: Path) -> NDArray[np.float64]:
    """Positions [x, y] or [x, y, z, ...] as (n, 2) float64."""
    pairs = [_position(item, where, path) for item in _a_list(value, f"{where}: coordinates", path)]
    return checked_xy(np.array(pairs, dtype=np.float64).reshape(-1, 2), where=where, path=path)


def _position(item: object, where: str, path: Path) -> tuple[float, float]:
    numbers = item[:2] if isinstance(item, list) else []
    if len(numbers) != 2 or any(type(number) not in (int, float) for number in numbers):
        raise AnnotationError(f"{where}: {_shown(item)} is no position [x, y]", path=path, remedy=_REMEDY)
    try:
        return float(numbers[0]), float(numbers[1])
    except OverflowError:
        # A whole number of more than 300 digits; `checked_xy` refuses it.
        return math.inf, math.inf


def _a_list(value: object, where: str, path: Path) -> list[object]:
    if not isinstance(value, list):
        raise AnnotationError(f"{where}: expected a list, found {_shown(value)}", path=path, remedy=_REMEDY)
    return value


def _color(properties: Json) -> tuple[int, int, int] | None:
    """RGB of the classification, or of the object; QuPath before 0.4 wrote one signed number."""
    classification = properties.get("classification")
    holder = classification if isinstance(classification, Mapping) else {}
    for value in (holder.get("color"), holder.get("colorRGB"), properties.get("color")):
        if type(value) is int:
            return value >> 16 & 0xFF, value >> 8 & 0xFF, value & 0xFF
        if isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value):
            red, green, blue = (min(max(part, 0), 255) for part in value)
            return red, green, blue
    return None


def _measurements(value: object) -> dict[str, float]:
    """Measurements as a map, less those that are NaN; QuPath before 0.4 wrote a list of {"name", "value"}."""
    items: list[tuple[object, object]] = []
    if isinstance(value, list):
        items = [(item.get("name"), item.get("value")) for item in value if isinstance(item, Mapping)]
    elif isinstance(value, Mapping):
        items = list(value.items())
    return {
        str(name): float(number) for name, number in items if isinstance(number, int | float) and _is_finite(number)
    }


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
