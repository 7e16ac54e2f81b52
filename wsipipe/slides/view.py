"""A slide at any resolution, read from the best level."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import ResolutionError
from wsipipe.geometry import Region
from wsipipe.slides.base import ScaledReader, SlideReader
from wsipipe.slides.pixels import put, room_for
from wsipipe.slides.resample import linear_taps, resample
from wsipipe.slides.resolution import require_mpp

# A level that is this much coarser than the target still counts as it: 2.0005 is a downsample of 2.
LEVEL_TOLERANCE = 0.01
# A view may be decoded smaller where it still shrinks by this much afterwards: pixels of tissue then differ from those
# of the plain way by 0.1 to 0.5 steps of 255 in the mean, and by some 3 at most (`benchmarks/scaled.py`).
_LEAST_LEFT = 4
# Largest side, in level px, that is read and resampled at once: some 120 MB.
_PIECE_PX = 2048


class MppView:
    """A slide resampled to a target resolution.

    Target px (0, 0) and level-0 px (0, 0) share their top-left corner. The coarsest level at or finer than the
    target is read and resampled; pixels do not depend on the region they are read in. Where a slide has no level near
    the target, a reader that can (`ScaledReader`) decodes fewer pixels.

    Parameters
    ----------
    reader : SlideReader
        The slide.
    mpp : float or None
        Target resolution in um per px; None takes level-0 px as they are, for which no resolution need be known.
    scale : float, optional
        Level-0 px per target px instead of a resolution: for pictures of slides that have none.

    Attributes
    ----------
    mpp : float or None
        um per target px; None where it is level-0 px of an unknown size.
    scale : float
        Level-0 px per target px.
    width, height : int
        Target px that cover the slide; the last column and row may reach past its edge.
    level : int
        The level that is read.
    factor : int
        By how much the level is read smaller, see `ScaledReader`; mostly 1.
    ratio : float
        Px that are read per target px; exactly 1 where the level is taken as it is.
    """

    def __init__(self, reader: SlideReader, mpp: float | None, *, scale: float = 1.0) -> None:
        if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
            raise ResolutionError(f"a target of {mpp} um per px makes no sense", path=reader.path)
        self.reader = reader
        self.scale = scale if mpp is None else mpp / require_mpp(reader)
        self.mpp = mpp if mpp is not None or reader.mpp is None else reader.mpp * scale
        self.width, self.height = (max(1, math.ceil(side / self.scale - 1e-6)) for side in reader.dimensions)
        self.level = _best_level(reader.level_downsamples, self.scale)
        ratio = _ratio(self.scale / reader.level_downsamples[self.level], max(self.width, self.height))
        self.factor = _factor(reader, self.level, ratio)
        self.ratio = ratio / self.factor

    def read(self, region: Region, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read pixels.

        Parameters
        ----------
        region : Region
            In target px; what lies outside the slide comes back white.
        out : (height, width, 3) uint8 array, optional
            Where the pixels go; see `SlideReader.read_region`.

        Returns
        -------
        (height, width, 3) uint8 array
            `out` where it is given.

        Raises
        ------
        SlideError
            The file is damaged there.
        """
        side = max(16, int(_PIECE_PX / max(self.ratio, 1.0)))
        if max(region.width, region.height) <= side:
            return self._read_piece(region, out)
        canvas = room_for(region.height, region.width, out)
        for piece in _pieces(region, side):
            x, y = piece.x - region.x, piece.y - region.y
            self._read_piece(piece, canvas[y : y + piece.height, x : x + piece.width])
        return canvas

    def _read_piece(self, region: Region, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        if self.ratio == 1.0:
            return self.reader.read_region(region, self.level, out)
        cols = linear_taps(region.x, region.width, self.ratio)
        rows = linear_taps(region.y, region.height, self.ratio)
        needed = Region(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        return put(resample(self._level_px(needed), rows, cols), out)

    def _level_px(self, needed: Region) -> NDArray[np.uint8]:
        if self.factor == 1:
            return self.reader.read_region(needed, self.level)
        assert isinstance(self.reader, ScaledReader)
        return self.reader.read_scaled(needed, self.level, self.factor)


def _best_level(downsamples: tuple[float, ...], scale: float) -> int:
    """Coarsest level at or finer than the target."""
    return max(
        (level for level, step in enumerate(downsamples) if step <= scale * (1 + LEVEL_TOLERANCE)),
        key=lambda level: downsamples[level],
        default=0,
    )


def _ratio(ratio: float, extent_px: int) -> float:
    """Level px per target px, exactly 1 where the drift over the whole slide stays below half a px."""
    return 1.0 if abs(ratio - 1) * extent_px < 0.5 else ratio


def _factor(reader: SlideReader, level: int, ratio: float) -> int:
    """By how much a level is read smaller: the most that leaves enough to shrink."""
    if ratio < 2 * _LEAST_LEFT or not isinstance(reader, ScaledReader):
        return 1
    return max((factor for factor in reader.factors(level) if ratio / factor >= _LEAST_LEFT), default=1)


def _pieces(region: Region, side: int) -> Iterator[Region]:
    for y in range(region.y, region.y_end, side):
        for x in range(region.x, region.x_end, side):
            yield Region(x, y, min(side, region.x_end - x), min(side, region.y_end - y))
