"""Where the pixels of a mask lie on its slide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid
from wsipipe.store.raster import own_raster_info
from wsipipe.store.tables import read_json

_PROPORTIONS = 0.02

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class MaskExtent:
    """Rectangle of the slide that a mask covers.

    Parameters
    ----------
    shape : (int, int)
        (rows, cols) of the mask.
    size : (float, float)
        (width, height) of the rectangle in level-0 px.
    origin : (float, float)
        Its corner (x, y) in level-0 px.
    """

    shape: tuple[int, int]
    size: tuple[float, float]
    origin: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of_grid(cls, grid: CellGrid) -> MaskExtent:
        """Extent of a raster that knows its pixels; the last ones may reach past the slide's edge."""
        return cls(grid.shape, (grid.cols * grid.cell_px, grid.rows * grid.cell_px), grid.origin)

    @property
    def step(self) -> tuple[float, float]:
        """Level-0 px per pixel of the mask, across and down."""
        return self.size[0] / self.shape[1], self.size[1] / self.shape[0]

    def rows_at(self, y: Floats) -> NDArray[np.int64]:
        """Rows of the mask under positions in level-0 px, the nearest ones where they lie off the mask."""
        return _index(y - self.origin[1], self.size[1], self.shape[0])

    def cols_at(self, x: Floats) -> NDArray[np.int64]:
        """Columns, as `rows_at`."""
        return _index(x - self.origin[0], self.size[0], self.shape[1])

    def on_slide(self, slide_size: tuple[float, float]) -> NDArray[np.bool_]:
        """Pixels, (rows, cols), whose centre lies on a slide of (width, height) level-0 px."""
        across, down = (
            start + (np.arange(count) + 0.5) * step < size
            for start, count, step, size in zip(self.origin, self.shape[::-1], self.step, slide_size, strict=True)
        )
        return np.logical_and.outer(down, across)


def _index(position: Floats, extent: float, size: int) -> NDArray[np.int64]:
    return np.asarray(np.clip(np.floor(position * size / extent), 0, size - 1), dtype=np.int64)


def mask_extent(
    path: Path | None, shape: tuple[int, ...], slide_size: tuple[float, float], *, slack_px: float = 0.0
) -> MaskExtent:
    """Extent of a mask: its own where it is one of ours, which knows it; all of the slide for others.

    Parameters
    ----------
    path : Path or None
        The mask; None: one of others.
    shape : (int, int)
        Its (rows, cols).
    slide_size : (float, float)
        (width, height) of the slide in level-0 px.
    slack_px : float
        How far `slide_size` may be off, where it was told by the cells of a map.

    Raises
    ------
    AnnotationError
        A mask of ours covers another area than the slide, or one of others has not its proportions.
    """
    (width, height), (rows, cols) = slide_size, shape
    info = None if path is None else own_raster_info(path)
    if info is None:
        extent, told = MaskExtent((rows, cols), slide_size), f"is {cols} x {rows} px"
        agrees = abs(cols * height / (rows * width) - 1) <= _PROPORTIONS
    else:
        extent = MaskExtent.of_grid(info.grid)
        told = f"covers {extent.size[0]:g} x {extent.size[1]:g} px"
        slack = info.grid.cell_px + slack_px
        agrees = all(
            abs(start + own - side) <= max(slack, side * _PROPORTIONS)
            for start, own, side in zip(extent.origin, extent.size, slide_size, strict=True)
        )
    if not agrees:
        problem = f"{told}, its slide {width:g} x {height:g} px"
        raise AnnotationError(problem, path=path, remedy="a mask covers the whole slide")
    return extent


def check_single_class(path: Path | None) -> None:
    """Refuse a mask of ours that tells several classes apart where one target and the rest are asked for.

    Raises
    ------
    AnnotationError
        It does.
    """
    info = None if path is None else own_raster_info(path)
    if info is not None and info.classes:
        names = ", ".join(of.name for of in info.classes)
        remedy = "give a mask of one class"
        raise AnnotationError(f"holds the classes {names}, not one target and the rest", path=path, remedy=remedy)


def report_beside(path: Path, key: str) -> Mapping[str, Any]:
    """Read the report that `predict` or `segment` wrote beside a raster of slide `key`; empty where there is none."""
    report = path.with_name(f"{key}.report.json")
    return read_json(report) if report.is_file() else {}


def known_slide_size(grid: CellGrid, report: Mapping[str, Any]) -> tuple[float, float]:
    """(width, height) of the slide of a raster of ours, level-0 px.

    Parameters
    ----------
    grid : CellGrid
        Pixels of the raster.
    report : mapping
        The report beside it. One that does not tell the size (or none: empty) leaves the least that the raster covers:
        its last row and column begin on the slide.
    """
    least = (math.floor((count - 1) * grid.cell_px) + 1 for count in (grid.cols, grid.rows))
    width, height = report.get("size_px") or least
    return float(width), float(height)
