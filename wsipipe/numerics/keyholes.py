"""Polygons with holes as one closed line, for formats that know no holes.

The line goes into each hole through a slit and comes back the same way. A slit is passed once in each direction, so it
changes no winding number: whatever fills the line, by the even-odd or the nonzero rule, leaves the holes free.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from shapely.geometry import Polygon
from shapely.geometry.polygon import orient

Floats = NDArray[np.float64]


def keyhole(polygon: Polygon) -> Floats:
    """Outline of a polygon as one line, holes included.

    Parameters
    ----------
    polygon : Polygon
        With any number of holes.

    Returns
    -------
    (n, 2) float64 array
        (x, y) of the line, whose last point is joined to its first; without holes, the exterior as it is. Slits
        connect corners only, so that no new points arise.
    """
    turned = orient(polygon)  # holes run against the exterior
    rings = [shapely.get_coordinates(ring)[:-1] for ring in (turned.exterior, *turned.interiors)]
    if len(rings) == 1:
        return rings[0]
    # From left to right, each beginning with its leftmost corner: the slit to what lies left of it is short.
    starts = [np.lexsort((ring[:, 1], ring[:, 0]))[0] for ring in rings[1:]]
    holes = sorted((np.roll(ring, -start, axis=0) for ring, start in zip(rings[1:], starts, strict=True)), key=_first)
    rings = [rings[0], *holes]
    return np.array(list(_walk(rings, _doors(rings))))


def _first(ring: Floats) -> tuple[float, float]:
    return float(ring[0, 0]), float(ring[0, 1])


def _doors(rings: list[Floats]) -> dict[tuple[int, int], list[int]]:
    """Holes that are entered from each (ring, corner): the corner nearest to a hole among the rings before it."""
    xy = np.concatenate(rings)
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    corner = np.concatenate([np.arange(len(ring)) for ring in rings])
    tree = cKDTree(xy)
    doors: dict[tuple[int, int], list[int]] = {}
    for hole in range(1, len(rings)):
        near = _nearest_before(tree, rings[hole][0], owner, hole)
        doors.setdefault((int(owner[near]), int(corner[near])), []).append(hole)
    return doors


def _nearest_before(tree: cKDTree, xy: Floats, owner: NDArray[np.intp], hole: int) -> int:
    count = min(8, len(owner))
    while True:
        near = np.atleast_1d(tree.query(xy, k=count)[1])
        found = near[owner[near] < hole]
        if len(found):
            return int(found[0])
        count = min(4 * count, len(owner))


def _walk(rings: list[Floats], doors: dict[tuple[int, int], list[int]]) -> Iterator[Floats]:
    """Corners on the way round the exterior and through every door; holes may be entered from holes, without end."""

    def steps(ring: int) -> Iterator[Floats | int]:
        for number, xy in enumerate(rings[ring]):
            yield xy
            for hole in doors.get((ring, number), []):
                yield hole
                yield xy

    way = [steps(0)]
    inside = [0]
    while way:
        step = next(way[-1], None)
        if isinstance(step, int):
            way.append(steps(step))
            inside.append(step)
        elif step is not None:
            yield step
        else:
            way.pop()
            ring = inside.pop()
            if ring:
                yield rings[ring][0]
