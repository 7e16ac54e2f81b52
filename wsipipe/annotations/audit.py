"""Checks of points before anything is learned from them.

Pure functions on level-0 coordinates: `audit_points`, `audit_tissue` and `audit_source` give findings to print,
`check_points` and `refuse` are the gate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsipipe.annotations.classes import describe_classes
from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET, PointSet
from wsipipe.annotations.reading import stem_of
from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing seen in a set of points.

    Parameters
    ----------
    kind : str
        "empty", "one class", "outside", "contradiction", "duplicate", "off tissue" or "other slide".
    severity : str
        "error" makes the points unusable; "warning" deserves a look; "note" is for the record.
    message : str
        One line with the values.
    indices : tuple of int
        The points concerned, as indices into the set.
    remedy : str
        What the user can do.
    """

    kind: str
    severity: Severity
    message: str
    indices: tuple[int, ...] = ()
    remedy: str = ""


def check_points(
    points: PointSet,
    *,
    width: int,
    height: int,
    source: str | Path | None = None,
    allow_one_class: bool = False,
    min_distance_px: float = 1.0,
    grid: CellGrid | None = None,
) -> PointSet:
    """Pass on points that can be used: the gate before training and segmentation.

    Parameters
    ----------
    points, width, height, allow_one_class, min_distance_px, grid
        See `audit_points`.
    source : path-like, optional
        File named in errors; `points.source` where it is left out.

    Returns
    -------
    PointSet
        The points less exact duplicates, with a note about them.

    Raises
    ------
    AnnotationError
        The first finding of severity "error" (with the number of further ones).
    """
    findings = audit_points(
        points,
        width=width,
        height=height,
        allow_one_class=allow_one_class,
        min_distance_px=min_distance_px,
        grid=grid,
    )
    refuse(findings, source=source or points.source)
    return without_duplicates(points)


