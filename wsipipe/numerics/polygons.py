"""Exact outlines of a mask: polygons along pixel edges, found in one pass over bands of rows.

A corner is a point of the pixel lattice where the outline turns. Every row of the lattice holds an even number of
corners, and horizontal edges join them pairwise from left to right; likewise the vertical edges in each column. Going
to and fro between the two pairings walks round every ring. Where two inside pixels touch diagonally, two corners lie on
one point. If the pixels belong to different components, each corner takes the two edges of one inside pixel, so that
components hang together over edges only (4-connectivity). If they belong to the same one, each corner takes the two
edges of one outside pixel instead, so that no ring touches itself and the polygon is valid: a ring that passed the
point twice would part the two pixels, which yet hang together. Only corners are kept in memory, never pixels.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry import Polygon

from wsipipe.errors import NumericsError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.components import label_components

Ints = NDArray[np.int64]

# Labels and edges of so many pixels are in memory at once.
_STRIP_PIXELS = 2**21


@dataclass(frozen=True)
class _Corners:
    """Corners of the outline.

    Parameters
    ----------
    row, col : (n,) int64 arrays
        Lattice points; pixel (r, c) lies between (r, c) and (r + 1, c + 1).
    label, twin : (n,) int64 arrays
        Component of the corner, and that of the other pixel where two touch diagonally (else 0).
    east, south : (n,) bool arrays
        Whether the horizontal edge goes east, and the vertical edge south.
    inside : (n,) bool array
        Whether the pixel south-east of the corner belongs to the component.
    """

    row: Ints
    col: Ints
    label: Ints
    twin: Ints
    east: NDArray[np.bool_]
    south: NDArray[np.bool_]
    inside: NDArray[np.bool_]


def outline_mask(mask: NDArray[Any] | Iterable[NDArray[Any]], grid: CellGrid) -> list[Polygon]:
    """Polygons along the pixel edges of a mask.

    Parameters
    ----------
    mask : (rows, cols) array, or iterable of (n, cols) arrays
        What is not zero is inside; bands come from top to bottom and together have the grid's size. With bands,
        memory is that of one band and of the outlines.
    grid : CellGrid
        Pixels of the mask over the slide.

    Returns
    -------
    list of Polygon
        One valid polygon for each 4-connected component, holes kept, in level-0 px, ordered by their topmost
        leftmost pixel. Vertices only where the outline turns; `rasterize` gives the mask back exactly.

    Raises
    ------
    NumericsError
        The mask does not have the grid's size.
    """
    bands = [mask] if isinstance(mask, np.ndarray) else mask
    corners = _collect(_strips(bands, grid), grid)
    return [] if corners is None else _polygons(corners, grid)


def rasterize(polygons: Iterable[Any], grid: CellGrid) -> NDArray[np.bool_]:
    """Mask of the cells whose centre lies in one of the polygons; the inverse of `outline_mask`.

    Parameters
    ----------
    polygons : iterable of shapely Polygon or MultiPolygon
        In level-0 px.
    grid : CellGrid
        Cells over the slide.

    Returns
    -------
    (rows, cols) bool array
    """
    # Imported here: outlines, which most commands want, need none of it.
    import rasterio.features
    import rasterio.transform

    # In cells rather than in level-0 px, upside down: an identity transform would be taken for a missing one.
    flip = rasterio.transform.Affine(1, 0, 0, 0, -1, 0)
    scale = np.array([1, -1]) / grid.cell_px
    shapes = [shapely.transform(polygon, lambda xy: (xy - grid.origin) * scale) for polygon in polygons]
    if not shapes:
        return np.zeros(grid.shape, np.bool_)
    return np.asarray(rasterio.features.rasterize(shapes, grid.shape, transform=flip, dtype=np.uint8), dtype=np.bool_)


def _strips(bands: Iterable[NDArray[Any]], grid: CellGrid) -> Iterator[NDArray[np.bool_]]:
    """Bands checked and cut into pieces of bounded size."""
    rows, height = 0, max(1, _STRIP_PIXELS // grid.cols)
    for band in bands:
        if band.ndim != 2 or band.shape[1] != grid.cols:
            raise NumericsError(f"a band of this mask is (n, {grid.cols}), got {band.shape}")
        rows += len(band)
        for start in range(0, len(band), height):
            yield band[start : start + height] != 0
    if rows != grid.rows:
        raise NumericsError(f"the mask has {rows} rows, its grid {grid.rows}")


def _collect(strips: Iterator[NDArray[np.bool_]], grid: CellGrid) -> _Corners | None:
    """Corners of all strips, with labels that are the same wherever pieces meet across strips; None: all empty."""
    parts: list[_Corners] = []
    seams = [np.empty((0, 2), np.int64)]
    row = count = 0
    above = np.zeros(grid.cols, np.int64)
    for strip in chain(strips, [np.zeros((1, grid.cols), np.bool_)]):
        labels, found = label_components(strip) if strip.any() else (np.zeros_like(strip), 0)
        if found or above.any():
            parts.append(_corners(_Labels(above, labels, count), row))
        top, bottom = (np.where(strip[edge], labels[edge].astype(np.int64) + count, 0) for edge in (0, -1))
        seams.append(touching_labels(above, top))
        row, count, above = row + len(strip), count + found, bottom
    return _united(parts, np.concatenate(seams), count) if parts else None


def _joined(parts: Iterable[_Corners]) -> _Corners:
    columns = ([getattr(part, item.name) for part in parts] for item in fields(_Corners))
    return _Corners(*(np.concatenate(column) for column in columns))


def touching_labels(above: Ints, below: Ints) -> Ints:
    """Pairs of labels, (n, 2), that touch across the border of two bands; 0 is no label."""
    touching = (above > 0) & (below > 0)
    return np.unique(np.stack([above[touching], below[touching]], axis=1), axis=0)


def _united(parts: list[_Corners], seams: Ints, labels: int) -> _Corners:
    graph = coo_array((np.ones(len(seams), np.bool_), (seams[:, 0], seams[:, 1])), shape=(labels + 1, labels + 1))
    root = connected_components(graph, directed=False)[1]
    every = _joined(parts)
    label, twin = root[every.label], root[every.twin]
    # Swapping the vertical edges of the two corners of a point turns them from its inside to its outside pixels.
    swapped = every.south ^ ((every.twin > 0) & (label == twin))
    return replace(every, label=label, twin=twin, south=swapped)


@dataclass(frozen=True)
class _Labels:
    """Labels of a strip and of the row above it.

    Parameters
    ----------
    above : (cols,) int64 array
        Labels as they count in the whole mask.
    strip : (n, cols) int array
        Labels as they count in the strip.
    before : int
        Number of labels before this strip.
    """

    above: Ints
    strip: NDArray[Any]
    before: int

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Pixels of the row above and of the strip, with a margin left and right, (n + 1, cols + 2)."""
        return np.pad(np.vstack([self.above > 0, self.strip > 0]), ((0, 0), (1, 1)))

    def at(self, row: Ints, col: Ints) -> Ints:
        """Labels in the whole mask at places of `inside`; 0 outside."""
        found = np.zeros(len(row), np.int64)
        first = row == 0
        hit = self.inside[row, col]
        found[hit & first] = self.above[col[hit & first] - 1]
        lower = hit & ~first
        found[lower] = self.strip[row[lower] - 1, col[lower] - 1] + self.before
        return found


