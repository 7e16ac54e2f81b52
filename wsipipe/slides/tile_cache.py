"""Decoded tiles that a later region may touch again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Memory is asked for in pieces of this size, which the system backs with large pages where it has them.
_SLAB_BYTES = 4 << 20
# The decoder writes past the processor's cache where an array starts at a multiple of 32 bytes (streaming stores of its
# colour conversion); tiles that are copied from at once are better written into it.
_ALIGNMENT, _OFFSET = 64, 16


@dataclass(eq=False, slots=True)
class Slot:
    """Room for one tile.

    Parameters
    ----------
    buffer : (slot bytes,) uint8 array
        Memory of the slot.
    pixels : (h, w, 3) uint8 array
        The tile, in the first bytes of the buffer.
    key : hashable, optional
        The tile that lies there.
    users : int
        How many hold it; it is not given to another tile until there is none.
    left_px : int
        px of the tile that nobody has asked for yet; negative where regions overlap.
    """

    buffer: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    key: Hashable = None
    users: int = 0
    left_px: int = 0


class TileCache:
    """Least recently used tiles in a bounded number of slots; safe to share between threads.

    Parameters
    ----------
    slot_bytes : int
        Bytes of the largest tile.
    limit_bytes : int
        Most bytes for all slots together; taken as they are needed, and kept.

    Notes
    -----
    A tile of which every px was handed out once is the first to go, before tiles of which a part is still to be asked
    for: regions that are read row by row come back to the lower parts of their tiles only a row of regions later.
    """

    def __init__(self, slot_bytes: int, limit_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        self._unmade = limit_bytes // slot_bytes
        self._free: list[Slot] = []
        self._kept: OrderedDict[Hashable, Slot] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Tiles that are kept."""
        return len(self._kept)

    def find(self, key: Hashable, px: int) -> Slot | None:
        """Slot of a tile of which `px` px are wanted, held until it is released; None where it is not kept."""
        if key not in self._kept:
            return None
        with self._lock:
            slot = self._kept.get(key)
            if slot is not None:
                slot.users += 1
                self._hand_out(slot, px)
            return slot

    def release(self, slot: Slot) -> None:
        """Let a slot go that `find` gave."""
        with self._lock:
            slot.users -= 1

    def room(self, shape: tuple[int, int, int]) -> Slot | None:
        """Slot for a new tile, the caller's alone until it is kept or given up; None where all are in use."""
        with self._lock:
            slot = self._spare()
        if slot is not None and slot.pixels.shape != shape:
            slot.pixels = shaped(slot.buffer, shape)
        return slot

    def keep(self, slot: Slot, key: Hashable, px: int, *, of_px: int) -> None:
        """Keep a tile of which `px` px out of the `of_px` that lie inside the slide were handed out."""
        with self._lock:
            if key in self._kept:  # another thread was faster
                self._free.append(slot)
                return
            slot.key, slot.left_px = key, of_px
            self._kept[key] = slot
            self._hand_out(slot, px)

    def give_up(self, slot: Slot) -> None:
        """Take a slot of `room` back whose tile cannot be read."""
        with self._lock:
            self._free.append(slot)

    def clear(self) -> None:
        """Give the memory of all tiles back that nobody holds; later ones take new slots."""
        with self._lock:
            held = OrderedDict((key, slot) for key, slot in self._kept.items() if slot.users)
            self._unmade += len(self._free) + len(self._kept) - len(held)
            self._free, self._kept = [], held

    def _hand_out(self, slot: Slot, px: int) -> None:
        slot.left_px -= px
        self._kept.move_to_end(slot.key, last=slot.left_px > 0)

    def _spare(self) -> Slot | None:
        if not self._free and self._unmade:
            self._make()
        if self._free:
            return self._free.pop()
        oldest = next((key for key, slot in self._kept.items() if not slot.users), None)
        return None if oldest is None else self._kept.pop(oldest)

    def _make(self) -> None:
        count = min(self._unmade, max(1, _SLAB_BYTES // self._slot_bytes + 1))
        self._free += [Slot(buffer, buffer) for buffer in tile_buffers(count, self._slot_bytes)]
        self._unmade -= count


def tile_buffers(count: int, size: int) -> list[NDArray[np.uint8]]:
    """Buffers of `size` bytes, not cleared, that start where the decoder writes them into the processor's cache."""
    pitch = -(-size // _ALIGNMENT) * _ALIGNMENT
    slab = np.empty(count * pitch + _ALIGNMENT, np.uint8)
    first = (_OFFSET - slab.ctypes.data) % _ALIGNMENT
    return [slab[start : start + size] for start in range(first, first + count * pitch, pitch)]


def shaped(buffer: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """View of the first bytes of a buffer."""
    return buffer[: shape[0] * shape[1] * shape[2]].reshape(shape)