def refuse(findings: Iterable[Finding], *, source: str | Path | None = None) -> None:
    """Raise the first finding of severity "error", if there is one.

    Raises
    ------
    AnnotationError
        With the message of the finding, `source` in front, and the number of further errors.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f"; and {len(errors) - 1} more: {errors[1].kind}" if len(errors) > 1 else ""
        raise AnnotationError(errors[0].message + more, path=source, remedy=errors[0].remedy or None)


def audit_points(
    points: PointSet,
    *,
    width: int,
    height: int,
    allow_one_class: bool = False,
    min_distance_px: float = 1.0,
    grid: CellGrid | None = None,
) -> list[Finding]:
    """Look for points that cannot be right.

    Parameters
    ----------
    points : PointSet
        In level-0 px.
    width, height : int
        Size of the slide in level-0 px.
    allow_one_class : bool
        Whether points of one class alone will do.
    min_distance_px : float
        An in-target and an out-of-target point this close, in level-0 px, contradict each other.
    grid : CellGrid, optional
        Map on which the points will be used: two classes in one cell contradict each other too.

    Returns
    -------
    list of Finding
        In the order in which they are worth telling; empty where all is well.
    """
    if not len(points):
        return [Finding("empty", "error", "holds no points", remedy="click some points")]
    checks = (
        _outside(points, width, height),
        None if allow_one_class else _one_class(points),
        _contradictions(points, min_distance_px, grid),
        _duplicates(points),
    )
    return [finding for finding in checks if finding is not None]


def points_off_tissue(
    points: PointSet, mask: NDArray[np.bool_], grid: CellGrid, *, tolerance_cells: int = 1
) -> NDArray[np.int64]:
    """Which points lie off the tissue.

    Parameters
    ----------
    points : PointSet
        In level-0 px.
    mask : (rows, cols) bool array
        Tissue.
    grid : CellGrid
        Where the cells of `mask` lie.
    tolerance_cells : int
        A point counts as on the tissue where there is some within this many cells: the outline of the tissue is no
        sharper than that.

    Returns
    -------
    (k,) int64 array
        Indices into `points`, ascending.
    """
    cells = grid.cells_of(points.xy)
    # Cells far outside are moved to a frame of empty cells around the mask, so that one look-up serves all.
    margin = tolerance_cells + 1
    framed = np.pad(mask, margin)
    rows, cols = (np.clip(cells + margin, 0, np.array(framed.shape) - 1)).T
    near = np.zeros(len(points), dtype=bool)
    for down in range(-tolerance_cells, tolerance_cells + 1):
        for right in range(-tolerance_cells, tolerance_cells + 1):
            row, col = rows + down, cols + right
            known = (row >= 0) & (col >= 0) & (row < framed.shape[0]) & (col < framed.shape[1])
            near[known] |= framed[row[known], col[known]]
    return np.flatnonzero(~near).astype(np.int64)


def audit_tissue(
    points: PointSet, mask: NDArray[np.bool_], grid: CellGrid, *, tolerance_cells: int = 1
) -> list[Finding]:
    """Look for points off the tissue (see `points_off_tissue`): in-target an error, out-of-target a note.

    Glass is background, so out-of-target points may lie there.
    """
    off = points_off_tissue(points, mask, grid, tolerance_cells=tolerance_cells)
    inside, outside = (off[points.label[off] == label] for label in (IN_TARGET, OUT_OF_TARGET))
    found = []
    if len(inside):
        text = (
            f"{len(inside)} of {len(points.in_target)} in-target points lie off the tissue: {_listed(points, inside)}"
        )
        found.append(Finding("off tissue", "error", text, _indices(inside), _OTHER_SLIDE))
    if len(outside):
        text = f"{len(outside)} out-of-target points lie on glass, off the tissue"
        found.append(Finding("off tissue", "note", text, _indices(outside)))
    return found


def audit_source(
    path: str | Path, slide_key: str, *, slides: Sequence[str] = (), other_keys: Iterable[str] = ()
) -> list[Finding]:
    """Look whether a points file belongs to another slide.

    Parameters
    ----------
    path : path-like
        The points file; only its name is looked at.
    slide_key : str
        Key (stem) of the slide.
    slides : sequence of str
        Slides that the file names inside (`PointSet.slides`).
    other_keys : iterable of str
        Keys of the other slides of the project.

    Returns
    -------
    list of Finding
        "error" where the file names another slide inside, or its name is exactly that of another slide of the
        project; "warning" where its name only contains the key of another slide, and not of this one.
    """
    own, stem = stem_of(slide_key), _points_stem(Path(path))
    inside = {stem_of(name) for name in slides}
    if inside and own not in inside:
        text = f"was made on {', '.join(repr(name) for name in slides[:3])}, not on slide {slide_key!r}"
        return [Finding("other slide", "error", text, remedy="give the points file of this slide")]
    if _holds(stem, own):
        return []
    others = [key for key in other_keys if stem_of(key) != own and _holds(stem, stem_of(key))]
    if not others:
        return []
    longest = max(others, key=len)
    exact = stem == stem_of(longest)
    text = f"by its name belongs to slide {longest!r}, not to {slide_key!r}"
    remedy = "give the points file of this slide, or rename it"
    return [Finding("other slide", "error" if exact else "warning", text, remedy=remedy)]


def check_source(
    path: str | Path, slide_key: str, *, slides: Sequence[str] = (), other_keys: Iterable[str] = ()
) -> list[Finding]:
    """Refuse a points file of another slide; the warnings of `audit_source` come back.

    Raises
    ------
    AnnotationError
        The file names another slide inside, or bears the name of another slide of the project.
    """
    findings = audit_source(path, slide_key, slides=slides, other_keys=other_keys)
    refuse(findings, source=path)
    return findings


def without_duplicates(points: PointSet) -> PointSet:
    """Points less those that repeat an earlier one of the same label exactly, with a note where there were any."""
    repeats = _repeats(points)
    if not len(repeats):
        return points
    kept = points.subset(~np.isin(np.arange(len(points)), repeats))
    return replace(kept, notes=(*kept.notes, f"left out: exact duplicates ({len(repeats)})"))


_OTHER_SLIDE = "the file may belong to another slide, or be in another frame: try --no-crop"


def _outside(points: PointSet, width: int, height: int) -> Finding | None:
    x, y = points.xy.T
    index = np.flatnonzero((x < 0) | (y < 0) | (x >= width) | (y >= height))
    if not len(index):
        return None
    text = (
        f"{len(index)} of {len(points)} points lie outside the slide of {width} x {height} px: "
        f"{_listed(points, index, limit=1)}"
    )
    return Finding("outside", "error", text, _indices(index), _OTHER_SLIDE)


def _one_class(points: PointSet) -> Finding | None:
    if len(points.in_target) and len(points.out_of_target):
        return None
    has, lacks = ("in-target", "out-of-target") if len(points.in_target) else ("out-of-target", "in-target")
    text = f"holds {has} points only, no {lacks} ones; classes: {describe_classes(points.class_names)}"
    left_out = next((note for note in points.notes if "points of" in note), "")
    flag = "--negative" if lacks == "out-of-target" else "--positive"
    remedy = f"click {lacks} points too, or name their class with {flag}"
    return Finding("one class", "error", "; ".join(filter(None, (text, left_out))), remedy=remedy)


def _contradictions(points: PointSet, min_distance_px: float, grid: CellGrid | None) -> Finding | None:
    pairs: list[tuple[int, int]] = []
    for label in range(1, max(points.labels) + 1):  # of several classes, each with those before it
        inside, outside = np.flatnonzero(points.label == label), np.flatnonzero(points.label < label)
        if len(inside) and len(outside):
            pairs += _close_pairs(points, inside, outside, min_distance_px)
            if grid is not None:
                pairs += _same_cell(grid.nearest_cells(points.xy), inside, outside)
    if not pairs:
        return None
    kind, other = ("in-target points", "an out-of-target point")
    if points.classes:
        kind, other = "points", "one of another class"
    first, second = pairs[0]
    index = np.unique(np.array(pairs))
    text = (
        f"{len(set(pairs))} {kind} lie on the spot of {other}, the first at "
        f"{_place(points, first)} and {_place(points, second)}"
    )
    return Finding("contradiction", "error", text, _indices(index), "remove one of each two")


def _close_pairs(
    points: PointSet, inside: NDArray[np.intp], outside: NDArray[np.intp], distance: float
) -> list[tuple[int, int]]:
    gaps, nearest = cKDTree(points.xy[outside]).query(points.xy[inside])
    near = np.flatnonzero(gaps <= distance)
    return [(int(inside[i]), int(outside[nearest[i]])) for i in near]


def _same_cell(cells: NDArray[np.int64], inside: NDArray[np.intp], outside: NDArray[np.intp]) -> list[tuple[int, int]]:
    taken = {tuple(cells[i].tolist()): int(i) for i in outside}
    return [(int(i), taken[cell]) for i in inside if (cell := tuple(cells[i].tolist())) in taken]


def _duplicates(points: PointSet) -> Finding | None:
    index = _repeats(points)
    if not len(index):
        return None
    text = f"{len(index)} points repeat another one exactly, the first at {_place(points, int(index[0]))}"
    return Finding("duplicate", "note", text, _indices(index))


def _repeats(points: PointSet) -> NDArray[np.int64]:
    """Find the points that repeat an earlier one with the same label."""
    rows = np.column_stack([points.xy, points.label])
    _, first = np.unique(rows, axis=0, return_index=True)
    return np.setdiff1d(np.arange(len(points)), first).astype(np.int64)


def _points_stem(path: Path) -> str:
    stem = re.sub(r"\.(gz|geojson|json|xml|annotations|csv|tsv|txt)\b", "", path.name, flags=re.IGNORECASE)
    return stem_of(stem)


def _holds(stem: str, key: str) -> bool:
    """Whether a key stands in a name as a word of its own: "points_a-1" holds "a-1" but not "a"..."""
    return re.search(rf"(?<![0-9a-z]){re.escape(key)}(?![0-9a-z])", stem) is not None


def _listed(points: PointSet, index: NDArray[np.int64] | NDArray[np.intp], *, limit: int = 3) -> str:
    places = ", ".join(_place(points, int(i)) for i in index[:limit])
    return places if limit == 1 or len(index) <= limit else f"{places}, ..."


def _place(points: PointSet, i: int) -> str:
    x, y = points.xy[i].tolist()
    return f"({x:.1f}, {y:.1f}) {points.class_names[i]!r}"


def _indices(index: NDArray[np.int64] | NDArray[np.intp]) -> tuple[int, ...]:
    return tuple(int(i) for i in index)
