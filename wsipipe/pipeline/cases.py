"""Slides with reference masks: the rows of a manifest that a comparison of methods works on, points or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsipipe.errors import ConfigError, StoreError
from wsipipe.pipeline.manifest import listed_file, listed_mpp, refuse_namesakes
from wsipipe.slides import SlideEntry
from wsipipe.slides.listing import slide_key
from wsipipe.store.tables import read_csv_lines

_COLUMNS = ("slide", "mask", "patient", "points", "mpp", "split")


@dataclass(frozen=True)
class Case:
    """One slide or image whose truth is known.

    Parameters
    ----------
    key : str
        Stem of the slide's file name.
    slide, mask : Path
        The slide, and its reference mask: covers the slide, not zero in target, any resolution.
    patient : str
        Slides of one patient stay in one fold; the key where the manifest names none.
    points : Path or None
        Points of the manifest; None where they are to be drawn from the mask.
    mpp : float or None
        um per level-0 px, for slides that do not say it themselves.
    split : str
        What the manifest says there; "" where nothing. Comparisons read it over: folds take its place.
    """

    key: str
    slide: Path
    mask: Path
    patient: str
    points: Path | None = None
    mpp: float | None = None
    split: str = ""

    def entry(self, slide_mpp: float | None) -> SlideEntry:
        """Give the slide; `slide_mpp` (um per px) holds where the manifest has no resolution."""
        return SlideEntry(self.key, self.slide, slide_mpp if self.mpp is None else self.mpp)


def read_cases(path: Path) -> tuple[Case, ...]:
    """Read a manifest as `train` does, but one with a mask in every row: `slide,mask[,patient,points,mpp,split]`.

    Parameters
    ----------
    path : Path
        The CSV, UTF-8; paths in it are relative to its folder. The column `split` does not count.

    Returns
    -------
    tuple of Case
        In the order of the file.

    Raises
    ------
    ConfigError
        The file cannot be read, lacks the column slide or mask or has an unknown one, a row has no mask or names a
        file that is not there, only some rows have points, or two slides share a stem; the line is named.
    """
    cases = tuple(_case(row, path=path, line=line) for line, row in _rows(path))
    if not cases:
        raise ConfigError("lists no slides", path=path, remedy="add a line per slide below the header")
    _check(cases, path)
    return cases


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    header = f"its header is slide,mask[,{','.join(_COLUMNS[2:])}]"
    try:
        found = read_csv_lines(path)
    except StoreError as error:
        raise ConfigError(error.problem, path=path, remedy=error.remedy or "check the manifest's path") from error
    rows = [(line, {name.strip(): value.strip() for name, value in row.items()}) for line, row in found]
    names = list(rows[0][1]) if rows else []
    if rows and (missing := [name for name in ("slide", "mask") if name not in names]):
        problem = f"lacks the column {missing[0]!r}, has {', '.join(names)}"
        raise ConfigError(problem, path=path, remedy=f"methods are compared with reference masks; {header}")
    if unknown := [name for name in names if name not in _COLUMNS]:
        raise ConfigError(f"has an unknown column {unknown[0]!r}", path=path, remedy=header)
    return rows


def _case(row: Mapping[str, str], *, path: Path, line: int) -> Case:
    for name in ("slide", "mask"):
        if not row[name]:
            raise ConfigError(f"line {line} has no {name}", path=path, remedy="methods are compared with masks")
    # A DICOM slide is a folder of files.
    slide = listed_file(row["slide"], path=path, line=line)
    mask, points = (_file(row.get(name, ""), path=path, line=line) for name in ("mask", "points"))
    key = slide_key(slide)
    assert mask is not None  # a row without one is refused above
    mpp = listed_mpp(row.get("mpp", ""), path=path, line=line)
    return Case(key, slide, mask, row.get("patient") or key, points, mpp, row.get("split", ""))


def _file(name: str, *, path: Path, line: int) -> Path | None:
    if not name:
        return None
    file = listed_file(name, path=path, line=line)
    if file.is_dir():
        raise ConfigError(f"line {line}: {name!r} is a folder", path=path, remedy="give the file")
    return file


def _check(cases: Sequence[Case], path: Path) -> None:
    refuse_namesakes(((case.key, case.slide) for case in cases), path)
    without = [case.key for case in cases if case.points is None]
    if 0 < len(without) < len(cases):
        remedy = "fill the column, or leave it out and points are drawn from the masks"
        raise ConfigError(f"{without[0]} has no points but others have", path=path, remedy=remedy)
