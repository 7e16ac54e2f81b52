"""What all readers share: metadata read once, a library handle per process, regions clipped and padded."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides.pixels import WHITE, room_for
from wsipipe.slides.resolution import find_resolution

Handle = TypeVar("Handle")


@dataclass(frozen=True)
class SlideFacts:
    """What a library says about a slide; see `SlideReader` for the meaning of the fields."""

    vendor: str
    level_dimensions: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    properties: Mapping[str, str]
    bounds: Region | None = None


class LazyReader(ABC, Generic[Handle]):
    """A `SlideReader` over a library handle that is opened in the process that reads.

    Parameters
    ----------
    path : Path
        The slide.
    mpp : float, optional
        um per level-0 px, instead of what the file says.

    Raises
    ------
    SlideError
        The library cannot open the file.
    ResolutionError
        `mpp` is absurd.
    """

    backend: str

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        self.path = path
        self._handle: Handle | None = None
        self._forget()
        facts = self._facts(self._use())
        self.vendor: str = facts.vendor
        self.level_dimensions: tuple[tuple[int, int], ...] = facts.level_dimensions
        self.dimensions: tuple[int, int] = facts.level_dimensions[0]
        self.level_downsamples: tuple[float, ...] = facts.level_downsamples
        self.properties: Mapping[str, str] = facts.properties
        self.bounds: Region = facts.bounds or Region(0, 0, *self.dimensions)
        resolution = find_resolution(facts.properties, override=mpp, path=path)
        self.mpp: float | None = resolution.mpp
        self.mpp_source: str = resolution.source

    def read_region(self, region: Region, level: int = 0, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read pixels of a level; see `SlideReader.read_region`."""
        if not 0 <= level < len(self.level_dimensions):
            raise SlideError(f"has levels 0 to {len(self.level_dimensions) - 1}, not {level}", path=self.path)
        part = region.clipped(*self.level_dimensions[level])
        if part is region and out is None:
            return self._read(region, level)
        canvas = room_for(region.height, region.width, out)
        if part is not region:
            canvas[...] = WHITE
        if part is not None:
            x, y = part.x - region.x, part.y - region.y
            self._read_into(part, level, canvas[y : y + part.height, x : x + part.width])
        return canvas

    def level_backend(self, level: int) -> str:
        """Name of what reads a level; see `SlideReader.level_backend`."""
        return self.backend

    def forget_tiles(self) -> None:
        """Do nothing: the libraries keep what they like. See `SlideReader.forget_tiles`."""

    def close(self) -> None:
        """Give the handle back; reading again reopens it."""
        self._leave_to_parent()
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            self._shut(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Also reached where __init__ failed half-way.
        if "_handle" in self.__dict__:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the handle: another process opens its own."""
        hidden = ("_handle", "_process", "_inherited", "_lock")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handle = None
        self._forget()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._inherited = self._handle
        self._handle = None

    def _leave_to_parent(self) -> None:
        """Leave alone, unclosed, what came through a fork: its locks and file positions are the parent's."""
        if self._process != os.getpid():
            self._forget()

    def _use(self) -> Handle:
        """Handle of this process."""
        self._leave_to_parent()
        with self._lock:
            handle = self._handle
            if handle is None:
                handle = self._handle = self._open()
            return handle

    def _damaged(self, region: Region, level: int, error: BaseException) -> SlideError:
        """Drop the handle, which may be unusable after an error, and tell what happened where."""
        self.close()
        told = " ".join(str(error).split()) or type(error).__name__
        return SlideError(
            f"cannot be read at x {region.x}, y {region.y}, {region.width} x {region.height} px of level {level}: "
            f"{self.backend} says {told}",
            path=self.path,
            remedy="the file may be damaged or cut off: copy it again",
        )

    def _read_into(self, part: Region, level: int, out: NDArray[np.uint8]) -> None:
        """Fill an array of the right shape with what `_read` gives."""
        out[...] = self._read(part, level)

    @abstractmethod
    def _open(self) -> Handle:
        """Open the file; SlideError where the library cannot."""

    @abstractmethod
    def _shut(self, handle: Handle) -> None:
        """Close a handle of this process."""

    @abstractmethod
    def _facts(self, handle: Handle) -> SlideFacts:
        """Metadata of an open slide."""

    @abstractmethod
    def _read(self, part: Region, level: int) -> NDArray[np.uint8]:
        """Pixels of a region, in px of `level`, that lies inside the level."""
