"""JPEG tiles of a slide before they are decoded, for decoders that lie elsewhere: on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import Region
from wsipipe.slides.base import SlideReader
from wsipipe.slides.direct_reader import DirectReader
from wsipipe.slides.tile_codecs import TileError
from wsipipe.slides.tile_file import along

_END = b"\xff\xd9"

Key = tuple[int, int]
"""Row and column of a tile."""


@dataclass(frozen=True)
class Part:
    """What a region takes of one tile.

    Parameters
    ----------
    key : (int, int)
        Row and column of the tile.
    there, source : (slice, slice)
        Rows and columns of the region, and of the tile, in px.
    """

    key: Key
    there: tuple[slice, slice]
    source: tuple[slice, slice]


class EncodedTiles:
    """Tiles of a level that is stored as JPEG and read directly; streams may be asked for in several threads at once.

    Parameters
    ----------
    reader : DirectReader
        The slide.
    level : int
        The level; all regions are in its px.

    Attributes
    ----------
    tile_size : (int, int)
        (width, height) of every tile in px, those at the edges included.
    """

    def __init__(self, reader: DirectReader, level: int) -> None:
        stored = reader.tile_file.stored(level)
        assert stored.jpeg is not None
        self._reader, self._level, self._stored, self._jpeg = reader, level, stored, stored.jpeg
        self.tile_size = stored.tile_width, stored.tile_height

    def parts(self, region: Region) -> list[Part]:
        """List what a region takes of which tiles; what lies outside of the slide is in none."""
        inside = region.clipped(self._stored.width, self._stored.height)
        if inside is None:
            return []
        columns = along(inside.x, inside.x_end, self.tile_size[0])
        rows = along(inside.y, inside.y_end, self.tile_size[1])
        dx, dy = inside.x - region.x, inside.y - region.y
        return [
            Part((row, column), (_moved(there_y, dy), _moved(there_x, dx)), (from_y, from_x))
            for row, there_y, from_y in rows
            for column, there_x, from_x in columns
        ]

    def stream(self, key: Key) -> bytes | None:
        """Complete JPEG stream of a tile; None where the file does not hold it, or not to its end.

        Whether it can be decoded is not known: `pixels` tells.
        """
        try:
            data = self._reader.tile_file.encoded(self._level, *key)
        except TileError:
            return None
        # Decoders that are not as strict as ours fill up what is cut off, and say nothing.
        return self._jpeg.complete(data) if data and data.rstrip(b"\0").endswith(_END) else None

    def pixels(self, key: Key) -> NDArray[np.uint8]:
        """Decode a tile here: (height, width, 3) uint8, white outside of the slide; errors as `read_region`."""
        return self._reader.read_region(self.place(key), self._level)

    def place(self, key: Key) -> Region:
        """Where a tile lies; at the edges it reaches past the level."""
        width, height = self.tile_size
        return Region(key[1] * width, key[0] * height, width, height)

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()

    def examples(self) -> list[Key]:
        """Give some tiles to compare decoders by, see `TileLevel.examples`; none where the file holds none."""
        return self._stored.examples()


def encoded_tiles(reader: SlideReader, level: int) -> EncodedTiles | None:
    """Tiles of a level; None where they are no JPEG, or a library reads the level."""
    if not isinstance(reader, DirectReader) or reader.level_backend(level) != reader.backend:
        return None
    return EncodedTiles(reader, level) if reader.tile_file.stored(level).jpeg is not None else None


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
