"""Shapes of XML annotation files, whatever program wrote them, as marks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon

from wsipipe.annotations.marks import Marks, PointMark, as_number, checked_xy
from wsipipe.annotations.outlines import cut_holes, ellipse, outline, rectangle
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.annotations.xmltree import XmlNode

ShapeKind = Literal["outline", "rectangle", "ellipse", "points", "line"]


@dataclass(frozen=True, eq=False)
class DrawnShape:
    """A shape as it was drawn.

    Parameters
    ----------
    kind : str
        What the vertices mean; "line" is a ruler, an arrow or another thing without area, named by `name`.
    xy : (n, 2) float64 array
        Vertices (x, y) in level-0 px.
    negative : bool
        Whether it is cut out of the regions of its layer that it lies in.
    name : str
        What the program calls the kind.
    """

    kind: ShapeKind
    xy: NDArray[np.float64]
    negative: bool = False
    name: str = ""


def layer_marks(
    shapes: Sequence[DrawnShape], *, class_name: str | None, color: tuple[int, int, int] | None = None
) -> Marks:
    """Points and regions of one class; holes cut, and what has no area counted as ignored."""
    ignored: Counter[str] = Counter(shape.name for shape in shapes if shape.kind == "line")
    clicked = [shape for shape in shapes if shape.kind == "points"]
    drawn = [(shape, _area(shape)) for shape in shapes if shape.kind not in ("line", "points")]
    ignored["outline without area"] += sum(area is None for _, area in drawn)
    areas = [area for shape, area in drawn if area is not None and not shape.negative]
    negatives = [area for shape, area in drawn if area is not None and shape.negative]
    left, unused = cut_holes(areas, negatives)
    ignored["negative region outside every region"] += unused
    return Marks(
        points=tuple(PointMark(x, y, class_name) for shape in clicked for x, y in shape.xy.tolist()),
        regions=tuple(OutlinedRegion(area, class_name, color) for area in left if area is not None),
        ignored={name: count for name, count in ignored.items() if count},
    )


def vertices(nodes: Sequence[XmlNode], *, path: Path) -> NDArray[np.float64]:
    """Coordinates (x, y) of elements with attributes X and Y, (n, 2) float64."""
    xy = np.array([_vertex(node, path) for node in nodes], dtype=np.float64).reshape(-1, 2)
    return checked_xy(xy, where=f"line {nodes[0].line}" if nodes else "", path=path)


def bgr_color(text: str) -> tuple[int, int, int] | None:
    """RGB of a Windows colour number, blue in the high byte (255 is red); None where it is none."""
    try:
        number = int(text) & 0xFFFFFF
    except ValueError:
        return None
    return number & 0xFF, number >> 8 & 0xFF, number >> 16


def _vertex(node: XmlNode, path: Path) -> tuple[float, float]:
    where = f"line {node.line}"
    x, y = (as_number(node.attributes.get(name), where=f"{where}: {name}", path=path) for name in "XY")
    return x, y


def _area(shape: DrawnShape) -> Polygon | MultiPolygon | None:
    builders = {"rectangle": rectangle, "ellipse": ellipse}
    return builders.get(shape.kind, outline)(shape.xy)
