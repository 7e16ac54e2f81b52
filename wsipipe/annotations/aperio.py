"""Aperio ImageScope XML: layers of regions; negative regions are holes.

Region types: 0 freehand or polygon, 1 rectangle, 2 ellipse, 3 arrow, 4 ruler, 5 points of the counter. A region of one
vertex is a click whatever its type says.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from wsipipe.annotations.layers import DrawnShape, ShapeKind, bgr_color, layer_marks, vertices
from wsipipe.annotations.marks import Marks, merged
from wsipipe.annotations.xmltree import XmlNode
from wsipipe.errors import AnnotationError


def parse_aperio(root: XmlNode, *, path: Path) -> Marks:
    """Read the marks of an ImageScope file.

    Parameters
    ----------
    root : XmlNode
        Element "Annotations".
    path : Path
        Named in errors.

    Returns
    -------
    Marks
        In level-0 px. The class is the name of the layer; without one, its description; without that, the text of
        the region.

    Raises
    ------
    AnnotationError
        A region has an unknown type or a coordinate that is none; the message names the line.
    """
    return merged(part for layer in root.every("Annotation") for part in _layer(layer, path))


def _layer(layer: XmlNode, path: Path) -> list[Marks]:
    regions = [region for holder in layer.every("Regions") for region in holder.every("Region")]
    by_class: dict[str | None, list[XmlNode]] = {}
    for region in regions:
        by_class.setdefault(_layer_name(layer) or region.get("Text") or None, []).append(region)
    color = bgr_color(layer.get("LineColor"))
    slides = tuple(dict.fromkeys(name for name in map(_slide, [layer, *regions]) if name))
    parts = [
        layer_marks([_shape(node, path) for node in nodes], class_name=name, color=color)
        for name, nodes in by_class.items()
    ]
    return [*parts, Marks(slides=slides)]


def _layer_name(layer: XmlNode) -> str:
    described = [
        item.get("Value")
        for holder in layer.every("Attributes")
        for item in holder.every("Attribute")
        if item.get("Name").lower() in ("description", "name", "class")
    ]
    return layer.get("Name") or next(filter(None, described), "")


def _slide(node: XmlNode) -> str:
    """Name of the slide that a layer or a region was drawn on; ImageScope writes Windows paths."""
    return PureWindowsPath(node.get("ImageLocation") or node.get("MarkupImagePath")).name


def _shape(node: XmlNode, path: Path) -> DrawnShape:
    kinds: dict[str, tuple[ShapeKind, str]] = {
        "0": ("outline", "outline"),
        "1": ("rectangle", "rectangle"),
        "2": ("ellipse", "ellipse"),
        "3": ("line", "arrow"),
        "4": ("line", "ruler"),
        "5": ("points", "points"),
    }
    number = node.get("Type", "0")
    if number not in kinds:
        raise AnnotationError(f"line {node.line}: unknown type of region {number!r}", path=path)
    found = [item for holder in node.every("Vertices") for item in holder.every("Vertex")]
    kind, name = kinds[number]
    if len(found) == 1 or node.get("GeoShape").lower() == "points":
        kind = "points"
    return DrawnShape(kind, vertices(found, path=path), negative=node.get("NegativeROA") == "1", name=name)
