"""What the writers of regions share: the check of a region, its colour, and its figures as columns of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from wsipipe.annotations.classes import class_color
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import StoreError


def check_region(region: OutlinedRegion, number: int, *, path: Path) -> None:
    """Refuse a region without extent.

    Raises
    ------
    StoreError
        It is empty, or a coordinate is not finite.
    """
    if region.geometry.is_empty or not np.isfinite(region.geometry.bounds).all():
        raise StoreError(f"region {number} is empty or not finite, bounds {region.geometry.bounds}", path=path)


def region_color(region: OutlinedRegion) -> tuple[int, int, int]:
    """RGB of a region: its own, or that of its class."""
    return region.color or class_color(region.class_name)


def color_text(region: OutlinedRegion) -> str:
    """Colour of a region as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*region_color(region))


def measurement_columns(regions: Iterable[OutlinedRegion]) -> dict[str, str]:
    """Columns for the measurements of regions, by the names of those: {"Area um^2": "area_um2"}."""
    names = dict.fromkeys(name for region in regions for name in region.measurements)
    return {name: re.sub(r"\W+", "_", name.replace("^", "")).strip("_").lower() for name in names}
