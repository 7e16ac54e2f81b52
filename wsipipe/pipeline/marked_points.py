"""The points of a slide that a command segments from: which file they are in, and whether they can be meant."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from wsipipe.annotations.audit import audit_points, audit_source, audit_tissue, refuse, without_duplicates
from wsipipe.annotations.points import IN_TARGET, PointSet
from wsipipe.annotations.reading import read_marks
from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.tissue import Tissue

DEFAULT_TARGET = "Tumor"
_POINT_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".xml", ".annotations", ".csv")


def check_one_file_each(points: Path, keys: Sequence[str]) -> None:
    """Refuse one file of clicks for several slides, unless its points say themselves which slide they are on.

    Raises
    ------
    AnnotationError
        Several slides, and a file whose points name none.
    """
    if len(keys) > 1 and not points.is_dir() and not any(point.slide for point in read_marks(points).points):
        raise AnnotationError(
            f"is one file of points for {len(keys)} slides",
            path=points,
            remedy="give a folder with a file per slide, named like the slides",
        )


def points_file(points: Path, key: str) -> Path:
    """Points of a slide: the file itself, or the one in a folder that has the slide's name.

    Raises
    ------
    AnnotationError
        The folder holds none, or several.
    """
    if not points.is_dir():
        return points
    found = [file for suffix in _POINT_SUFFIXES if (file := points / f"{key}{suffix}").is_file()]
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise AnnotationError(
            f"holds {names} for slide {key}, needs one", path=points, remedy=f"name the points {key}.geojson"
        )
    return found[0]


def usable_points(
    points: PointSet,
    key: str,
    *,
    size: tuple[int, int],
    tissue: Tissue,
    grid: CellGrid,
    other_keys: Iterable[str] = (),
) -> PointSet:
    """Refuse points that cannot be meant; drop those that say nothing new.

    Parameters
    ----------
    points : PointSet
        In level-0 px.
    key : str
        Of the slide.
    size : (int, int)
        (width, height) of the slide in level-0 px.
    tissue : Tissue
        Where in-target points can lie.
    grid : CellGrid
        Map on which the points are used.
    other_keys : iterable of str
        Other slides that the points might belong to.

    Raises
    ------
    AnnotationError
        Of another slide, outside the slide, in-target points off the tissue, one class only, two classes on a cell.
    """
    findings = [
        *audit_source(points.source or "", key, slides=points.slides, other_keys=other_keys),
        *audit_points(points, width=size[0], height=size[1], grid=grid),
        *audit_tissue(points, tissue.mask, tissue.grid),
    ]
    refuse(findings, source=points.source)
    for finding in findings:
        warnings.warn(f"{key}: {finding.message}", UserWarning, stacklevel=2)
    return without_duplicates(points)


def target_class(points: PointSet) -> str:
    """Name of what is segmented: the class of the in-target points where they have one, "Tumor" where several."""
    names = {name for name, label in zip(points.class_names, points.label.tolist(), strict=True) if label == IN_TARGET}
    # Tables say "1" for in target, which is no name.
    return name if len(names) == 1 and (name := names.pop().strip()) != "1" else DEFAULT_TARGET


def class_told(points: PointSet) -> dict[str, str]:
    """Name of the target for a report's provenance; none for "Tumor", which every report without it means."""
    name = target_class(points)
    return {} if name == DEFAULT_TARGET else {"class": name}


def points_told(points: PointSet) -> list[list[float]]:
    """Points as [x, y, label], by which a report knows them again."""
    return [[*xy, label] for xy, label in zip(points.xy.tolist(), points.label.tolist(), strict=True)]
