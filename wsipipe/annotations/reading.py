"""Points and regions from files of any known format, told apart by content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Literal

import numpy as np
import shapely

from wsipipe.annotations.aperio import parse_aperio
from wsipipe.annotations.asap import parse_asap
from wsipipe.annotations.classes import ClassList, ClassMap, Color, describe_classes
from wsipipe.annotations.files import decode, read_content
from wsipipe.annotations.halo import is_halo, parse_halo
from wsipipe.annotations.marks import Marks, PointMark
from wsipipe.annotations.points import PointSet
from wsipipe.annotations.qupath import parse_qupath
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.annotations.table import parse_table
from wsipipe.annotations.xmltree import parse_xml
from wsipipe.errors import AnnotationError

_FORMATS = "QuPath GeoJSON, ASAP or ImageScope XML, HALO .annotations, or CSV with x, y, label"
_LEVEL_0 = (0.0, 0.0)
_IMAGES = (b"\x89PNG", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+", b"\xff\xd8\xff")


def read_marks(path: str | Path, *, offset: tuple[float, float] = _LEVEL_0) -> Marks:
    """Everything a file holds, in level-0 px of the slide.

    Parameters
    ----------
    path : path-like
        QuPath GeoJSON (plain or gzip), ASAP XML, ImageScope XML, HALO .annotations or a table; the content decides,
        not the name.
    offset : (float, float)
        Corner (x, y) of the slide's bounds in level-0 px, to which QuPath crops: added to what QuPath wrote (GeoJSON,
        and its own point tables). Other programs do not crop, so their files are not moved; and a GeoJSON file that
        says itself which frame it is in (ours do) is moved by what it says instead.

    Raises
    ------
    AnnotationError
        The file cannot be read, is of none of these formats, is broken (the message says where), or says another
        offset than `offset`, which then belongs to another slide.
    """
    path = Path(path)
    marks = _parse(read_content(path), path)
    return _moved(marks, _offset_to_add(marks, offset, path))


def read_points(
    path: str | Path,
    *,
    classes: ClassMap | ClassList | None = None,
    offset: tuple[float, float] = _LEVEL_0,
    polygons: Literal["ignore", "error"] = "ignore",
    slide: str | None = None,
) -> PointSet:
    """Read in-target and out-of-target points, or points of several classes.

    Parameters
    ----------
    path, offset
        See `read_marks`.
    classes : ClassMap or ClassList, optional
        Which classes are in-target and out-of-target, or are told from each other; without it the defaults of
        `ClassMap`. Points of other classes are left out.
    polygons : str
        What to do about polygons in the file: "ignore" leaves them out, "error" refuses the file.
    slide : str, optional
        Key (stem) of the slide: from a table of several slides, take the points of this one.

    Returns
    -------
    PointSet
        In level-0 px, in the order of the file. `notes` says what was left out and why.

    Raises
    ------
    AnnotationError
        As `read_marks`; or there are no points, or none of a class in question (the message lists the classes
        found), or points of several slides and none is asked for.
    """
    path, marks = Path(path), read_marks(path, offset=offset)
    if marks.regions and polygons == "error":
        raise AnnotationError(f"holds {len(marks.regions)} polygons beside points", path=path)
    if not marks.points:
        raise _no_points(marks, path)
    points = _of_slide(marks.points, slide, path)
    classes = classes or ClassMap()
    labels = _labels(points, classes, path)
    if all(label is None for label in labels):
        raise _no_match(points, classes, path)
    read = _point_set(points, labels, marks, classes, path)
    return _of_several(read, marks, classes) if isinstance(classes, ClassList) else read


def read_regions(path: str | Path, *, offset: tuple[float, float] = _LEVEL_0) -> list[OutlinedRegion]:
    """Read polygons with their classes, holes as interior rings, in level-0 px; see `read_marks`.

    A file without any polygon gives an empty list: a slide on which nothing was outlined.
    """
    return list(read_marks(path, offset=offset).regions)


def _parse(data: bytes, path: Path) -> Marks:
    if data.startswith(_IMAGES):
        raise AnnotationError("is a picture, not annotations", path=path, remedy=f"give {_FORMATS}")
    head = decode(data[:4096] if data[:2] not in (b"\xff\xfe", b"\xfe\xff") else data, path=path).lstrip(
        "\ufeff \t\r\n"
    )
    if head.startswith("<"):
        return _parse_xml(data, path)
    text = decode(data, path=path)
    return parse_qupath(text, path=path) if head.startswith(("{", "[")) else parse_table(text, path=path)


def _parse_xml(data: bytes, path: Path) -> Marks:
    root = parse_xml(data, path=path)
    if root.tag == "ASAP_Annotations":
        return replace(parse_asap(root, path=path), frame_offset=_LEVEL_0)
    if root.tag != "Annotations":
        raise AnnotationError(f"is XML of an unknown kind, <{root.tag}>", path=path, remedy=f"give {_FORMATS}")
    marks = parse_halo(root, path=path) if is_halo(root) else parse_aperio(root, path=path)
    return replace(marks, frame_offset=_LEVEL_0)


def _offset_to_add(marks: Marks, offset: tuple[float, float], path: Path) -> tuple[float, float]:
    own = marks.frame_offset
    if own is None:
        return offset
    if own != _LEVEL_0 and offset != _LEVEL_0 and not np.allclose(own, offset, atol=0.01):
        raise AnnotationError(
            f"was written for a slide whose bounds start at {own} px, not at {offset} px",
            path=path,
            remedy="it may belong to another slide",
        )
    return own


def _moved(marks: Marks, offset: tuple[float, float]) -> Marks:
    if offset == _LEVEL_0:
        return marks
    points = tuple(point._replace(x=point.x + offset[0], y=point.y + offset[1]) for point in marks.points)
    regions = tuple(
        replace(region, geometry=shapely.transform(region.geometry, lambda xy: xy + np.asarray(offset)))
        for region in marks.regions
    )
    return replace(marks, points=points, regions=regions)


def _of_slide(points: tuple[PointMark, ...], slide: str | None, path: Path) -> tuple[PointMark, ...]:
    named = {point.slide: stem_of(point.slide) for point in points if point.slide}
    if not named or (slide is None and len(named) == 1):
        return points
    listed = ", ".join(sorted(named)[:5]) + (" ..." if len(named) > 5 else "")
    if slide is None:
        raise AnnotationError(f"holds points of {len(named)} slides: {listed}", path=path, remedy="say which slide")
    kept = tuple(point for point in points if point.slide and stem_of(point.slide) == stem_of(slide))
    if not kept:
        raise AnnotationError(f"holds no points of slide {slide!r}, but of {listed}", path=path)
    return kept


def stem_of(name: str) -> str:
    """Key of a slide from a name or path as annotation files give it, with or without suffix, in lower case."""
    base = PureWindowsPath(name.strip()).name
    known = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".dcm", ".png", ".jpg", ".jpeg", ".czi")
    while PureWindowsPath(base).suffix.lower() in (*known, ".ome"):
        base = PureWindowsPath(base).stem
    return base.casefold()


def _labels(points: tuple[PointMark, ...], classes: ClassMap | ClassList, path: Path) -> list[int | None]:
    try:
        by_name = {name: classes.label_of(name) for name in {point.class_name for point in points}}
    except AnnotationError as error:
        raise AnnotationError(error.problem, path=path, remedy=error.remedy) from error
    return [by_name[point.class_name] for point in points]


def _point_set(
    points: tuple[PointMark, ...],
    labels: list[int | None],
    marks: Marks,
    classes: ClassMap | ClassList,
    path: Path,
) -> PointSet:
    """Points that have a label, with notes about all that is left out."""
    keep = np.array([label is not None for label in labels])
    everything = PointSet(
        xy=np.array([point[:2] for point in points], dtype=np.float64).reshape(-1, 2),
        label=np.array([-1 if label is None else label for label in labels], dtype=np.int64),
        class_names=tuple(point.class_name or "" for point in points),
        source=path,
        notes=_notes(marks, [point for point, label in zip(points, labels, strict=True) if label is None], classes),
        slides=tuple(dict.fromkeys(point.slide for point in points if point.slide)) or marks.slides,
    )
    return everything.subset(keep)


def _of_several(read: PointSet, marks: Marks, classes: ClassList) -> PointSet:
    """Add the names of the classes, and the colour that the first point of each has in the file."""
    colors: dict[int, Color] = {}
    for name, label in zip(read.class_names, read.label.tolist(), strict=True):
        if name in marks.colors:
            colors.setdefault(label, marks.colors[name])
    return replace(read, classes=classes.names, colors=colors)


def _no_points(marks: Marks, path: Path) -> AnnotationError:
    counts = {"polygons": len(marks.regions), **marks.ignored}
    found = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
    return AnnotationError(
        "holds no points" + (f", but {found}" if found else ""),
        path=path,
        remedy="click points, with QuPath's Points tool for instance, and give them classes",
    )


def _no_match(points: tuple[PointMark, ...], classes: ClassMap | ClassList, path: Path) -> AnnotationError:
    found = describe_classes(point.class_name for point in points)
    return AnnotationError(f"no point is of {classes.sought}; classes found: {found}", path=path, remedy=classes.remedy)


def _notes(marks: Marks, left_out: list[PointMark], classes: ClassMap | ClassList) -> tuple[str, ...]:
    notes = []
    if left_out:
        found = describe_classes(point.class_name for point in left_out)
        notes.append(f"left out, {classes.unsought}: points of {found}")
    if marks.regions:
        notes.append(f"left out: {len(marks.regions)} polygons")
    notes += [f"left out: {name} ({count})" for name, count in marks.ignored.items()]
    return tuple(notes)
