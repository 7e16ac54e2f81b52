"""HALO `.annotations`: layers of polygons, rectangles, ellipses, pins and rulers; negative regions are holes."""

from __future__ import annotations

from pathlib import Path

from wsipipe.annotations.layers import DrawnShape, ShapeKind, bgr_color, layer_marks, vertices
from wsipipe.annotations.marks import Marks, merged
from wsipipe.annotations.xmltree import XmlNode
from wsipipe.errors import AnnotationError


def is_halo(root: XmlNode) -> bool:
    """Whether a tree under "Annotations" is HALO's: its vertices are called V, its types have names."""
    return any(node.tag == "V" or (node.tag == "Region" and node.get("Type").isalpha()) for node in root)


def parse_halo(root: XmlNode, *, path: Path) -> Marks:
    """Read the marks of a HALO file.

    Parameters
    ----------
    root : XmlNode
        Element "Annotations".
    path : Path
        Named in errors.

    Returns
    -------
    Marks
        In level-0 px; the class is the name of the layer.

    Raises
    ------
    AnnotationError
        A region has an unknown type or a coordinate that is none; the message names the line.
    """
    return merged(
        layer_marks(
            [_shape(node, path) for holder in layer.every("Regions") for node in holder.every("Region")],
            class_name=layer.get("Name") or None,
            color=bgr_color(layer.get("LineColor")),
        )
        for layer in root.every("Annotation")
    )


def _shape(node: XmlNode, path: Path) -> DrawnShape:
    kinds: dict[str, ShapeKind] = {
        "polygon": "outline",
        "rectangle": "rectangle",
        "ellipse": "ellipse",
        "pin": "points",
        "point": "points",
        "ruler": "line",
        "line": "line",
        "arrow": "line",
    }
    name = node.get("Type").lower()
    if name not in kinds:
        raise AnnotationError(f"line {node.line}: unknown type of region {node.get('Type')!r}", path=path)
    found = [item for holder in node.every("Vertices") for item in holder.every("V")]
    return DrawnShape(kinds[name], vertices(found, path=path), negative=node.get("NegativeROA") == "1", name=name)
