"""ASAP XML (also that of Camelyon): Dot, PointSet, Polygon, Spline, Rectangle; groups are classes.

Source: ASAP's `annotation/XmlRepository.cpp` and `Annotation.cpp`. ASAP's own masks fill a spline along straight lines
between its points, and so does this reader.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from wsipipe.annotations.layers import DrawnShape, ShapeKind, layer_marks, vertices
from wsipipe.annotations.marks import Marks, merged
from wsipipe.annotations.xmltree import XmlNode
from wsipipe.errors import AnnotationError

_LONGEST_ORDER = 20  # digits


def parse_asap(root: XmlNode, *, path: Path) -> Marks:
    """Read the marks of an ASAP file.

    Parameters
    ----------
    root : XmlNode
        Element "ASAP_Annotations".
    path : Path
        Named in errors.

    Returns
    -------
    Marks
        In level-0 px. The class is the group; without a group, the annotation's own name unless ASAP made it up
        ("Annotation 3").

    Raises
    ------
    AnnotationError
        An annotation has an unknown type or a coordinate that is none; the message names the line.
    """
    return merged(
        layer_marks([_shape(node, path)], class_name=_class_name(node), color=_color(node.get("Color")))
        for holder in root.every("Annotations")
        for node in holder.every("Annotation")
    )


def _shape(node: XmlNode, path: Path) -> DrawnShape:
    kinds: dict[str, ShapeKind] = {
        "Dot": "points",
        "PointSet": "points",
        "Polygon": "outline",
        "Spline": "outline",
        "Rectangle": "rectangle",
        "Measurement": "line",
        "None": "line",
    }
    name = node.get("Type")
    if name not in kinds:
        raise AnnotationError(f"line {node.line}: unknown type of annotation {name!r}", path=path)
    found = [item for holder in node.every("Coordinates") for item in holder.every("Coordinate")]
    ordered = sorted(found, key=partial(_order, path=path))
    return DrawnShape(kinds[name], vertices(ordered, path=path), name=name.lower())


def _order(node: XmlNode, *, path: Path) -> int:
    text = node.get("Order")
    if not text.isdecimal():
        return 0
    if len(text) > _LONGEST_ORDER:
        raise AnnotationError(f"line {node.line}: an Order of {len(text)} digits is none", path=path)
    return int(text)


def _class_name(node: XmlNode) -> str | None:
    group, own = node.get("PartOfGroup"), node.get("Name")
    if group and group != "None":
        return group
    return own if own and not re.fullmatch(r"Annotation \d+", own) else None


def _color(text: str) -> tuple[int, int, int] | None:
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", text):
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
