"""The regions of a mask with their figures: one for every component, as every writer takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Polygon

from wsipipe.annotations.classes import Color
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.geometry import CellGrid
from wsipipe.numerics.polygons import outline_mask
from wsipipe.numerics.region_means import region_means
from wsipipe.numerics.simplification import simplify_outlines


class Bands(Protocol):
    """Rows of a raster in bands, top to bottom, that can be read as often as somebody needs them."""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Bands (n, cols)."""
        ...


def regions_of(
    mask: Bands,
    grid: CellGrid,
    *,
    class_name: str,
    color: Color | None = None,
    mpp: float | None,
    probability: Iterable[NDArray[np.uint8]] | None = None,
    simplify_px: float = 0.0,
) -> list[OutlinedRegion]:
    """Outline every component of a mask and measure it.

    Parameters
    ----------
    mask : Bands
        What is not zero is inside.
    grid : CellGrid
        Pixels of the mask over the slide.
    class_name : str
        Of the regions.
    color : (int, int, int), optional
        RGB of the regions; by default writers choose it by the class.
    mpp : float or None
        um per level-0 px; None: areas are told in level-0 px.
    probability : iterable of (n, cols) uint8 arrays, optional
        round(255 p) in bands of the same heights as the mask's.
    simplify_px : float
        See `simplify_outlines`, in level-0 px.

    Returns
    -------
    list of OutlinedRegion
        In level-0 px, with "Area um^2" (or "Area px^2") and, where there is a probability, "Mean probability": both of
        the component as the mask has it, however its outline is simplified.

    Raises
    ------
    NumericsError
        Mask, probability and grid do not fit.
    """
    exact = outline_mask(iter(mask), grid)
    measured = [_area(polygon, mpp) for polygon in exact]
    if probability is not None:
        means, _ = region_means(zip(mask, probability, strict=True))
        measured = [
            area | {"Mean probability": mean / 255} for area, mean in zip(measured, means.tolist(), strict=True)
        ]
    outlines = simplify_outlines(exact, simplify_px)
    return [
        OutlinedRegion(outline, class_name, color, figures) for outline, figures in zip(outlines, measured, strict=True)
    ]


def _area(polygon: Polygon, mpp: float | None) -> dict[str, float]:
    return {"Area px^2": polygon.area} if mpp is None else {"Area um^2": polygon.area * mpp**2}
