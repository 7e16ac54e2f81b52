"""Outlined regions of one slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shapely.geometry import MultiPolygon, Polygon


@dataclass(frozen=True)
class OutlinedRegion:
    """A polygon with a class.

    Parameters
    ----------
    geometry : Polygon or MultiPolygon
        In level-0 px, holes as interior rings.
    class_name : str or None
        Class as the file has it.
    color : (int, int, int) or None
        RGB; None lets the writer choose by class.
    measurements : mapping of str to float
        Figures to show beside the region ("Area mm^2").
    """

    geometry: Polygon | MultiPolygon
    class_name: str | None = None
    color: tuple[int, int, int] | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
