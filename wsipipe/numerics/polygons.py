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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import rasterio.features
import rasterio.transform
import scipy.ndimage
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely.geometry import Polygon

from wsipipe.errors import NumericsError
from wsipipe.geometry import CellGrid

Ints = NDArray[np.int64]

_BAND_ROWS = 512


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
    bands = np.array_split(mask, range(_BAND_ROWS, len(mask), _BAND_ROWS)) if isinstance(mask, np.ndarray) else mask
    corners = _collect(_checked(bands, grid))
    if corners.row.size == 0:
        return []
    return _polygons(corners, grid)


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
    # In cells rather than in level-0 px, upside down: an identity transform would be taken for a missing one.
    flip = rasterio.transform.Affine(1, 0, 0, 0, -1, 0)
    scale = np.array([1, -1]) / grid.cell_px
    shapes = [shapely.transform(polygon, lambda xy: (xy - grid.origin) * scale) for polygon in polygons]
    if not shapes:
        return np.zeros(grid.shape, np.bool_)
    return np.asarray(rasterio.features.rasterize(shapes, grid.shape, transform=flip, dtype=np.uint8), dtype=np.bool_)


def _checked(bands: Iterable[NDArray[Any]], grid: CellGrid) -> Iterator[NDArray[np.bool_]]:
    rows = 0
    for band in bands:
        if band.ndim != 2 or band.shape[1] != grid.cols:
            raise NumericsError(f"a band of this mask is (n, {grid.cols}), got {band.shape}")
        rows += len(band)
        if len(band):
            yield band != 0
    if rows != grid.rows:
        raise NumericsError(f"the mask has {rows} rows, its grid {grid.rows}")


def _collect(bands: Iterator[NDArray[np.bool_]]) -> _Corners:
    """Corners of all bands, with labels that are the same wherever pieces meet across bands."""
    parts: list[_Corners] = []
    seams: list[Ints] = [np.empty((0, 2), np.int64)]
    row = labels_so_far = 0
    above: Ints | None = None
    for band in bands:
        labels = scipy.ndimage.label(band)[0].astype(np.int64)
        labels[band] += labels_so_far
        labels_so_far = max(labels_so_far, int(labels.max()))
        above = np.zeros(band.shape[1], np.int64) if above is None else above
        seams.append(_seam(above, labels[0]))
        parts.append(_corners(np.vstack([above, labels]), row))
        row, above = row + len(band), labels[-1]
    if above is not None:
        parts.append(_corners(np.vstack([above, np.zeros_like(above)]), row))
    return _united(parts, np.concatenate(seams), labels_so_far)


def _seam(above: Ints, below: Ints) -> Ints:
    """Pairs of labels that touch across the border of two bands."""
    touching = (above > 0) & (below > 0)
    return np.unique(np.stack([above[touching], below[touching]], axis=1), axis=0)


def _united(parts: list[_Corners], seams: Ints, labels: int) -> _Corners:
    graph = coo_array((np.ones(len(seams), np.bool_), (seams[:, 0], seams[:, 1])), shape=(labels + 1, labels + 1))
    root = connected_components(graph, directed=False)[1].astype(np.int64)
    every = _Corners(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(_Corners)))
    label, twin = root[every.label], root[every.twin]
    # Swapping the vertical edges of the two corners of a point turns them from its inside to its outside pixels.
    swapped = every.south ^ ((every.twin > 0) & (label == twin))
    return replace(every, label=label, twin=twin, south=swapped)


def _corners(labels: Ints, first_row: int) -> _Corners:
    """Corners between consecutive rows of labels; the top row belongs to the band above."""
    padded = np.pad(labels, ((0, 0), (1, 1)))
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    # An edge goes north from a point where the pixels left and right of it differ, and so on round the point.
    north, south = (nw > 0) != (ne > 0), (sw > 0) != (se > 0)
    west, east = (nw > 0) != (sw > 0), (ne > 0) != (se > 0)
    turn = (north != south) & (west != east)
    cross = north & south & west & east
    falling, rising = cross & (nw > 0), cross & (ne > 0)
    yes, no = np.ones_like(turn), np.zeros_like(turn)
    found = [
        _take(turn, np.maximum.reduce([nw, ne, sw, se]), np.zeros_like(nw), east, south, se > 0),
        _take(falling, nw, se, no, no, no),
        _take(falling, se, nw, yes, yes, yes),
        _take(rising, ne, sw, yes, no, no),
        _take(rising, sw, ne, no, yes, no),
    ]
    row, col, *values = (np.concatenate(column) for column in zip(*found, strict=True))
    return _Corners(row + first_row, col, *values)


def _take(where: NDArray[np.bool_], *values: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    row, col = np.nonzero(where)
    return row, col, *(value[row, col] for value in values)


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
    beside, below = _partners(by_row).tolist(), _partners(by_col).tolist()
    seen = bytearray(len(by_row))
    order: list[int] = []
    lengths: list[int] = []
    for start in by_row.tolist():
        if seen[start]:
            continue
        begin, at = len(order), start
        while not seen[at]:
            other = beside[at]
            seen[at] = seen[other] = 1
            order += (at, other)
            at = below[other]
        lengths.append(len(order) - begin)
    return np.array(order), np.repeat(np.arange(len(lengths)), lengths)


def _partners(order: Ints) -> Ints:
    """Other end of each corner's edge: neighbours in `order` belong together, two by two."""
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner
