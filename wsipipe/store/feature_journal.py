"""Unfinished feature maps: a journal of blocks that survives being killed at any moment.

HDF5 gives no promise for a file whose writer is killed: chunk indices may point to what was never written, and the
damage may go unnoticed. Blocks are therefore appended to a plain file, each with its checksum; a torn end is cut off
when the work goes on, and only a complete journal becomes an HDF5 file, in one go.

Layout: one line of JSON (type, version, block size, what the map says of itself), then for each block a header
(`_HEADER`: tag, block row, block column, number of valid cells, CRC-32 of what follows and these numbers), the bits of
`valid`, and the float16 vectors of the valid cells.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import StoreError
from wsipipe.store.atomic import writing
from wsipipe.store.feature_info import FILE_TYPE, FILE_VERSION, FeatureMapInfo, to_json

_HEADER = struct.Struct("<4sIIII")
_TAG = b"BLCK"


class Block(NamedTuple):
    """One block as the journal has it: place, (h, w) bool, and (number of valid cells, dim) float16."""

    i: int
    j: int
    valid: NDArray[np.bool_]
    vectors: NDArray[np.float16]


class Journal:
    """Append-only file of the blocks of one map.

    Parameters
    ----------
    path : Path
        File; gone on with where it tells the same map and block, begun anew otherwise.
    info : FeatureMapInfo
        The map.
    block : int
        Side of a block in cells.
    """

    def __init__(self, path: Path, info: FeatureMapInfo, *, block: int) -> None:
        self.path = path
        self._info = info
        self._block = block
        self._offsets: dict[tuple[int, int], int] = {}
        with writing(path):
            self._file = self._open()

    @property
    def done(self) -> frozenset[tuple[int, int]]:
        """Blocks (i, j) that are safely there."""
        return frozenset(self._offsets)

    @property
    def blocks_shape(self) -> tuple[int, int]:
        """Number of (rows, columns) of blocks."""
        return math.ceil(self._info.grid.rows / self._block), math.ceil(self._info.grid.cols / self._block)

    def slices(self, i: int, j: int) -> tuple[slice, slice]:
        """Rows and columns of the map that block (i, j) covers."""
        return self._info.grid.block(i, j, self._block)

    def append(self, block: Block) -> None:
        """Add a block; once this returns, it survives the process."""
        payload = np.packbits(block.valid).tobytes() + block.vectors.tobytes()
        numbers = (block.i, block.j, len(block.vectors))
        with writing(self.path):
            offset = self._file.seek(0, os.SEEK_END)
            self._write(_HEADER.pack(_TAG, *numbers, _checksum(numbers, payload)) + payload, offset)
        self._offsets[block.i, block.j] = offset

    def __iter__(self) -> Iterator[Block]:
        """Blocks in row order, read one at a time.

        Raises
        ------
        StoreError
            A block that was safely there can no longer be read.
        """
        for i, j in sorted(self._offsets):
            self._file.seek(self._offsets[i, j])
            block = self._next()
            if block is None or (block.i, block.j) != (i, j):
                remedy = "run it again: what follows the damage is computed anew"
                raise StoreError(f"the journal is damaged at block ({i}, {j})", path=self.path, remedy=remedy)
            yield block

    def close(self) -> None:
        """Close the file and keep it."""
        self._file.close()

    def _write(self, record: bytes, offset: int) -> None:
        left = memoryview(record)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            # Half a record would hide those that follow.
            self._file.truncate(offset)
            raise

    def _open(self) -> FileIO:
        head = self._head()
        if not self.path.exists() or not _starts_with(self.path, head):
            self.path.write_bytes(head)
        # Not buffered: what `append` has written survives the process.
        self._file = FileIO(self.path, "r+")
        self._file.seek(len(head))
        self._scan()
        return self._file

    def _head(self) -> bytes:
        told = {"type": f"{FILE_TYPE}.partial", "version": FILE_VERSION, "block": self._block}
        return (json.dumps(told | {"info": to_json(self._info)}) + "\n").encode()

    def _scan(self) -> None:
        """Collect whole blocks; cut off what a killed writer left half-done."""
        end = self._file.tell()
        while (block := self._next()) is not None:
            self._offsets[block.i, block.j] = end
            end = self._file.tell()
        self._file.truncate(end)

    def _next(self) -> Block | None:
        header = self._file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return None
        tag, i, j, cells, checksum = _HEADER.unpack(header)
        block_rows, block_cols = self.blocks_shape
        if tag != _TAG or i >= block_rows or j >= block_cols or cells > self._block**2:
            return None
        rows, cols = self.slices(i, j)
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        bits = math.ceil(shape[0] * shape[1] / 8)
        size = bits + cells * self._info.dim * 2
        payload = self._file.read(size)
        if len(payload) < size or _checksum((i, j, cells), payload) != checksum:
            return None
        valid = np.unpackbits(np.frombuffer(payload, np.uint8, bits), count=shape[0] * shape[1]).astype(np.bool_)
        vectors = np.frombuffer(payload, np.float16, offset=bits).reshape(cells, self._info.dim)
        return Block(i, j, valid.reshape(shape), vectors)


def _starts_with(path: Path, head: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _checksum(numbers: tuple[int, int, int], payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<III", *numbers)))
