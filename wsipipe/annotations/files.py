"""Bytes and text of annotation files, with limits."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from wsipipe.errors import AnnotationError

MAX_BYTES = 1 << 30
_GZIP = b"\x1f\x8b"


def read_content(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a file, unpacked where it is gzip whatever its name.

    Raises
    ------
    AnnotationError
        The file cannot be read, is empty, is larger (unpacked) than `max_bytes`, or is damaged gzip.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AnnotationError(f"is a damaged gzip file: {error}", path=path) from error
    except OSError as error:
        raise AnnotationError(f"cannot be read: {error.strerror or error}", path=path) from error
    if len(data) > max_bytes:
        raise AnnotationError(f"holds more than {max_bytes / 2**20:g} MiB", path=path, remedy="export fewer objects")
    if not data.strip():
        raise AnnotationError("is empty", path=path)
    return data


def decode(data: bytes, *, path: Path) -> str:
    """Text of a file: UTF-8, UTF-16 with its mark, else Latin-1 (Windows exports with accents in class names).

    Raises
    ------
    AnnotationError
        The file is no text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    if "\x00" in text or "\ufffd" in text:
        raise AnnotationError("is no text file", path=path, remedy="give GeoJSON, XML, .annotations or CSV")
    return text
