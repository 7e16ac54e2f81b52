"""What training windows are read from: a feature map on disk, or an image of ordinary size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsipipe.config import StainSettings
from wsipipe.geometry import CellGrid, Region
from wsipipe.numerics.stain.recolouring import Recolouring
from wsipipe.pipeline.stain import fit_slide, view_of
from wsipipe.pipeline.stored_maps import is_stored_map, stand_in
from wsipipe.slides import MppView, SlideEntry, SlideReader, open_slide
from wsipipe.store.feature_map import FeatureMap, FeatureMapInfo


class Source(Protocol):
    """Cells over one slide, read by windows; small and picklable, opens its file for each read."""

    @property
    def entry(self) -> SlideEntry:
        """The slide."""
        ...

    @property
    def grid(self) -> CellGrid:
        """Where the cells lie, in level-0 px."""
        ...

    @property
    def channels(self) -> int:
        """Length of a cell's vector."""
        ...

    @property
    def slide_size(self) -> tuple[int, int]:
        """(width, height) in level-0 px."""
        ...

    def read(self, rows: slice, cols: slice) -> NDArray[np.float16] | NDArray[np.uint8]:
        """Vectors of a window, (rows, cols, channels), as compact as they are stored: float16, or uint8 RGB."""
        ...

    def read_valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """Which cells of a window hold something, (rows, cols)."""
        ...

    def picture(self, rows: slice, cols: slice, *, long_side_px: int) -> NDArray[np.uint8]:
        """Show the slide under a window, (h, w, 3), at most about `long_side_px` on its long side."""
        ...


@dataclass(frozen=True)
class FeatureSource:
    """A finished feature map of a slide.

    Parameters
    ----------
    entry : SlideEntry
        The slide, for pictures; the map itself where no slide is at hand.
    path : Path
        The map.
    info : FeatureMapInfo
        What the map says of itself.
    reader : str
        Library that reads the slide.
    """

    entry: SlideEntry
    path: Path
    info: FeatureMapInfo
    reader: str

    @property
    def grid(self) -> CellGrid:
        """See `Source.grid`."""
        return self.info.grid

    @property
    def channels(self) -> int:
        """See `Source.channels`."""
        return self.info.dim

    @property
    def slide_size(self) -> tuple[int, int]:
        """See `Source.slide_size`."""
        return self.info.slide_size

    def read(self, rows: slice, cols: slice) -> NDArray[np.float16]:
        """See `Source.read`; maps are stored in float16, so nothing is lost."""
        with FeatureMap.open(self.path) as features:
            return features.read(rows, cols).astype(np.float16)

    def read_valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """See `Source.read_valid`."""
        with FeatureMap.open(self.path) as features:
            return features.read_valid(rows, cols)

    def picture(self, rows: slice, cols: slice, *, long_side_px: int) -> NDArray[np.uint8]:
        """See `Source.picture`."""
        return _picture(self, rows, cols, long_side_px=long_side_px)


@dataclass(frozen=True)
class ImageSource:
    """An image whose cells are its pixels at the target resolution; all of them count.

    Parameters
    ----------
    entry : SlideEntry
        The image.
    mpp : float or None
        Target resolution in um per px; None: the image's own pixels.
    grid, slide_size
        Of the image.
    reader : str
        Library that reads the image.
    recolouring : Recolouring or None
        Change of its colours.
    """

    entry: SlideEntry
    mpp: float | None
    grid: CellGrid
    slide_size: tuple[int, int]
    reader: str
    channels: int = 3
    recolouring: Recolouring | None = None

    def read(self, rows: slice, cols: slice) -> NDArray[np.uint8]:
        """See `Source.read`."""
        region = Region(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        with open_slide(self.entry.path, mpp=self.entry.mpp, reader=self.reader) as slide:
            return view_of(slide, self.mpp, self.recolouring).read(region)

    def read_valid(self, rows: slice, cols: slice) -> NDArray[np.bool_]:
        """See `Source.read_valid`: all cells."""
        return np.ones((rows.stop - rows.start, cols.stop - cols.start), dtype=np.bool_)

    def picture(self, rows: slice, cols: slice, *, long_side_px: int) -> NDArray[np.uint8]:
        """See `Source.picture`."""
        return _picture(self, rows, cols, long_side_px=long_side_px)


def feature_source(entry: SlideEntry, path: Path, *, reader: str) -> FeatureSource:
    """Source of a finished map.

    Raises
    ------
    StoreError
        The map is missing or damaged.
    """
    with FeatureMap.open(path) as features:
        return FeatureSource(entry, path, features.info, reader)


def image_source(
    entry: SlideEntry, mpp: float | None, *, reader: str, stain: StainSettings | None = None
) -> ImageSource:
    """Source of an image at a target resolution, its stain normalised where `stain` says so.

    Raises
    ------
    SlideError
        The image cannot be read.
    ResolutionError
        A target resolution is asked for and the image has none.
    StainError
        Its stain cannot be told.
    """
    with open_slide(entry.path, mpp=entry.mpp, reader=reader) as slide:
        view = MppView(slide, mpp)
        grid = CellGrid(rows=view.height, cols=view.width, cell_px=view.scale)
        recolouring = None if stain is None else fit_slide(view, None, stain)
        return ImageSource(entry, mpp, grid, slide.dimensions, reader, recolouring=recolouring)


@contextmanager
def opened(entry: SlideEntry, *, reader: str) -> Iterator[SlideReader]:
    """Open a slide, or what stands in for it where the entry is a feature map."""
    if is_stored_map(entry.path):
        with FeatureMap.open(entry.path) as features:
            yield stand_in(features)
        return
    with open_slide(entry.path, mpp=entry.mpp, reader=reader) as slide:
        yield slide


def _picture(source: FeatureSource | ImageSource, rows: slice, cols: slice, *, long_side_px: int) -> NDArray[np.uint8]:
    with opened(source.entry, reader=source.reader) as slide:
        return region_picture(slide, _level0_box(source.grid, rows, cols), long_side_px=long_side_px)


def region_picture(
    slide: SlideReader, box: tuple[float, float, float, float], *, long_side_px: int
) -> NDArray[np.uint8]:
    """Part of a slide as a small picture.

    Parameters
    ----------
    box : (float, float, float, float)
        x, y, width, height in level-0 px.
    long_side_px : int
        Of the picture, about.

    Returns
    -------
    (h, w, 3) uint8 array
    """
    step = max(1.0, max(box[2:]) / long_side_px)
    x, y, width, height = (round(value / step) for value in box)
    # In level-0 px, not in um: a slide of unknown resolution is shown too.
    return MppView(slide, None, scale=step).read(Region(x, y, max(1, width), max(1, height)))


def _level0_box(grid: CellGrid, rows: slice, cols: slice) -> tuple[float, float, float, float]:
    x, y = grid.origin[0] + cols.start * grid.cell_px, grid.origin[1] + rows.start * grid.cell_px
    return x, y, (cols.stop - cols.start) * grid.cell_px, (rows.stop - rows.start) * grid.cell_px
