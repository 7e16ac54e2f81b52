"""The manifest of a training run: which slides, which points, and what belongs together."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from wsipipe.errors import ConfigError
from wsipipe.slides.listing import slide_key

Split = Literal["train", "val", "test"]

_REQUIRED = ("slide", "points")
_OPTIONAL = ("mask", "patient", "split", "mpp")


@dataclass(frozen=True)
class ManifestRow:
    """One slide or image of a training run.

    Parameters
    ----------
    key : str
        Stem of the slide's file name; names what is made from it.
    slide : Path
        The slide or image, or a feature map (.h5) that stands for its slide.
    points : Path
        Its points, in any format of `annotations.reading`.
    mask : Path or None
        Reference mask covering the slide, not zero in target; any resolution.
    patient : str
        Slides of one patient stay on one side of a split; the key where the manifest names none.
    split : str or None
        "train", "val" or "test"; None where the split is drawn.
    mpp : float or None
        Resolution of level 0 in um per px, for slides that do not say it themselves.
    """

    key: str
    slide: Path
    points: Path
    mask: Path | None
    patient: str
    split: Split | None
    mpp: float | None


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Read and check a manifest, a CSV with the columns `slide,points[,mask,patient,split,mpp]`.

    Parameters
    ----------
    path : Path
        The CSV, UTF-8; paths in it are relative to its folder.

    Returns
    -------
    tuple of ManifestRow
        In the order of the file.

    Raises
    ------
    ConfigError
        The file cannot be read or lacks a column, a row lacks a value, names a file that is not there, an unknown
        split or an impossible mpp, two slides share a stem, or only some rows have a split; the line is named.
    """
    rows = tuple(_row(record, path=path, line=line) for line, record in _read_csv(path))
    if not rows:
        raise ConfigError("lists no slides", path=path, remedy="add a line per slide below the header")
    refuse_namesakes(((row.key, row.slide) for row in rows), path)
    _check_splits(rows, path)
    return rows


def _read_csv(path: Path) -> Sequence[tuple[int, Mapping[str, str]]]:
    """Rows with the lines that they end on: blank ones are not rows."""
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark in front.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            _check_columns(columns, path)
            reader.fieldnames = columns
            return [(reader.line_num, _stripped(record, path, reader.line_num)) for record in reader]
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=path, remedy="check the manifest's path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"is no CSV: {error}", path=path, remedy="save it as CSV in UTF-8") from error


def _check_columns(columns: Sequence[str], path: Path) -> None:
    allowed = ",".join(_REQUIRED) + "[," + ",".join(_OPTIONAL) + "]"
    remedy = f"the header of a manifest is {allowed}"
    if missing := [name for name in _REQUIRED if name not in columns]:
        raise ConfigError(
            f"lacks the column {missing[0]!r}, has {', '.join(columns) or 'none'}", path=path, remedy=remedy
        )
    if unknown := [name for name in columns if name not in (*_REQUIRED, *_OPTIONAL)]:
        raise ConfigError(f"has an unknown column {unknown[0]!r}", path=path, remedy=remedy)
    if len(set(columns)) < len(columns):
        raise ConfigError(f"has a column twice: {', '.join(columns)}", path=path, remedy=remedy)


def _stripped(record: Mapping[str | None, str | list[str] | None], path: Path, line: int) -> dict[str, str]:
    # DictReader puts cells beyond the header under the key None.
    if None in record:
        raise ConfigError(f"line {line} has more cells than the header", path=path, remedy="quote names with commas")
    return {str(name): str(value or "").strip() for name, value in record.items()}


def _row(record: Mapping[str, str], *, path: Path, line: int) -> ManifestRow:
    for name in _REQUIRED:
        if not record[name]:
            raise ConfigError(f"line {line} has no {name}", path=path, remedy="every slide needs its points")
    slide = listed_file(record["slide"], path=path, line=line)
    key = slide_key(slide)
    return ManifestRow(
        key=key,
        slide=slide,
        points=listed_file(record["points"], path=path, line=line),
        mask=listed_file(record["mask"], path=path, line=line) if record.get("mask") else None,
        patient=record.get("patient") or key,
        split=_split(record.get("split", ""), path=path, line=line),
        mpp=listed_mpp(record.get("mpp", ""), path=path, line=line),
    )


def listed_file(name: str, *, path: Path, line: int) -> Path:
    """File or folder that a line of the manifest at `path` names, relative to it; ConfigError where there is none."""
    file = path.parent / name
    # A DICOM slide is a folder of files.
    if not file.exists():
        raise ConfigError(
            f"line {line}: no such file {name!r}", path=path, remedy=f"paths are relative to {path.parent.resolve()}"
        )
    return file


def _split(value: str, *, path: Path, line: int) -> Split | None:
    if not value:
        return None
    if value not in get_args(Split):
        raise ConfigError(f"line {line}: unknown split {value!r}", path=path, remedy="use train, val or test")
    return cast("Split", value)


def listed_mpp(value: str, *, path: Path, line: int) -> float | None:
    """Resolution in a line of the manifest at `path`, um per px; None where it says nothing; ConfigError for others."""
    if not value:
        return None
    try:
        mpp = float(value)
    except ValueError:
        mpp = math.nan
    if not 0 < mpp < math.inf:
        raise ConfigError(f"line {line}: mpp {value!r} is no resolution", path=path, remedy="give um per px, like 0.5")
    return mpp


def refuse_namesakes(slides: Iterable[tuple[str, Path]], path: Path) -> None:
    """Refuse slides, as (key, file), of which two share a key."""
    seen: dict[str, Path] = {}
    for key, slide in slides:
        if key in seen:
            raise ConfigError(
                f"two slides share the name {key!r}: {seen[key]} and {slide}",
                path=path,
                remedy="rename one; results are named after the slide's stem",
            )
        seen[key] = slide


def _check_splits(rows: Sequence[ManifestRow], path: Path) -> None:
    given = [row.split for row in rows]
    if any(given) and not all(given):
        row = rows[given.index(None)]
        raise ConfigError(
            f"{row.key} has no split but others have", path=path, remedy="fill the column or leave it out"
        )
    if any(given) and not {"train", "val"} <= set(given):
        raise ConfigError(
            f"the split column holds only {', '.join(sorted({str(name) for name in given}))}",
            path=path,
            remedy="mark at least one slide train and one val, or leave the column out",
        )
