"""The truth about a slide on the pixels of its prediction, band by band: from a mask, or from polygons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsipipe.annotations.classes import ClassMap, describe_classes
from wsipipe.annotations.masks import check_classes
from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET
from wsipipe.annotations.reading import read_regions
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.polygons import rasterize
from wsipipe.pipeline.mask_extent import check_single_class, mask_extent
from wsipipe.store.label_raster import LabelRaster
from wsipipe.store.pyramid import regroup

Mask = NDArray[np.bool_]


def mask_bands(raster: LabelRaster, grid: CellGrid, slide_size: tuple[float, float], *, rows: int) -> Iterator[Mask]:
    """Sample a reference mask at the centres of a prediction's pixels.

    Parameters
    ----------
    raster : LabelRaster
        Covers the whole slide, at any resolution.
    grid : CellGrid
        Pixels of the prediction over the slide.
    slide_size : (float, float)
        Width and height of the slide in level-0 px.
    rows : int
        Height of a band.

    Yields
    ------
    (rows, grid.cols) bool arrays
        Top to bottom, the last one lower. Memory is that of a band of the mask's own file and one of the grid.

    Raises
    ------
    AnnotationError
        The mask is of another area, see `mask_extent`, or one of ours of several classes.
    """
    check_single_class(raster.path)
    pixels = (band.astype(np.uint8) for band in raster.bands())
    return (band.astype(np.bool_) for band in _laid_over(raster, pixels, grid, slide_size, rows))


def class_bands(
    raster: LabelRaster, grid: CellGrid, slide_size: tuple[float, float], *, classes: int, rows: int
) -> Iterator[NDArray[np.uint8]]:
    """Sample a reference mask of several classes, as `mask_bands`.

    Yields
    ------
    (rows, grid.cols) uint8 arrays
        1 to `classes`, 0 where nothing is known.

    Raises
    ------
    AnnotationError
        The mask is of another area, see `mask_extent`, or a pixel has another value.
    """
    return _laid_over(raster, _checked(raster, classes), grid, slide_size, rows)


def _checked(raster: LabelRaster, classes: int) -> Iterator[NDArray[np.uint8]]:
    for band in raster.labels():
        check_classes(band, classes, raster.path)
        yield band.astype(np.uint8)


def _laid_over(
    raster: LabelRaster,
    pixels: Iterator[NDArray[np.uint8]],
    grid: CellGrid,
    slide_size: tuple[float, float],
    rows: int,
) -> Iterator[NDArray[np.uint8]]:
    """Pixels of a mask under those of a grid, in bands of `rows` rows."""
    extent = mask_extent(raster.path, (raster.rows, raster.cols), slide_size, slack_px=grid.cell_px)
    x, y = ((np.arange(count) + 0.5) * grid.cell_px for count in (grid.cols, grid.rows))
    down, across = extent.rows_at(grid.origin[1] + y), extent.cols_at(grid.origin[0] + x)
    return regroup(_sampled(pixels, down, across), shape=grid.shape, channels=(), rows=rows)


def _sampled(
    pixels: Iterator[NDArray[np.uint8]], down: NDArray[np.int64], across: NDArray[np.int64]
) -> Iterator[NDArray[np.uint8]]:
    """Rows of the grid that lie on each band of the mask; a fine mask is never held at its own resolution."""
    top = 0
    for band in pixels:
        first, last = np.searchsorted(down, (top, top + len(band)))
        if last > first:
            yield band[np.ix_(down[first:last] - top, across)]
        top += len(band)


def polygon_bands(path: Path, grid: CellGrid, *, classes: ClassMap, offset: tuple[float, float]) -> _PolygonBands:
    """Polygons of the in-target classes, less those of the out-of-target ones, drawn on a prediction's pixels.

    Parameters
    ----------
    path : Path
        In any format of `annotations.reading`; without any polygon, nothing is in target.
    grid : CellGrid
        Pixels of the prediction over the slide.
    classes : ClassMap
        Which classes are in-target and out-of-target.
    offset : (float, float)
        Corner of the slide's bounds in level-0 px, which QuPath counts from.

    Raises
    ------
    AnnotationError
        The file cannot be read, none of its polygons is of a class in question, or one reaches far beyond the slide.
    """
    regions = read_regions(path, offset=offset)
    labels = [classes.label_of(region.class_name) for region in regions]
    if regions and all(label is None for label in labels):
        found = describe_classes(region.class_name for region in regions)
        raise AnnotationError(
            f"no polygon is of an in-target or out-of-target class; classes found: {found}",
            path=path,
            remedy="name them with --positive CLASS and --negative CLASS",
        )
    _check_extent(regions, grid, path)
    inside, outside = (
        [region.geometry for region, label in zip(regions, labels, strict=True) if label == wanted]
        for wanted in (IN_TARGET, OUT_OF_TARGET)
    )
    return _PolygonBands(inside, outside, grid)


def _check_extent(regions: Sequence[OutlinedRegion], grid: CellGrid, path: Path) -> None:
    if not regions:
        return
    bounds = np.array([region.geometry.bounds for region in regions])
    first, last = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    size = np.array([grid.cols * grid.cell_px, grid.rows * grid.cell_px])
    # Outlines drawn by hand run over the edge a little.
    over = size * 0.05
    if (first < -over).any() or (last > size + over).any():
        far = last if (last > size + over).any() else first
        raise AnnotationError(
            f"its polygons reach to ({far[0]:.0f}, {far[1]:.0f}) px, "
            f"the prediction covers {size[0]:.0f} x {size[1]:.0f} px",
            path=path,
            remedy="give the polygons of this slide, and the .mask.tif that wsipipe wrote, which knows its scale",
        )


class _PolygonBands:
    """Bands of a grid drawn one by one, each from the polygons that it touches."""

    def __init__(self, inside: Sequence[shapely.Geometry], outside: Sequence[shapely.Geometry], grid: CellGrid) -> None:
        self._inside, self._outside = shapely.STRtree(list(inside)), shapely.STRtree(list(outside))
        self._grid = grid

    def bands(self, rows: int) -> Iterator[Mask]:
        """Bands of `rows` rows, the last one lower."""
        for top in range(0, self._grid.rows, rows):
            part = self._part(top, min(rows, self._grid.rows - top))
            yield self._drawn(self._inside, part) & ~self._drawn(self._outside, part)

    def _part(self, top: int, rows: int) -> CellGrid:
        grid = self._grid
        return CellGrid(rows, grid.cols, grid.cell_px, (grid.origin[0], grid.origin[1] + top * grid.cell_px))

    def _drawn(self, tree: shapely.STRtree, part: CellGrid) -> Mask:
        (x, y), (rows, cols) = part.origin, part.shape
        box = shapely.box(x, y, x + cols * part.cell_px, y + rows * part.cell_px)
        return rasterize(tree.geometries[np.sort(tree.query(box))], part)
