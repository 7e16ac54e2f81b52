"""Which slides a command is asked to work on: files, folders and tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsipipe.errors import SlideError
from wsipipe.slides.dicom import dicom_files

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".btf", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi",
    ".png", ".jpg", ".jpeg", ".bmp",
)  # fmt: skip
# Ends of names that say more about the kind of file than about the slide.
_DOUBLE_SUFFIXES = (".ome.tif", ".ome.tiff", ".ome.btf")
# What this program writes beside slides is no slide.
_OUTPUTS = (".mask.tif", ".mask.ome.tif", ".probability.tif", ".overlay.png")


@dataclass(frozen=True)
class SlideEntry:
    """One slide of a batch.

    Parameters
    ----------
    key : str
        Stem of the slide's name, which names its outputs.
    path : Path
        The slide.
    mpp : float or None
        um per level-0 px where the user says so; None: as the file says.
    """

    key: str
    path: Path
    mpp: float | None = None


def list_slides(inputs: Sequence[str | Path], *, slide_mpp: float | None = None) -> list[SlideEntry]:
    """Slides among files, folders and CSV tables, in the order given.

    Parameters
    ----------
    inputs : sequence of path-like
        Slide files, taken as they are (whether they exist shows when they are opened, so that one missing file
        does not stop the others); folders, searched for known suffixes, where one of DICOM files is one slide;
        CSV files with a column `wsi` and maybe `mpp`, or CLAM's `slide_id` and `process` (0: left out), with paths
        relative to the CSV.
    slide_mpp : float, optional
        um per level-0 px of all slides for which no table says otherwise.

    Raises
    ------
    SlideError
        No slides at all, a table that cannot be used, a name that is no text, or two slides with one key.
    """
    entries = [entry for given in inputs for entry in _expand(Path(given), slide_mpp)]
    if not entries:
        told = ", ".join(str(given) for given in inputs) or "nothing"
        raise SlideError(f"no slides found in {told}", remedy=f"known suffixes: {' '.join(SLIDE_SUFFIXES)}")
    return _unique(entries)


def slide_key(path: Path) -> str:
    """Stem of a slide's name, double suffixes like .ome.tif stripped."""
    name = path.resolve().name if path.name in ("", "..") else path.name
    if path.is_dir():
        return name
    double = next((suffix for suffix in _DOUBLE_SUFFIXES if name.lower().endswith(suffix)), None)
    return name[: -len(double)] if double else Path(name).stem


def keys_beside(path: Path) -> list[str]:
    """Keys of the slides in the folder of a slide, itself among them."""
    return [slide_key(file) for file in _folder(path.resolve().parent)]


def find_slide(place: Path, key: str) -> Path:
    """Slide of a key: the file itself, or the one in a folder that has this stem; or the folder, where it is a slide.

    Raises
    ------
    SlideError
        The folder holds no such slide.
    """
    if not place.is_dir():
        return place
    found = [entry.path for entry in list_slides([place]) if entry.key == key]
    if not found and dicom_files(place):
        return place
    if not found:
        raise SlideError(f"holds no slide {key}", path=place)
    return found[0]


def _expand(path: Path, mpp: float | None) -> Iterable[SlideEntry]:
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return _table(path, mpp)
    files = _folder(path) if path.is_dir() else [path]
    return (SlideEntry(slide_key(file), file, mpp) for file in files)


def _folder(folder: Path) -> list[Path]:
    try:
        found = [file for file in folder.iterdir() if not file.name.startswith(".") and _is_slide(file)]
        return sorted([folder, *found] if dicom_files(folder) else found)
    except OSError as error:
        raise SlideError(f"cannot be listed: {error.strerror}", path=error.filename or folder) from error


def _is_slide(path: Path) -> bool:
    if path.is_dir():
        return bool(dicom_files(path))
    name = path.name.lower()
    return name.endswith(SLIDE_SUFFIXES) and not name.endswith(_OUTPUTS)


def _table(path: Path, mpp: float | None) -> Iterator[SlideEntry]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            rows = [(table.line_num, row) for row in table]
            columns = table.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SlideError(f"cannot be read: {error}", path=path) from error
    column = next((name for name in ("wsi", "slide_id") if name in columns), None)
    if column is None:
        raise SlideError(
            f"has the columns {', '.join(columns) or 'none'}", path=path, remedy="a table of slides needs a column wsi"
        )
    for line, row in rows:
        name = (row[column] or "").strip()
        if name and _number(row.get("process"), "process", path=path, line=line) != 0:
            slide = _beside(path.parent / name)
            stated = _number(row.get("mpp"), "mpp", path=path, line=line)
            yield SlideEntry(slide_key(slide), slide, mpp if stated is None else stated)


def _beside(path: Path) -> Path:
    """Complete a name without suffix, as CLAM's tables have them, where just one known suffix fits."""
    if path.exists():
        return path
    found = [other for suffix in SLIDE_SUFFIXES if (other := path.with_name(path.name + suffix)).exists()]
    return found[0] if len(found) == 1 else path


def _number(text: str | None, column: str, *, path: Path, line: int) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise SlideError(f"line {line}: {column} is {text.strip()!r}, not a number", path=path) from None


def _check_name(entry: SlideEntry) -> None:
    """Keys name files and stand in them: they must be text."""
    try:
        entry.key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SlideError(f"has a name that is not UTF-8: {entry.key!r}", remedy="rename the file") from error


def _unique(entries: list[SlideEntry]) -> list[SlideEntry]:
    """Drop repetitions of one file; refuse two files with one key."""
    kept: dict[str, SlideEntry] = {}
    for entry in entries:
        _check_name(entry)
        other = kept.setdefault(entry.key, entry)
        if other.path.resolve() != entry.path.resolve():
            raise SlideError(
                f"{other.path} and {entry.path} would both write outputs called {entry.key!r}",
                remedy="rename one of them",
            )
    return list(kept.values())
