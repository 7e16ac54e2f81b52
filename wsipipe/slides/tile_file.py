"""Regions put together from the tiles of a TIFF file: bytes, decoder, place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import Region
from wsipipe.slides.tile_cache import TileCache
from wsipipe.slides.tile_codecs import TileError
from wsipipe.slides.tile_levels import TileLevel

# A row of tiles across 80,000 px, of 256 px and three bytes: what regions read row by row come back to.
CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class Tile:
    """One tile: its level, column and row, and the part of it inside the slide, in px of its level."""

    level: int
    column: int
    row: int
    inside: Region


Stand = Callable[[Tile], NDArray[np.uint8]]
"""Gives (h, w, 3) uint8 pixels of `Tile.inside` for a tile that the file does not hold."""
StandIn = Callable[[Tile, TileError], NDArray[np.uint8]]
"""The same for a tile that cannot be decoded, or raises."""


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
        self.cache = TileCache(cache_bytes)
        self._bytes = _ByteSource(path)
        self._own = threading.local()

    def read(self, part: Region, level: int, *, missing: Stand, damaged: StandIn) -> NDArray[np.uint8]:
        """Read pixels.

        Parameters
        ----------
        part : Region
            In px of `level`, inside it.
        level : int
            A level with a `TileLevel`.
        missing, damaged : callable
            What stands for tiles that the file does not hold, or that cannot be decoded.

        Returns
        -------
        (height, width, 3) uint8 array
        """
        out = np.empty((part.height, part.width, 3), np.uint8)
        stored = self.stored(level)
        for tile in _tiles_of(stored, part, level):
            try:
                if stored.counts[tile.row, tile.column]:
                    self._place(tile, part, out)
                else:
                    target, source = _overlap(tile.inside, part, out)
                    target[...] = missing(tile)[source]
            except TileError as error:
                target, source = _overlap(tile.inside, part, out)
                target[...] = damaged(tile, error)[source]
        return out

    def stored(self, level: int) -> TileLevel:
        """Tiles of a level that has some."""
        found = self.levels[level]
        assert isinstance(found, TileLevel)
        return found

    def decode(self, tile: Tile, out: NDArray[np.uint8]) -> None:
        """Decode a whole tile, beyond the edges of the slide too, into a C-contiguous array; TileError if it fails."""
        stored = self.stored(tile.level)
        count = int(stored.counts[tile.row, tile.column])
        stored.decode(self._bytes.read(int(stored.offsets[tile.row, tile.column]), count), out)

    def _place(self, tile: Tile, part: Region, out: NDArray[np.uint8]) -> None:
        target, source = _overlap(tile.inside, part, out)
        px = target.shape[0] * target.shape[1]
        key = tile.level, tile.row, tile.column
        pixels = self.cache.get(key, px)
        if pixels is None:
            stored = self.stored(tile.level)
            shape = stored.tile_height, stored.tile_width, 3
            if target.shape == shape and target.flags.c_contiguous:
                self.decode(tile, target)
                return
            of_px = tile.inside.width * tile.inside.height
            whole = px == of_px
            pixels = self._scratch(shape) if whole else np.empty(shape, np.uint8)
            self.decode(tile, pixels)
            if not whole:
                self.cache.put(key, pixels, px, of_px=of_px)
        target[...] = pixels[source]

    def _scratch(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """An array of this thread's own, used again and again: it stays in the processor's cache."""
        found: NDArray[np.uint8] | None = getattr(self._own, "pixels", None)
        if found is None or found.shape != shape:
            found = self._own.pixels = np.empty(shape, np.uint8)
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
            data = _read_at(self._file, start, count, self._lock)
        except OSError as error:
            raise TileError(f"reading {count} bytes at {start}: {error.strerror}") from error
        if len(data) != count:
            raise TileError(f"the file ends before byte {start + count}")
        return data

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            os.close(self._file)


def _read_at(file: int, start: int, count: int, lock: threading.Lock) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, count, start)
    with lock:  # Windows has no read that leaves the position alone
        os.lseek(file, start, os.SEEK_SET)
        return os.read(file, count)


def _tiles_of(stored: TileLevel, part: Region, level: int) -> Iterator[Tile]:
    """Tiles that a region touches, row by row."""
    width, height = stored.tile_width, stored.tile_height
    for row in range(part.y // height, -(-part.y_end // height)):
        for column in range(part.x // width, -(-part.x_end // width)):
            yield tile_at(stored, level, column, row)


def tile_at(stored: TileLevel, level: int, column: int, row: int) -> Tile:
    """Tile in a column and row of a level."""
    inside = Region(column * stored.tile_width, row * stored.tile_height, stored.tile_width, stored.tile_height)
    clipped = inside.clipped(stored.width, stored.height)
    assert clipped is not None
    return Tile(level, column, row, clipped)


def _overlap(
    inside: Region, part: Region, out: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
    """Where the tile and the region meet: a view of `out`, and what to take of the tile."""
    y, x = max(inside.y, part.y), max(inside.x, part.x)
    y_end, x_end = min(inside.y_end, part.y_end), min(inside.x_end, part.x_end)
    target = out[y - part.y : y_end - part.y, x - part.x : x_end - part.x]
    return target, (slice(y - inside.y, y_end - inside.y), slice(x - inside.x, x_end - inside.x))
