"""Polygons from the outlines that annotation programs draw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

ELLIPSE_TOLERANCE_PX = 0.1


def outline(shell: NDArray[np.float64], holes: Sequence[NDArray[np.float64]] = ()) -> Polygon | MultiPolygon | None:
    """Area inside a closed line.

    Parameters
    ----------
    shell : (n, 2) float64 array
        (x, y) in px; the last point is joined to the first.
    holes : sequence of (m, 2) float64 arrays
        Lines around what is left out.

    Returns
    -------
    Polygon, MultiPolygon or None
        A valid area; None where nothing is enclosed.

    Notes
    -----
    Lines drawn by hand cross themselves. What a line goes round at least once is inside (the nonzero winding rule,
    which ASAP's own masks follow): a loop drawn twice is no hole.
    """
    if len(shell) < 3:
        return None
    drawn = Polygon(shell, [hole for hole in holes if len(hole) >= 3])
    if drawn.is_valid:
        return drawn if drawn.area > 0 else None
    area = _wound(shell)
    cut = shapely.union_all([_wound(hole) for hole in holes if len(hole) >= 3])
    return as_area(area.difference(cut))


def rectangle(xy: NDArray[np.float64]) -> Polygon | MultiPolygon | None:
    """Rectangle from two opposite corners, or from all four (which may be rotated)."""
    if len(xy) != 2:
        return outline(xy)
    (left, top), (right, bottom) = xy.min(axis=0).tolist(), xy.max(axis=0).tolist()
    return as_area(shapely.box(left, top, right, bottom))


def ellipse(xy: NDArray[np.float64]) -> Polygon | MultiPolygon | None:
    """Ellipse from the corners of the box around it, (2, 2) or (4, 2); a line of more points is taken as drawn.

    Notes
    -----
    The polygon stays within `ELLIPSE_TOLERANCE_PX` of the ellipse.
    """
    if len(xy) not in (2, 4):
        return outline(xy)
    low, high = xy.min(axis=0), xy.max(axis=0)
    radii = (high - low) / 2
    # The sagitta of n chords on a circle of radius r is r (1 - cos(pi / n)).
    n = math.pi / math.sqrt(2 * ELLIPSE_TOLERANCE_PX / max(float(radii.max()), 1.0))
    angle = np.linspace(0, 2 * math.pi, min(max(math.ceil(n), 32), 4096), endpoint=False)
    return outline((low + high) / 2 + radii * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def cut_holes(
    areas: Sequence[Polygon | MultiPolygon], negatives: Sequence[Polygon | MultiPolygon]
) -> tuple[list[Polygon | MultiPolygon | None], int]:
    """Cut negative regions out of the regions that they lie in.

    Parameters
    ----------
    areas, negatives : sequence of Polygon or MultiPolygon
        Regions and negative regions of one layer.

    Returns
    -------
    list of Polygon, MultiPolygon or None
        `areas` in order, less the negatives; None where nothing is left.
    int
        Negatives that lie in no region.

    Notes
    -----
    A region that lies inside a negative is an island in the hole, and stays whole.
    """
    if not negatives:
        return list(areas), 0
    tree, used = shapely.STRtree(list(negatives)), np.zeros(len(negatives), dtype=bool)
    left = []
    for area in areas:
        hits = [i for i in tree.query(area, predicate="intersects") if not negatives[i].covers(area)]
        used[hits] = True
        left.append(as_area(area.difference(shapely.union_all([negatives[i] for i in hits]))) if hits else area)
    return left, int((~used).sum())


def as_area(geometry: BaseGeometry) -> Polygon | MultiPolygon | None:
    """Polygons of a geometry that may hold stray lines and points too; None where there are none."""
    parts = [
        part for part in shapely.get_parts(shapely.get_parts([geometry])) if isinstance(part, Polygon) and part.area > 0
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _wound(ring: NDArray[np.float64]) -> BaseGeometry:
    """Union of the faces of a line around which it winds."""
    closed = np.concatenate([ring, ring[:1]])
    faces = shapely.get_parts(shapely.polygonize([shapely.unary_union(shapely.LineString(closed))]))
    return shapely.union_all([face for face in faces if _winding(closed, face.representative_point()) != 0])


def _winding(closed: NDArray[np.float64], point: shapely.Point) -> int:
    """How often a closed line goes round a point: upward less downward crossings to the right of it."""
    start, end = closed[:-1], closed[1:]
    left = (end[:, 0] - start[:, 0]) * (point.y - start[:, 1]) - (point.x - start[:, 0]) * (end[:, 1] - start[:, 1])
    up = (start[:, 1] <= point.y) & (end[:, 1] > point.y) & (left > 0)
    down = (start[:, 1] > point.y) & (end[:, 1] <= point.y) & (left < 0)
    return int(up.sum()) - int(down.sum())
