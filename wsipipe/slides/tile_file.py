"""Regions put together from the tiles of a TIFF file: bytes, decoder, place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import Region
from wsipipe.slides.pixels import room_for
from wsipipe.slides.tile_cache import TileCache, shaped, tile_buffers
from wsipipe.slides.tile_codecs import TileError
from wsipipe.slides.tile_levels import TileLevel

# A row of tiles across 80,000 px, of 256 px and three bytes: what regions read row by row come back to.
CACHE_BYTES = 64 << 20
# Windows has no read that leaves the position alone.
_HAS_PREAD = hasattr(os, "pread")


@dataclass(frozen=True)
class Tile:
    """One tile: its level, column and row, and the part of it inside the slide, in px of its level as it is read."""

    level: int
    column: int
    row: int
    inside: Region


StandIn = Callable[[Tile, TileError | None], NDArray[np.uint8]]
"""Gives (h, w, 3) uint8 pixels of `Tile.inside`, or raises, for a tile that cannot be decoded; the error is None where
the file does not hold the tile."""
Key = tuple[int, int, int, int]
"""Level, factor by which it is read smaller, row and column of a tile."""


class TileFile:
    """An open file and its tiles; safe to share between threads.

    Parameters
    ----------
    path : Path
        The file.
    levels : sequence of TileLevel or str
        As `find_tile_levels` gives them.
    cache_bytes : int
        Most bytes of decoded tiles that are kept.

    Notes
    -----
    Tiles that a region takes whole are decoded in place, or next to it and copied, and forgotten; only those that
    it cuts are kept, for the regions beside it. Two threads that want the same tile at the same time both decode it.
    """

    def __init__(self, path: Path, levels: Sequence[TileLevel | str], *, cache_bytes: int = CACHE_BYTES) -> None:
        self.levels = levels
        self._largest = max((level.tile_bytes for level in levels if isinstance(level, TileLevel)), default=1)
        self.cache = TileCache(self._largest, cache_bytes)
        self._bytes = _ByteSource(path)
        self._own = threading.local()
        self._smaller: dict[tuple[int, int], TileLevel] = {}

    def stored(self, level: int, factor: int = 1) -> TileLevel:
        """Tiles of a level that has some; smaller by one of their factors."""
        found = self.levels[level]
        assert isinstance(found, TileLevel)
        if factor == 1:
            return found
        if (level, factor) not in self._smaller:
            self._smaller[level, factor] = found.smaller(factor)
        return self._smaller[level, factor]

    def read(
        self,
        part: Region,
        level: int,
        stand_in: StandIn,
        out: NDArray[np.uint8] | None = None,
        factor: int = 1,
    ) -> NDArray[np.uint8]:
        """Read pixels.

        Parameters
        ----------
        part : Region
            In px of `level` as it is read, inside it.
        level : int
            A level with a `TileLevel`.
        stand_in : callable
            What stands for tiles that the file does not hold, or that cannot be decoded.
        out : (height, width, 3) uint8 array, optional
            Where the pixels go; views with gaps between their rows included.
        factor : int
            1, or one of `TileLevel.scaled`: the level is read smaller by it.

        Returns
        -------
        (height, width, 3) uint8 array
            `out` where it is given.
        """
        out = room_for(part.height, part.width, out)
        stored = self.stored(level, factor)
        columns = along(part.x, part.x_end, stored.tile_width)
        for row, there_y, from_y in along(part.y, part.y_end, stored.tile_height):
            band = out[there_y]
            for column, there_x, from_x in columns:
                key = level, factor, row, column
                self._place(stored, key, band[:, there_x], (from_y, from_x), stand_in)
        return out

    def encoded(self, level: int, row: int, column: int) -> bytes | None:
        """Bytes of a tile as they stand in the file, None where it does not hold it; TileError where it is cut off."""
        return self._bytes_of(self.stored(level), row, column)

    def _bytes_of(self, stored: TileLevel, row: int, column: int) -> bytes | None:
        start, count = stored.offsets.item(row, column), stored.counts.item(row, column)
        return self._bytes.read(start, count) if count else None

    def _place(
        self,
        stored: TileLevel,
        key: Key,
        target: NDArray[np.uint8],
        source: tuple[slice, slice],
        stand_in: StandIn,
    ) -> None:
        """Fill `target` with the part `source` of a tile."""
        height, width, _ = target.shape
        slot = self.cache.find(key, height * width)
        if slot is not None:
            target[...] = slot.pixels[source]
            self.cache.release(slot)
            return
        shape = stored.tile_shape
        if target.shape == shape and target.flags.c_contiguous:
            self._fill(target, stored, key, stand_in)
            return
        px = height * width
        inside_px = px if target.shape == shape else stored.inside_px(*key[2:])
        slot = self.cache.room(shape) if px < inside_px else None
        if slot is None:
            target[...] = self._fill(self._scratch(shape), stored, key, stand_in)[source]
            return
        try:
            target[...] = self._fill(slot.pixels, stored, key, stand_in)[source]
        except BaseException:
            self.cache.give_up(slot)
            raise
        self.cache.keep(slot, key, px, of_px=inside_px)

    def _fill(self, out: NDArray[np.uint8], stored: TileLevel, key: Key, stand_in: StandIn) -> NDArray[np.uint8]:
        """Decode a whole tile, beyond the edges of the slide too, into a C-contiguous array."""
        level, _, row, column = key
        told = None
        try:
            data = self._bytes_of(stored, row, column)
            if data is not None:
                stored.decode(data, out)
                return out
        except TileError as error:
            told = error
        pixels = stand_in(tile_at(stored, level, column, row), told)
        out[: pixels.shape[0], : pixels.shape[1]] = pixels
        return out

    def _scratch(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Room for a tile that is this thread's own, used again and again: it stays in the processor's cache."""
        found: NDArray[np.uint8] | None = getattr(self._own, "pixels", None)
        if found is None or found.shape != shape:
            found = self._own.pixels = shaped(tile_buffers(1, self._largest)[0], shape)
        return found


class _ByteSource:
    """Reads bytes at any place, from any thread; closed with the last that uses it.

    A file closed by hand while another thread reads would give its number, and that thread, to the next file opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read(self, start: int, count: int) -> bytes:
        try:
            data = os.pread(self._file, count, start) if _HAS_PREAD else self._seek_and_read(start, count)
        except OSError as error:
            raise TileError(f"reading {count} bytes at {start}: {error.strerror}") from error
        if len(data) != count:
            raise TileError(f"the file ends before byte {start + count}")
        return data

    def _seek_and_read(self, start: int, count: int) -> bytes:
        with self._lock:
            os.lseek(self._file, start, os.SEEK_SET)
            return os.read(self._file, count)

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            os.close(self._file)


def tile_at(stored: TileLevel, level: int, column: int, row: int) -> Tile:
    """Tile in a column and row of a level."""
    inside = Region(column * stored.tile_width, row * stored.tile_height, stored.tile_width, stored.tile_height)
    clipped = inside.clipped(stored.width, stored.height)
    assert clipped is not None
    return Tile(level, column, row, clipped)


def along(start: int, stop: int, side: int) -> list[tuple[int, slice, slice]]:
    """Tiles along one axis that [start, stop) touches: index, where their px go, counted from `start`, and which."""
    found = []
    for index in range(start // side, -(-stop // side)):
        first, last = max(index * side, start), min((index + 1) * side, stop)
        found.append((index, slice(first - start, last - start), slice(first - index * side, last - index * side)))
    return found
