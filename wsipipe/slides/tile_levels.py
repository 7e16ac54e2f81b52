"""Find the levels of a slide whose tiles can be taken from the file as they are."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsipipe.errors import SlideError
from wsipipe.slides.jpeg_stream import JpegStream
from wsipipe.slides.tile_codecs import Decoder, TileFormat, jpeg_stream, scaled_decoders, tile_decoder

# What tifffile raises on files that are no TIFF, or damaged; its own error is a ValueError.
_FAILURES = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, struct.error)
# Of larger ones, too few fit into the cache to be worth it.
LARGEST_TILE_PX = 1 << 21


@dataclass(frozen=True)
class TileLevel:
    """A level stored as a plain grid of tiles.

    Parameters
    ----------
    width, height : int
        Size of the level in px.
    tile_width, tile_height : int
        Size of every tile in px, those at the edges included.
    offsets, counts : (rows, cols) int64 arrays
        First byte and number of bytes of each tile; none where the scanner left a tile out.
    decode : callable
        See `Decoder`.
    scaled : mapping of int to callable
        Decoders that give tiles smaller by a factor.
    jpeg : JpegStream, optional
        Makes a tile a stream for other decoders, where tiles are JPEG.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    decode: Decoder
    scaled: Mapping[int, Decoder] = field(default_factory=dict)
    jpeg: JpegStream | None = None

    @cached_property
    def tile_shape(self) -> tuple[int, int, int]:
        """Of the pixels of a tile."""
        return self.tile_height, self.tile_width, 3

    @property
    def tile_bytes(self) -> int:
        """Of the pixels of a tile."""
        return self.tile_height * self.tile_width * 3

    def inside_px(self, row: int, column: int) -> int:
        """Px of a tile that lie inside the slide."""
        height = min(self.tile_height, self.height - row * self.tile_height)
        return height * min(self.tile_width, self.width - column * self.tile_width)

    def examples(self) -> list[tuple[int, int]]:
        """Row and column of the first and the middle tile that the file holds, and of the one of most bytes."""
        held = np.flatnonzero(self.counts)
        if not held.size:
            return []
        chosen = {int(held[0]), int(held[held.size // 2]), int(self.counts.argmax())}
        return [divmod(index, self.counts.shape[1]) for index in sorted(chosen)]

    def smaller(self, factor: int) -> TileLevel:
        """View of this level, smaller by a factor of `scaled`; its last px may reach past the edge.

        Tiles of which the edge cuts a px count as not stored: what lies beyond it in the file is no part of the slide.
        """
        counts = self.counts.copy()
        if self.width % factor:
            counts[:, -1] = 0
        if self.height % factor:
            counts[-1] = 0
        return replace(
            self,
            width=-(-self.width // factor),
            height=-(-self.height // factor),
            tile_width=self.tile_width // factor,
            tile_height=self.tile_height // factor,
            counts=counts,
            decode=self.scaled[factor],
            scaled={},
        )


def find_tile_levels(path: Path, level_dimensions: Sequence[tuple[int, int]]) -> list[TileLevel | str]:
    """Look for the page of each level.

    Parameters
    ----------
    path : Path
        A TIFF file.
    level_dimensions : sequence of (int, int)
        (width, height) of every level in px.

    Returns
    -------
    list of TileLevel or str
        For each level, its tiles, or why they cannot be read directly.

    Raises
    ------
    SlideError
        tifffile cannot read the file.
    """
    try:
        with tifffile.TiffFile(path) as file:
            pages = list(_tiled_pages(file))
            return [_level(pages, *size) for size in level_dimensions]
    except _FAILURES as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(f"tifffile says {told}", path=path) from error


def _tiled_pages(file: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Tiled pages and, as OME keeps levels there, tiled sub-pages."""
    for index in range(len(file.pages)):
        page = file.pages.get(index)
        for each in (page, *(page.pages or ())):
            if each.is_tiled:
                yield each


def _level(pages: list[tifffile.TiffPage], width: int, height: int) -> TileLevel | str:
    fitting = [page for page in pages if (page.imagewidth, page.imagelength) == (width, height)]
    if len(fitting) != 1:
        return f"{len(fitting)} tiled pages have its {width} x {height} px"
    return _tiles(fitting[0])


def _tiles(page: tifffile.TiffPage) -> TileLevel | str:
    rows, cols = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    plain = page.planarconfig == 1 and page.imagedepth == page.tiledepth == page.sampleformat == page.fillorder == 1
    if page.bitspersample != 8 or not plain or len(page.dataoffsets) != rows * cols:
        return "its samples are not 8-bit pixels in a grid of tiles"
    form = TileFormat(
        compression=int(page.compression),
        photometric=int(page.photometric),
        predictor=int(page.predictor),
        samples=page.samplesperpixel,
        width=page.tilewidth,
        height=page.tilelength,
        tables=page.jpegtables or b"",
    )
    if form.width * form.height > LARGEST_TILE_PX:
        return f"its tiles of {form.width} x {form.height} px are too large to keep"
    decode = tile_decoder(form)
    if decode is None:
        return f"its tiles are of another kind ({_name(page.compression)}, {_name(page.photometric)})"
    offsets, counts = (np.array(each, np.int64).reshape(rows, cols) for each in (page.dataoffsets, page.databytecounts))
    size = page.imagewidth, page.imagelength, form.width, form.height
    return TileLevel(*size, offsets, counts, decode, scaled_decoders(form), jpeg_stream(form))


def _name(value: object) -> str:
    return str(getattr(value, "name", value))
