"""Slides through OpenSlide."""

from __future__ import annotations

import numpy as np
import openslide
from numpy.typing import NDArray

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides.dicom import main_file
from wsipipe.slides.handle import LazyReader, SlideFacts
from wsipipe.slides.pixels import to_rgb, white

# Side, in level px, of the blocks in which levels with a non-integer downsample are read.
BLOCK_PX = 256


class OpenSlideReader(LazyReader[openslide.OpenSlide]):
    """A slide that OpenSlide opens; see `SlideReader`.

    Notes
    -----
    OpenSlide takes a location in whole level-0 px and, where that falls between two px of a coarser level,
    interpolates: the pixels then depend on where a region starts. Levels with a non-integer downsample are
    therefore read in blocks of `BLOCK_PX` on a fixed grid, each from the level-0 px next to its corner. The same
    level px then has the same value in every region, displaced by at most half a level-0 px.
    """

    backend = "openslide"

    def _open(self) -> openslide.OpenSlide:
        file = main_file(self.path)
        try:
            return openslide.OpenSlide(file)
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(f"OpenSlide says {_one_line(error)}", path=self.path) from error

    def _shut(self, handle: openslide.OpenSlide) -> None:
        handle.close()

    def _facts(self, handle: openslide.OpenSlide) -> SlideFacts:
        properties = dict(handle.properties)
        return SlideFacts(
            vendor=properties.get("openslide.vendor", "unknown"),
            level_dimensions=tuple(handle.level_dimensions),
            level_downsamples=tuple(handle.level_downsamples),
            properties=properties,
            bounds=_bounds(properties),
        )

    def _read(self, part: Region, level: int) -> NDArray[np.uint8]:
        if self.level_downsamples[level].is_integer():
            return self._paint(part, level)
        canvas = white(part.height, part.width)
        for block in _blocks(part):
            piece = block.clipped(part.x_end, part.y_end)
            assert piece is not None
            pixels = self._paint(piece, level)
            x, y = max(part.x - piece.x, 0), max(part.y - piece.y, 0)
            top, left = piece.y + y - part.y, piece.x + x - part.x
            shown = pixels[y:, x:]
            canvas[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
        return canvas

    def _paint(self, part: Region, level: int) -> NDArray[np.uint8]:
        """Read from the level-0 px nearest to the corner of `part`."""
        step = self.level_downsamples[level]
        location = (round(part.x * step), round(part.y * step))
        try:
            image = self._use().read_region(location, level, (part.width, part.height))
        except (openslide.OpenSlideError, OSError) as error:
            raise self._damaged(part, level, error) from error
        return to_rgb(np.asarray(image))


def _blocks(part: Region) -> list[Region]:
    columns = range(part.x // BLOCK_PX * BLOCK_PX, part.x_end, BLOCK_PX)
    rows = range(part.y // BLOCK_PX * BLOCK_PX, part.y_end, BLOCK_PX)
    return [Region(x, y, BLOCK_PX, BLOCK_PX) for y in rows for x in columns]


def _bounds(properties: dict[str, str]) -> Region | None:
    keys = [f"openslide.bounds-{name}" for name in ("x", "y", "width", "height")]
    if not all(key in properties for key in keys):
        return None
    return Region(*(int(properties[key]) for key in keys))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
