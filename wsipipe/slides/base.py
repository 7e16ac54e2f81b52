"""What every slide reader offers, whatever library is behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import Region


class SlideReader(Protocol):
    """A slide, opened for reading.

    Frames: `dimensions`, `bounds` and points are level-0 px; `read_region` takes a region in px of the level it
    reads. Readers open lazily in each process and are pickled by path, so that every worker has its own handle.

    Attributes
    ----------
    path : Path
        The file.
    backend : str
        "direct", "openslide", "tiffslide" or "image".
    vendor : str
        As the backend names it ("aperio", "hamamatsu", ...; "image" for plain images).
    dimensions : (int, int)
        (width, height) of level 0 in px.
    level_dimensions : tuple of (int, int)
        (width, height) of every level in px.
    level_downsamples : tuple of float
        Level-0 px per px of every level; rarely whole numbers.
    mpp : float or None
        um per level-0 px; None where neither the file nor the user says.
    mpp_source : str
        Where `mpp` comes from ("override", "openslide.mpp-x", ...), or why there is none.
    bounds : Region
        Scanned area in level-0 px; the whole slide where the format tells none.
    properties : mapping of str to str
        Metadata as the backend gives it.
    """

    path: Path
    backend: str
    vendor: str
    dimensions: tuple[int, int]
    level_dimensions: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    mpp: float | None
    mpp_source: str
    bounds: Region
    properties: Mapping[str, str]

    def read_region(self, region: Region, level: int = 0, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read pixels.

        Parameters
        ----------
        region : Region
            In px of `level`; what lies past the edge comes back white.
        level : int
            Level to read.
        out : (height, width, 3) uint8 array, optional
            Where the pixels go, views with gaps between their rows included. The system takes its time to give fresh
            memory, and threads wait for each other there: fast readers gain from arrays that are used again.

        Returns
        -------
        (height, width, 3) uint8 array
            RGB; transparent parts are white. `out` where it is given.

        Raises
        ------
        SlideError
            The file is damaged there, or the level does not exist.
        """
        ...

    def level_backend(self, level: int) -> str:
        """Name of what reads a level: `backend`, or the library behind "direct" where that leaves a level to it."""
        ...

    def forget_tiles(self) -> None:
        """Give back the memory of tiles that are kept for the regions beside them, where a reader keeps some."""
        ...

    def close(self) -> None:
        """Give the handle back; reading again reopens it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class ScaledReader(Protocol):
    """What a reader offers besides that decodes pixels at a fraction of their number, in a fraction of the time."""

    def factors(self, level: int) -> tuple[int, ...]:
        """By which a level can be read smaller, rising; none where it must be read as it is."""
        ...

    def read_scaled(self, region: Region, level: int, factor: int) -> NDArray[np.uint8]:
        """Read a level smaller by one of its factors.

        Parameters
        ----------
        region : Region
            In px of `level` times `factor`; the corner (0, 0) is that of the level. White past the edge.
        level : int
            Level to read.
        factor : int
            One of `factors`.

        Returns
        -------
        (height, width, 3) uint8 array
            Near the mean of the px of the level that each px covers: less than one step of 255 away in the mean of
            stained tissue, some 20 at single px; with 4:2:2 colours, which are decoded at half the width, twice as far.
            The same whatever the region.

        Raises
        ------
        SlideError
            The file is damaged there.
        """
        ...
