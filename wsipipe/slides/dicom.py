"""Files of a DICOM slide: one slide is a series of files in one folder."""

from __future__ import annotations

import struct
from pathlib import Path

from wsipipe.errors import SlideError

# Tag (0020,000E) Series Instance UID, explicit little-endian: group, element, value representation (PS3.5, 7.1.2).
_SERIES_TAG = b"\x20\x00\x0e\x00UI"
_HEADER_BYTES = 1 << 16


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM prefix at byte 128 (PS3.10, 7.1)."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def dicom_files(folder: Path) -> list[Path]:
    """List the `.dcm` files of a folder, sorted; hidden ones left out."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ".dcm" and not file.name.startswith("."))


def series_uid(path: Path) -> str | None:
    """Series Instance UID of a DICOM file; None where its header has none."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    found = header.find(_SERIES_TAG)
    if found < 0 or len(header) < found + 8:
        return None
    (length,) = struct.unpack_from("<H", header, found + 6)
    return header[found + 8 : found + 8 + length].decode("ascii", "replace").strip("\x00 ")


def series_files(path: Path) -> list[Path]:
    """All files of the slide that a folder or one of its DICOM files stands for, sorted.

    Raises
    ------
    SlideError
        A folder without DICOM files, or with those of several slides.
    """
    if not path.is_dir():
        uid = series_uid(path)
        return [file for file in dicom_files(path.parent) if file == path or series_uid(file) == uid] or [path]
    files = dicom_files(path)
    if not files:
        raise SlideError("is a folder without DICOM files", path=path, remedy="give a slide file")
    series = {series_uid(file) for file in files}
    if len(series) > 1:
        raise SlideError(f"holds {len(series)} DICOM series", path=path, remedy="give one file of the series you mean")
    return files


def main_file(path: Path) -> Path:
    """Find the file to hand to a library: the slide itself, or the first of a DICOM folder."""
    return series_files(path)[0] if path.is_dir() else path