def _corners(labels: _Labels, first_row: int) -> _Corners:
    """Corners on the upper side of every row of a strip."""
    inside = labels.inside
    # An edge goes up or down from a point where the pixels left and right of it differ, and so on round the point.
    upright = inside[:, 1:] != inside[:, :-1]
    north, south = upright[:-1], upright[1:]
    turns = _points(north != south)
    crosses = _points(north & south & (inside[:-1, :-1] != inside[1:, :-1]))
    found = [_turning(labels, *turns), *_crossing(labels, *crosses)]
    every = _joined(found)
    return replace(every, row=every.row + first_row)


def _points(where: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    row, col = np.divmod(np.flatnonzero(where), where.shape[1])  # a fifth of the time of np.nonzero
    return row, col


def _around(labels: _Labels, row: Ints, col: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Labels of the pixels north-west, north-east, south-west and south-east of lattice points."""
    nw, ne = labels.at(row, col), labels.at(row, col + 1)
    return nw, ne, labels.at(row + 1, col), labels.at(row + 1, col + 1)


def _turning(labels: _Labels, row: Ints, col: Ints) -> _Corners:
    """Corners at points where one or three of the pixels around are inside."""
    nw, ne, sw, se = _around(labels, row, col)
    label = np.maximum.reduce([nw, ne, sw, se])
    east, south = (ne > 0) != (se > 0), (sw > 0) != (se > 0)
    return _Corners(row, col, label, np.zeros_like(label), east, south, se > 0)


def _crossing(labels: _Labels, row: Ints, col: Ints) -> tuple[_Corners, _Corners]:
    """Two corners for each point where two inside pixels touch diagonally: the upper pixel's and the lower one's."""
    nw, ne, sw, se = _around(labels, row, col)
    falling = nw > 0
    upper, lower = np.maximum(nw, ne), np.maximum(sw, se)
    no, yes = np.zeros_like(falling), np.ones_like(falling)
    return (
        _Corners(row, col, upper, lower, ~falling, no, no),
        _Corners(row, col, lower, upper, falling, yes, falling),
    )


def _polygons(corners: _Corners, grid: CellGrid) -> list[Polygon]:
    order, ring = _rings(corners)
    xy = np.stack([corners.col[order], corners.row[order]], axis=1) * grid.cell_px + np.asarray(grid.origin)
    rings = np.asarray(shapely.linearrings(xy, indices=ring))
    first = np.flatnonzero(np.diff(ring, prepend=-1))
    label, outer = corners.label[order][first], corners.inside[order][first]
    # Each component has one shell; its holes find it by the label.
    holes: dict[int, list[int]] = {}
    for hole in np.flatnonzero(~outer).tolist():
        holes.setdefault(int(label[hole]), []).append(hole)
    return [Polygon(rings[i], [rings[k] for k in holes.get(int(label[i]), [])]) for i in np.flatnonzero(outer)]


def _rings(corners: _Corners) -> tuple[Ints, Ints]:
    """Order that walks round the rings, and the number of the ring of each corner on the way.

    Rings come in the order of their topmost leftmost corner and begin with it.
    """
    by_row = np.lexsort((corners.east, corners.col, corners.row))
    by_col = np.lexsort((corners.south, corners.row, corners.col))
    # Buffers rather than lists: a slide has millions of corners, and Python's numbers take 36 bytes each.
    beside, below = _partners(by_row).data, _partners(by_col).data
    seen = bytearray(len(by_row))
    order, lengths = array("q"), array("q")
    for start in by_row.data:
        if seen[start]:
            continue
        begin, at = len(order), start
        while not seen[at]:
            other = beside[at]
            seen[at] = seen[other] = 1
            order.append(at)
            order.append(other)
            at = below[other]
        lengths.append(len(order) - begin)
    return np.asarray(order), np.repeat(np.arange(len(lengths)), lengths)


def _partners(order: Ints) -> Ints:
    """Other end of each corner's edge: neighbours in `order` belong together, two by two."""
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner
