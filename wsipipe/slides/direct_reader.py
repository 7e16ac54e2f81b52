"""Slides through the tiles of their TIFF file, with the metadata of OpenSlide or tiffslide."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import SlideError
from wsipipe.geometry import Region
from wsipipe.slides.handle import LazyReader, SlideFacts
from wsipipe.slides.openslide_reader import BLOCK_PX
from wsipipe.slides.pixels import white
from wsipipe.slides.tile_codecs import TileError
from wsipipe.slides.tile_file import Tile, TileFile, tile_at
from wsipipe.slides.tile_levels import TileLevel, find_tile_levels

# Vendors whose levels are whole pages from corner to corner; others overlap, pad or shift tiles.
PLAIN_VENDORS = ("aperio", "generic-tiff")
# Less of a displacement, in px of a level, changes no pixel by more than one step of 255.
_DISPLACED_PX = 1 / 256
# Columns and rows of blocks that are looked at.
_MOST = 32
# Largest difference, in steps of 255, between two decoders that both round as the standard allows.
ROUNDING = 2


class DirectReader(LazyReader[TileFile]):
    """A tiled TIFF slide whose tiles are decoded straight from the file; see `SlideReader`.

    Parameters
    ----------
    library : LazyReader
        The slide as OpenSlide or tiffslide opens it. It gives the metadata, reads the levels that are not plain
        tiles, and paints the tiles that the file does not hold. Closed with this reader.
    mpp : float, optional
        um per level-0 px, instead of what the file says.
    check : bool
        Read a level directly only where the library gives the same pixels, up to rounding, in the first, the middle
        and the fullest of its tiles; where its downsample is not whole, in places that the library does not displace.
        Without, every level that is stored as plain tiles. Levels are looked at when they are first read.
    damaged : "error" or "white"
        Raise where a tile cannot be decoded, or warn and leave it white.

    Raises
    ------
    SlideError
        Level 0 cannot be read directly; the message tells why.

    Notes
    -----
    OpenSlide reads a level with a non-integer downsample (Aperio's are often 4.0002 or so) displaced by up to half a
    level-0 px, see `OpenSlideReader`; this reader, as it is stored, which is what its coordinates mean.
    """

    backend = "direct"

    def __init__(
        self,
        library: LazyReader[Any],
        *,
        mpp: float | None = None,
        check: bool = True,
        damaged: Literal["error", "white"] = "error",
    ) -> None:
        self._library = library
        self._check = check
        self._damaged_tiles = damaged
        self._direct: dict[int, bool] = {}
        self._took_over = False
        super().__init__(library.path, mpp=mpp)
        if not self._is_direct(0):
            raise SlideError(f"cannot be read directly: {self._why_not(0)}", path=self.path)
        self._took_over = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a library of its own: a copy is for another thread or process."""
        super().__setstate__(state | {"_library": copy.copy(state["_library"]), "_direct": dict(state["_direct"])})

    def __copy__(self) -> Self:
        """Share the open file and its cache of tiles, which any number of threads may use, within this process."""
        self._leave_to_parent()
        other = type(self).__new__(type(self))
        other.__setstate__(self.__getstate__())
        other._handle = self._handle
        return other

    def level_backend(self, level: int) -> str:
        """Name of what reads a level; see `SlideReader.level_backend`."""
        return self.backend if self._is_direct(level) else self._library.backend

    def forget_tiles(self) -> None:
        """Empty the cache, also that of copies; see `SlideReader.forget_tiles`."""
        self._use().cache.clear()

    @property
    def tile_file(self) -> TileFile:
        """The open file, of this process."""
        return self._use()

    def factors(self, level: int) -> tuple[int, ...]:
        """By which a level can be read smaller; see `ScaledReader.factors`."""
        return tuple(self._use().stored(level).scaled) if self._is_direct(level) else ()

    def read_scaled(self, region: Region, level: int, factor: int) -> NDArray[np.uint8]:
        """Read a level smaller by a factor; see `ScaledReader.read_scaled`."""
        width, height = self.level_dimensions[level]
        canvas = white(region.height, region.width)
        part = region.clipped(-(-width // factor), -(-height // factor))
        if part is not None:
            x, y = part.x - region.x, part.y - region.y
            out = canvas[y : y + part.height, x : x + part.width]
            self._use().read(part, level, partial(self._mean_of, factor), out, factor)
        return canvas

    def _mean_of(self, factor: int, tile: Tile, error: TileError | None) -> NDArray[np.uint8]:
        """Tile that must be read as it is: left out, damaged (which is then told), or cut by the edge within a px."""
        inside = tile.inside
        covered = Region(inside.x * factor, inside.y * factor, inside.width * factor, inside.height * factor)
        boxes = self.read_region(covered, tile.level).reshape(inside.height, factor, inside.width, factor, 3)
        mean: NDArray[np.float64] = boxes.mean(axis=(1, 3))
        return np.rint(mean).astype(np.uint8)

    def close(self) -> None:
        """Give the handles back; reading again reopens them."""
        super().close()
        if self._took_over:  # where this reader could not be made, the library goes on without it
            self._library.close()

    def _open(self) -> TileFile:
        if self._library.vendor not in PLAIN_VENDORS:
            raise SlideError(f"slides of vendor {self._library.vendor} cannot be read directly", path=self.path)
        levels = find_tile_levels(self.path, self._library.level_dimensions)
        try:
            return TileFile(self.path, levels)
        except OSError as error:
            raise SlideError(f"cannot be read: {error.strerror}", path=self.path) from error

    def _shut(self, handle: TileFile) -> None:
        """Nothing: the file is closed when no thread reads from it any more."""

    def _facts(self, handle: TileFile) -> SlideFacts:
        library = self._library
        return SlideFacts(
            vendor=library.vendor,
            level_dimensions=library.level_dimensions,
            level_downsamples=library.level_downsamples,
            properties=library.properties,
            bounds=library.bounds,
        )

    def _read(self, part: Region, level: int) -> NDArray[np.uint8]:
        if not self._is_direct(level):
            return self._library.read_region(part, level)
        return self._use().read(part, level, self._stand_in)

    def _read_into(self, part: Region, level: int, out: NDArray[np.uint8]) -> None:
        if self._is_direct(level):
            self._use().read(part, level, self._stand_in, out)
        else:
            self._library.read_region(part, level, out)

    def _stand_in(self, tile: Tile, error: TileError | None) -> NDArray[np.uint8]:
        if error is None:
            # Left out by the scanner: Aperio's are made from finer levels, others are glass; the library knows.
            return self._library.read_region(tile.inside, tile.level)
        problem = f"tile in column {tile.column}, row {tile.row} of level {tile.level} cannot be read: {error}"
        if self._damaged_tiles == "white":
            warnings.warn(f"{self.path}: {problem}; left white", UserWarning, stacklevel=2)
            return white(tile.inside.height, tile.inside.width)
        remedy = "the file may be damaged or cut off: copy it again"
        raise SlideError(problem, path=self.path, remedy=remedy) from error

    def _is_direct(self, level: int) -> bool:
        if level not in self._direct:
            plain = isinstance(self._use().levels[level], TileLevel)
            self._direct[level] = plain and (not self._check or (self._may_agree(level) and self._agrees(level)))
        return self._direct[level]

    def _may_agree(self, level: int) -> bool:
        """Whether nothing is known by which the library reads a level in another way."""
        # OpenSlide paints whatever lies below a tile that Aperio left out from finer levels, stored or not.
        finer = [each for each in self._use().levels[:level] if isinstance(each, TileLevel)]
        return self.vendor != "aperio" or all(each.counts.all() for each in finer)

    def _agrees(self, level: int) -> bool:
        """Whether the library gives the same pixels; not, where there is nothing to compare."""
        handle, step = self._use(), self.level_downsamples[level]
        stored = handle.stored(level)
        tiles = (tile_at(stored, level, column, row).inside for row, column in stored.examples())
        places = list(tiles) if step.is_integer() else _undisplaced_blocks(stored, step)
        for place in places:
            try:
                ours = handle.read(place, level, self._stand_in)
                theirs = self._library.read_region(place, level)
            except SlideError:
                return False
            if np.abs(ours.astype(np.int16) - theirs).max() > ROUNDING:
                return False
        return bool(places)

    def _why_not(self, level: int) -> str:
        stored = self._use().levels[level]
        differs = f"its pixels differ from those of {self._library.backend}"
        return f"level {level}: {differs if isinstance(stored, TileLevel) else stored}"


def _undisplaced_blocks(stored: TileLevel, step: float) -> list[Region]:
    """Blocks to compare, chosen like `TileLevel.examples`, of those that OpenSlide reads from next to a level-0 px."""
    columns, rows = (
        [at for at in range(0, side, BLOCK_PX) if abs(round(at * step) / step - at) < _DISPLACED_PX][:_MOST]
        for side in (stored.width, stored.height)
    )
    blocks = [Region(x, y, BLOCK_PX, BLOCK_PX).clipped(stored.width, stored.height) for y in rows for x in columns]
    held = [block for block in blocks if block is not None and _counts(block, stored).all()]
    if not held:
        return []
    fullest = int(np.argmax([_counts(block, stored).sum() for block in held]))
    return [held[index] for index in sorted({0, len(held) // 2, fullest})]


def _counts(place: Region, stored: TileLevel) -> NDArray[np.int64]:
    """Bytes of the tiles that a place touches, (rows, columns)."""
    width, height = stored.tile_width, stored.tile_height
    rows = slice(place.y // height, -(-place.y_end // height))
    return stored.counts[rows, place.x // width : -(-place.x_end // width)]
