"""What the network reads windows from: a feature map on disk, or the pixels of an image."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsipipe.config import StainSettings
from wsipipe.geometry import CellGrid, Region
from wsipipe.pipeline.stain import fit_slide, view_of
from wsipipe.slides import MppView, SlideReader


class MapSource(Protocol):
    """A map of cells over a slide, read by windows; `store.feature_map.FeatureMap` is one."""

    @property
    def grid(self) -> CellGrid:
        """Where the cells lie."""
        ...

    def read_stored(self, rows: slice, cols: slice) -> NDArray[np.float16] | NDArray[np.float32]:
        """Features (rows, cols, dim) in the precision in which they are there."""
        ...

    def read_valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """Which cells hold something, (rows, cols)."""
        ...


class ImageMap:
    """An image as a map: its cells are target pixels, its features RGB in [0, 1].

    Parameters
    ----------
    reader : SlideReader
        The image or slide; stays open as long as the map is read.
    mpp : float or None
        Target resolution; None for the image's own pixels.
    stain : StainSettings, optional
        How its colours are changed.

    Raises
    ------
    StainError
        The image's stain cannot be told.
    """

    def __init__(self, reader: SlideReader, mpp: float | None, stain: StainSettings | None = None) -> None:
        self._view = MppView(reader, mpp)
        if stain is not None:
            self._view = view_of(reader, mpp, fit_slide(self._view, None, stain))
        self._grid = CellGrid(rows=self._view.height, cols=self._view.width, cell_px=self._view.scale)

    @property
    def grid(self) -> CellGrid:
        """Target pixels over the slide."""
        return self._grid

    def read_stored(self, rows: slice, cols: slice) -> NDArray[np.float32]:
        """RGB in [0, 1], (rows, cols, 3) float32."""
        region = Region(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        return np.asarray(self._view.read(region), np.float32) / np.float32(255)

    def read_valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """Every pixel of an image counts, (rows, cols)."""
        return np.ones((rows.stop - rows.start, cols.stop - cols.start), np.bool_)
