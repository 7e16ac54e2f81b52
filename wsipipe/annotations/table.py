"""Tables of points: CSV with x, y and label, and QuPath's own point tables (tab-separated)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsipipe.annotations.marks import Marks, PointMark, as_number, checked_xy
from wsipipe.errors import AnnotationError

_NAMES = {
    "x": ("x", "x_px", "pos_x", "coord_x", "x_coord", "center_x", "centroid_x", "centroid_x_px"),
    "y": ("y", "y_px", "pos_y", "coord_y", "y_coord", "center_y", "centroid_y", "centroid_y_px"),
    "label": ("label", "class", "class_name", "classification", "category", "group", "name"),
    "slide": ("slide", "wsi", "slide_id", "image", "image_name", "slide_name"),
}
_REMEDY = "give a table with the columns x, y, label: level-0 px, and 1, 0 or a class name"


@dataclass(frozen=True)
class _Columns:
    x: int
    y: int
    labels: tuple[int, ...]
    slide: int | None = None


def parse_table(text: str, *, path: Path) -> Marks:
    """Read the marks of a table.

    Parameters
    ----------
    text : str
        Lines with comma, semicolon or tab between the cells (whichever the first line holds most). The first line
        names the columns, in any order and case; without names the columns are x, y, label. Lines that start
        with # are skipped. Next to semicolons and tabs, "12,5" is 12.5.
    path : Path
        Named in errors.

    Returns
    -------
    Marks
        Points in level-0 px (QuPath's own tables: in QuPath's frame). The class is the label as it stands; 1.0 and 0.0
        become "1" and "0". A column slide (or wsi, image) names the slide of each point.

    Raises
    ------
    AnnotationError
        A column is missing, coordinates are in um, or a cell is no number; the message names the line.
    """
    rows = list(_rows(text, path))
    if not rows:
        raise AnnotationError("holds no rows", path=path, remedy=_REMEDY)
    decimal_comma = _delimiter(text) != ","
    columns, body = _columns(rows, path)
    points = [_point(row, columns, f"line {line}", path, decimal_comma=decimal_comma) for line, row in body]
    slides = dict.fromkeys(point.slide for point in points if point.slide)
    offset = None if _is_qupath(rows[0][1]) else (0.0, 0.0)
    return Marks(points=tuple(points), slides=tuple(slides), frame_offset=offset)


def _is_qupath(head: Sequence[str]) -> bool:
    """Whether a table is QuPath's own export of points, which is in QuPath's frame."""
    return {"x", "y", "class", "name", "color"} <= {_plain(cell) for cell in head}


def _lines(text: str) -> list[str]:
    """Lines, comments blanked so that numbers of lines stay true."""
    return ["" if line.lstrip().startswith("#") else line for line in text.splitlines()]


def _delimiter(text: str) -> str:
    first = next((line for line in _lines(text) if line.strip()), "")
    return max(("\t", ";", ","), key=first.count)


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_lines(text), delimiter=_delimiter(text), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise AnnotationError(f"line {reader.line_num}: is no CSV: {error}", path=path, remedy=_REMEDY) from error


def _columns(rows: list[tuple[int, list[str]]], path: Path) -> tuple[_Columns, list[tuple[int, list[str]]]]:
    head = rows[0][1]
    if re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?", head[0], re.IGNORECASE):
        if len(head) != 3:
            raise AnnotationError(f"has {len(head)} columns and no names for them", path=path, remedy=_REMEDY)
        return _Columns(0, 1, (2,)), rows
    names = [_plain(cell) for cell in head]
    found = {role: [names.index(alias) for alias in aliases if alias in names] for role, aliases in _NAMES.items()}
    if not (found["x"] and found["y"] and found["label"]):
        raise _missing(names, head, path)
    slide = found["slide"][0] if found["slide"] else None
    return _Columns(found["x"][0], found["y"][0], tuple(found["label"]), slide), rows[1:]


def _missing(names: Sequence[str], head: Sequence[str], path: Path) -> AnnotationError:
    if any(re.fullmatch(r"(centroid_)?[xy]_um", name) for name in names):
        return AnnotationError("has coordinates in um", path=path, remedy="export them in pixels of the finest level")
    return AnnotationError(f"has the columns {', '.join(head)[:200]}", path=path, remedy=_REMEDY)


def _plain(name: str) -> str:
    """Fold a column name: "Centroid X um" becomes "centroid_x_um"."""
    text = name.casefold().replace("\u00b5", "u").replace("\u03bc", "u")
    return re.sub(r"\W+", "_", text).strip("_")


def _point(row: list[str], columns: _Columns, where: str, path: Path, *, decimal_comma: bool) -> PointMark:
    def cell(index: int) -> str:
        return row[index] if index < len(row) else ""

    xy = [as_number(cell(i), where=where, path=path, decimal_comma=decimal_comma) for i in (columns.x, columns.y)]
    checked_xy(np.array([xy]), where=where, path=path)
    label = next(filter(None, map(cell, columns.labels)), "")
    slide = cell(columns.slide) if columns.slide is not None else ""
    return PointMark(xy[0], xy[1], {"1.0": "1", "0.0": "0"}.get(label, label) or None, slide or None)
