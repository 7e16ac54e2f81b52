"""Recognise a slide by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from wsipipe.errors import SlideError
from wsipipe.slides.dicom import is_dicom, series_files

_WHOLE_BYTES = 4 << 20
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


def slide_identity(path: str | Path) -> str:
    """Digest of the content of a slide: all of its files, by size and sampled blocks.

    Files up to 4 MiB count whole; of larger ones, 64 blocks of 64 KiB from the first byte to the last. Names and
    places do not count, so that a moved or renamed slide is recognised.

    Parameters
    ----------
    path : path-like
        A slide file; one DICOM file stands for its series, a `.mrxs` for its folder too.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    SlideError
        A file is missing or cannot be read.
    """
    path = Path(path)
    try:
        digests = sorted(_file_digest(file) for file in slide_files(path))
    except OSError as error:
        raise SlideError(f"cannot be read: {error.strerror}", path=path) from error
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def slide_files(path: str | Path) -> list[Path]:
    """All files of a slide: its own, and those that belong to it.

    Parameters
    ----------
    path : path-like
        A slide file; one DICOM file or a folder of them stands for its series, a `.mrxs` for its folder too.

    Raises
    ------
    SlideError
        A folder that is no DICOM series.
    """
    path = Path(path)
    if path.is_dir() or is_dicom(path):
        return series_files(path)
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        return [path, *(file for file in path.with_suffix("").iterdir() if file.is_file())]
    return [path]


def _file_digest(path: Path) -> bytes:
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=32)
    with path.open("rb") as file:
        for start, length in _spans(size):
            file.seek(start)
            digest.update(file.read(length))
    return digest.digest()


def _spans(size: int) -> Iterator[tuple[int, int]]:
    if size <= _WHOLE_BYTES:
        yield 0, size
        return
    for i in range(_SAMPLES):
        yield i * (size - _SAMPLE_BYTES) // (_SAMPLES - 1), _SAMPLE_BYTES
