"""Decoded tiles that a later region may touch again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray


class TileCache:
    """Least recently used tiles, bounded in bytes; safe to share between threads.

    Parameters
    ----------
    limit_bytes : int
        Most bytes of pixels that are kept.

    Notes
    -----
    A tile of which every px was handed out once is the first to go, before tiles of which a part is still to be asked
    for: regions that are read row by row come back to the lower parts of their tiles only a row of regions later.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._tiles: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._left_px: dict[Hashable, int] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes of pixels that are kept now."""
        return self._bytes

    def get(self, key: Hashable, px: int) -> NDArray[np.uint8] | None:
        """Tile of which `px` px are wanted now; None where it is not kept. Not to be written to."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._handed_out(key, px)
            return tile

    def put(self, key: Hashable, tile: NDArray[np.uint8], px: int, *, of_px: int) -> None:
        """Keep a tile of which `px` px out of the `of_px` that lie inside the slide were handed out."""
        with self._lock:
            if key in self._tiles or tile.nbytes > self.limit_bytes:
                return
            while self._bytes + tile.nbytes > self.limit_bytes:
                gone, pixels = self._tiles.popitem(last=False)
                self._bytes -= pixels.nbytes
                del self._left_px[gone]
            self._tiles[key] = tile
            self._left_px[key] = of_px
            self._bytes += tile.nbytes
            self._handed_out(key, px)

    def _handed_out(self, key: Hashable, px: int) -> None:
        self._left_px[key] -= px
        self._tiles.move_to_end(key, last=self._left_px[key] > 0)
