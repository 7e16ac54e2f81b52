"""A picture of the slide with regions drawn over it, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsipipe.annotations.classes import class_color
from wsipipe.annotations.points import IN_TARGET, PointSet
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.geometry import Region
from wsipipe.slides import MppView, SlideReader

_LONG_SIDE_PX = 2048
_FILL = 70  # of 255: the tissue stays readable under the fill


def slide_picture(reader: SlideReader, *, long_side_px: int = _LONG_SIDE_PX) -> tuple[Image.Image, float]:
    """Whole slide as a picture of about `long_side_px`, and level-0 px per picture px; read piece by piece."""
    view = MppView(reader, None, scale=max(1.0, max(reader.dimensions) / long_side_px))
    return Image.fromarray(view.read(Region(0, 0, view.width, view.height))), view.scale


def draw_overlay(
    reader: SlideReader, regions: Iterable[OutlinedRegion], *, points: PointSet | None = None
) -> NDArray[np.uint8]:
    """Slide with filled, outlined regions and, if given, the points.

    Parameters
    ----------
    regions : iterable of OutlinedRegion
        In level-0 px; holes stay free.
    points : PointSet, optional
        In-target drawn red, out-of-target blue.

    Returns
    -------
    (h, w, 3) uint8 array
        At most about 2048 px on the long side.
    """
    image, scale = slide_picture(reader)
    fill = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(fill)
    width = max(2, image.width // 700)
    # Large ones first: what lies in the hole of a region must be drawn after that hole is cut.
    for region in sorted(regions, key=lambda region: -region.geometry.envelope.area):
        _draw_region(draw, region, scale, width)
    if points is not None:
        _draw_points(draw, points, scale, radius=max(5, image.width // 200))
    return np.asarray(Image.alpha_composite(image.convert("RGBA"), fill).convert("RGB"))


def _draw_region(draw: ImageDraw.ImageDraw, region: OutlinedRegion, scale: float, width: int) -> None:
    color = region.color or class_color(region.class_name)
    for polygon in getattr(region.geometry, "geoms", [region.geometry]):
        rings = [[(x / scale, y / scale) for x, y in ring.coords] for ring in (polygon.exterior, *polygon.interiors)]
        draw.polygon(rings[0], fill=(*color, _FILL))
        for hole in rings[1:]:
            draw.polygon(hole, fill=(0, 0, 0, 0))
        for ring in rings:
            draw.line(ring, fill=(*color, 255), width=width)


def _draw_points(draw: ImageDraw.ImageDraw, points: PointSet, scale: float, radius: int) -> None:
    for (x, y), label in zip(points.xy / scale, points.label, strict=True):
        color = (220, 0, 0, 255) if label == IN_TARGET else (0, 70, 220, 255)
        box: Sequence[float] = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=color, outline=(255, 255, 255, 255), width=max(1, radius // 4))
