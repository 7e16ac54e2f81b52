"""Slides through tiffslide, which reads with tifffile: plain TIFF and formats that OpenSlide refuses."""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tiffslide
from numpy.typing import NDArray

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides.handle import LazyReader, SlideFacts
from wsipipe.slides.pixels import WHITE, to_rgb

# What tifffile, zarr and the codecs raise on files that are damaged or of a kind they do not know.
FAILURES = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError, struct.error, zlib.error,
)  # fmt: skip


class TiffSlideReader(LazyReader[tiffslide.TiffSlide]):
    """A slide that tiffslide opens; see `SlideReader`.

    Notes
    -----
    tifffile fills tiles that a scanner left out with zeros, which is black; they are glass and made white here.
    """

    backend = "tiffslide"

    def _open(self) -> tiffslide.TiffSlide:
        try:
            slide = tiffslide.TiffSlide(self.path)
        except FAILURES as error:
            raise self._refused(error) from error
        try:
            # tiffslide warns of metadata that it leaves out; what matters of it is looked for in `resolution`.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                slide.properties  # noqa: B018 - parsed once, here
        except FAILURES as error:
            slide.close()
            raise self._refused(error) from error
        return slide

    def _shut(self, handle: tiffslide.TiffSlide) -> None:
        handle.close()

    def _facts(self, handle: tiffslide.TiffSlide) -> SlideFacts:
        try:
            properties = handle.properties
            self._gaps = _gaps(handle)
            return SlideFacts(
                vendor=str(properties.get("tiffslide.vendor") or "generic-tiff"),
                level_dimensions=tuple(handle.level_dimensions),
                level_downsamples=tuple(handle.level_downsamples),
                properties={key: str(value) for key, value in properties.items() if value is not None},
                bounds=_bounds(properties),
            )
        except FAILURES as error:
            self.close()
            raise self._refused(error) from error

    def _read(self, part: Region, level: int) -> NDArray[np.uint8]:
        step = self.level_downsamples[level]
        location = (_level0(part.x, step), _level0(part.y, step))
        try:
            pixels = to_rgb(self._use().read_region(location, level, (part.width, part.height), as_array=True))
        except FAILURES as error:
            raise self._damaged(part, level, error) from error
        gaps = self._gaps.get(level)
        return pixels if gaps is None else gaps.whitened(pixels, part)

    def _refused(self, error: BaseException) -> SlideError:
        told = " ".join(str(error).split()) or type(error).__name__
        return SlideError(f"tiffslide says {told}", path=self.path)


@dataclass(frozen=True)
class _Gaps:
    """Tiles of a level that hold nothing: missing (rows, cols) bool, sides in px."""

    missing: NDArray[np.bool_]
    tile_width: int
    tile_height: int

    def whitened(self, pixels: NDArray[np.uint8], part: Region) -> NDArray[np.uint8]:
        rows = np.arange(part.y, part.y_end) // self.tile_height
        cols = np.arange(part.x, part.x_end) // self.tile_width
        pixels[self.missing[np.ix_(rows, cols)]] = WHITE
        return pixels


def _gaps(handle: tiffslide.TiffSlide) -> dict[int, _Gaps]:
    """Gaps of the levels that have any; slides put together of several images are taken as they are."""
    if "tiffslide.series-composition" in handle.properties:
        return {}
    found: dict[int, _Gaps] = {}
    for level, series in enumerate(handle.ts_tifffile.series[handle.properties["tiffslide.series-index"]].levels):
        page = series.pages[0]
        missing = np.asarray(page.databytecounts) == 0
        across = -(-page.imagewidth // max(page.tilewidth, 1))
        if page.is_tiled and len(series.pages) == 1 and missing.any() and missing.size % across == 0:
            found[level] = _Gaps(missing.reshape(-1, across), page.tilewidth, page.tilelength)
    return found


def _level0(start: int, step: float) -> int:
    """Level-0 px that tiffslide, which divides and cuts off, maps to `start` of a level."""
    location = math.ceil(start * step)
    return location if int(location / step) == start else location + 1


def _bounds(properties: Mapping[str, Any]) -> Region | None:
    values = [properties.get(f"tiffslide.bounds-{name}") for name in ("x", "y", "width", "height")]
    return None if any(value is None for value in values) else Region(*(int(str(value)) for value in values))
