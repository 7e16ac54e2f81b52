"""Whether a TIFF file is all there: libraries drop the levels behind a cut without a word.

Walks the image file directories (TIFF 6.0, section 2; BigTIFF likewise with 8-byte offsets) and checks that
everything they point to lies inside the file. Pixels are not decoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import SlideError

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS, _SUB_IFDS, _NDPI = 273, 279, 324, 325, 330, 65420
_CLASSIC_LIMIT = 1 << 32


@dataclass(frozen=True)
class _Layout:
    """Byte order and field widths of a TIFF file."""

    order: str
    big: bool
    size: int

    @property
    def offset(self) -> str:
        return f"{self.order}{'Q' if self.big else 'I'}"

    @property
    def entries(self) -> str:
        return f"{self.order}{'Q' if self.big else 'H'}"

    @property
    def entry_bytes(self) -> int:
        return 20 if self.big else 12

    @property
    def inline_bytes(self) -> int:
        return 8 if self.big else 4


class _Cut(Exception):
    """Something lies behind the end of the file; holds the byte that would be needed."""

    def __init__(self, needed: int) -> None:
        self.needed = needed


def check_tiff(path: Path) -> None:
    """Check that directories, tag values and pixel data lie inside a TIFF file.

    Raises
    ------
    SlideError
        The file is cut off.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            _walk(file, size)
    except _Cut as cut:
        raise SlideError(
            f"is cut off: its directory points to byte {cut.needed}, the file has {size}",
            path=path,
            remedy="copy the file again",
        ) from None


def _walk(file: BinaryIO, size: int) -> None:
    head = _bytes(file, 0, 8, size)
    layout = _Layout("<" if head[:2] == b"II" else ">", head[2:4] in (b"+\x00", b"\x00+"), size)
    start = 8 if layout.big else 4
    if not layout.big and size >= _CLASSIC_LIMIT:
        return  # Hamamatsu's own 64-bit extension of classic TIFF: offsets cannot be taken at their word
    waiting = [_one(file, start, layout.offset, size)]
    seen: set[int] = set()
    while waiting:
        offset = waiting.pop()
        if offset and offset not in seen:
            seen.add(offset)
            waiting += _directory(file, offset, layout)


def _directory(file: BinaryIO, offset: int, layout: _Layout) -> list[int]:
    """Check one directory; offsets of the next one and of sub-directories."""
    count = _one(file, offset, layout.entries, layout.size)
    start = offset + struct.calcsize(layout.entries)
    table = _bytes(file, start, count * layout.entry_bytes, layout.size)
    values: dict[int, NDArray[np.uint64]] = {}
    for at in range(0, len(table), layout.entry_bytes):
        tag, value = _entry(file, table[at : at + layout.entry_bytes], layout)
        values[tag] = value
    _check_data(values, _STRIP_OFFSETS, _STRIP_COUNTS, layout.size)
    _check_data(values, _TILE_OFFSETS, _TILE_COUNTS, layout.size)
    if _NDPI in values:
        # Hamamatsu's pointer to the next directory has 8 bytes; upper halves of all values, 4 bytes each, follow it.
        _bytes(file, start + len(table), 8 + 4 * count, layout.size)
    following = _one(file, start + len(table), layout.offset, layout.size)
    return [following, *(int(offset) for offset in values.get(_SUB_IFDS, ()))]


def _entry(file: BinaryIO, entry: bytes, layout: _Layout) -> tuple[int, NDArray[np.uint64]]:
    """Tag number and, for the tags that hold integers, values of one directory entry."""
    tag, kind, count = struct.unpack_from(f"{layout.order}HH{layout.offset[1]}", entry)
    length = _TYPE_BYTES.get(kind, 1) * count
    field = entry[-layout.inline_bytes :]
    nothing = np.zeros(0, np.uint64)
    wanted = tag in (_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS, _SUB_IFDS) and kind in _INTEGERS
    if length > layout.inline_bytes:
        (offset,) = struct.unpack(layout.offset, field)
        if offset + length > layout.size:
            raise _Cut(offset + length)
        data = _bytes(file, offset, length, layout.size) if wanted else b""
    else:
        data = field[:length]
    return tag, np.frombuffer(data, layout.order + _INTEGERS[kind]).astype(np.uint64) if wanted else nothing


def _check_data(values: dict[int, NDArray[np.uint64]], offsets: int, counts: int, size: int) -> None:
    starts, lengths = values.get(offsets), values.get(counts)
    if starts is None or lengths is None or len(starts) != len(lengths) or not len(starts):
        return
    # Tiles of no bytes were never scanned: sparse slides have many.
    needed = int(np.max(np.where(lengths > 0, starts + lengths, 0)))
    if needed > size:
        raise _Cut(needed)


def _one(file: BinaryIO, offset: int, layout: str, size: int) -> int:
    return int(struct.unpack(layout, _bytes(file, offset, struct.calcsize(layout), size))[0])


def _bytes(file: BinaryIO, offset: int, length: int, size: int) -> bytes:
    if offset + length > size:
        raise _Cut(offset + length)
    file.seek(offset)
    return file.read(length)
