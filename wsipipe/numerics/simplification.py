"""Outlines with fewer corners, simplified together so that neighbours keep their common points."""

from __future__ import annotations

from collections.abc import Sequence

import shapely
from shapely.geometry import Polygon

from wsipipe.errors import NumericsError


def simplify_outlines(polygons: Sequence[Polygon], tolerance_px: float) -> list[Polygon]:
    """Drop the corners that matter least.

    Parameters
    ----------
    polygons : sequence of Polygon
        Those of `outline_mask`: they do not overlap, and touch at common corners only. In level-0 px.
    tolerance_px : float
        A corner goes where the triangle that it makes with its neighbours is smaller than the square of this, in
        level-0 px; 0 changes nothing. From the side of a mask's pixel on, stairs become slopes.

    Returns
    -------
    list of Polygon
        As many, in order, each valid and with all of its holes. Where two polygons, or two rings of one, touched,
        they touch still, and nowhere do they overlap.

    Raises
    ------
    NumericsError
        The tolerance is negative, or the polygons overlap.

    References
    ----------
    Visvalingam and Whyatt 1993, "Line generalisation by repeated elimination of points", in the variant of GEOS that
    keeps the topology of a coverage (`shapely.coverage_simplify`).
    """
    if tolerance_px < 0:
        raise NumericsError(f"the tolerance of a simplification is not negative, got {tolerance_px:g} px")
    if tolerance_px == 0 or not polygons:
        return list(polygons)
    simple = shapely.coverage_simplify(list(polygons), tolerance_px)
    if not (shapely.is_valid(simple).all() and (shapely.get_type_id(simple) == shapely.GeometryType.POLYGON).all()):
        raise NumericsError("the outlines overlap and cannot be simplified together")
    return list(simple)
