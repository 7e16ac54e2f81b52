"""A stand-in for a slide of which only a map is at hand: grey where the map has cells, white elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import SlideError
from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.tissue import Tissue
from wsipipe.slides.pixels import put

_GREY, _WHITE = 214, 255
_SMALLEST_PX = 256


class MapSlide:
    """Follows the protocol of `SlideReader`, without pixels of tissue.

    Parameters
    ----------
    path : Path
        The map.
    valid : (rows, cols) bool array
        Cells that hold something.
    grid : CellGrid
        Where they lie.
    dimensions : (int, int)
        (width, height) of the slide in level-0 px.
    mpp : float or None
        um per level-0 px.
    """

    backend, vendor, mpp_source = "map", "map", "feature map"

    def __init__(
        self,
        path: Path,
        valid: NDArray[np.bool_],
        grid: CellGrid,
        *,
        dimensions: tuple[int, int],
        mpp: float | None,
    ) -> None:
        self.path, self.dimensions, self.mpp = path, dimensions, mpp
        self._valid, self._grid = valid, grid
        steps = [2.0**power for power in range(32) if power == 0 or max(dimensions) / 2**power >= _SMALLEST_PX]
        self.level_downsamples: tuple[float, ...] = tuple(steps)
        self.level_dimensions = tuple(
            (max(1, int(dimensions[0] / step)), max(1, int(dimensions[1] / step))) for step in steps
        )
        self.bounds = Region(0, 0, *dimensions)
        self.properties: Mapping[str, str] = {}

    def read_region(self, region: Region, level: int = 0, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """See `SlideReader.read_region`."""
        if not 0 <= level < len(self.level_downsamples):
            raise SlideError(f"has no level {level}", path=self.path)
        step, (x0, y0) = self.level_downsamples[level], self._grid.origin
        cols = self._cells(region.x, region.width, step, x0, self._grid.cols)
        rows = self._cells(region.y, region.height, step, y0, self._grid.rows)
        shown = np.where(np.pad(self._valid, 1)[np.ix_(rows, cols)], _GREY, _WHITE).astype(np.uint8)
        return put(np.repeat(shown[..., None], 3, axis=2), out)

    def _cells(self, start: int, length: int, step: float, origin: float, count: int) -> NDArray[np.int64]:
        """Cell under each px of a level, counted from 1; 0 and `count` + 1 are outside of the map."""
        centres = (np.arange(start, start + length) + 0.5) * step
        index = np.floor((centres - origin) / self._grid.cell_px).astype(np.int64) + 1
        return np.asarray(np.clip(index, 0, count + 1))

    @property
    def tissue(self) -> Tissue:
        """Where there can be tissue: the cells that hold something."""
        return Tissue(self._valid, self._grid)

    def level_backend(self, level: int) -> str:
        """See `SlideReader.level_backend`."""
        return self.backend

    def forget_tiles(self) -> None:
        """Do nothing: there are no tiles."""

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
