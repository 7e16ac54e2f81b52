"""Where the bands of a large map keep their planes between two visits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]


class Scratch(Protocol):
    """Stacks of planes by name; picklable where workers of other processes use it.

    A name is given once, or again with the same content: tasks that are run twice do no harm.
    """

    def put(self, name: str, planes: Sequence[Plane]) -> None:
        """Keep (rows, cols) float32 planes of one shape; seen as a whole, or not at all."""
        ...

    def fill(self, name: str, planes: Sequence[Plane], rows: slice) -> None:
        """Copy rows of the first of the planes kept under a name into as many (rows, cols) arrays."""
        ...

    def drop(self, name: str) -> None:
        """Forget a name; nothing happens where it is not known."""
        ...


class MemoryScratch:
    """Planes in the memory of this process, for threads."""

    def __init__(self) -> None:
        self._stacks: dict[str, list[Plane]] = {}

    def put(self, name: str, planes: Sequence[Plane]) -> None:
        """See `Scratch`."""
        self._stacks[name] = [plane.copy() for plane in planes]

    def fill(self, name: str, planes: Sequence[Plane], rows: slice) -> None:
        """See `Scratch`."""
        for out, plane in zip(planes, self._stacks[name], strict=False):
            out[...] = plane[rows]

    def drop(self, name: str) -> None:
        """See `Scratch`."""
        self._stacks.pop(name, None)
