"""Tiled pyramidal TIFF written in one pass over the rows of the finest level."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsipipe._version import __version__
from wsipipe.store.atomic import atomic_path
from wsipipe.store.pyramid import Pixels, Reduce, Spill, cut_tiles, level_shapes, regroup

# Above this size the offsets of a classic TIFF (32 bits) could run over; tags and tile tables take the rest.
_CLASSIC_BYTES = 2**32 - 2**27
_THUMBNAIL_PX = 1024


@dataclass(frozen=True)
class Layout:
    """Size and tiling of a pyramid.

    Parameters
    ----------
    rows, cols : int
        Size of level 0 in px.
    channels : tuple of int
        () for grey, (3,) for RGB; others say in their tags what they are.
    tile : int
        Side of a tile in px.
    reduce : str
        How levels are halved, see `pyramid.halve`.
    """

    rows: int
    cols: int
    channels: tuple[int, ...]
    tile: int
    reduce: Reduce

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, cols) of each level."""
        return level_shapes(self.rows, self.cols, self.tile)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tiles before compression."""
        tiles = sum(-(-rows // self.tile) * -(-cols // self.tile) for rows, cols in self.shapes)
        return tiles * self.tile**2 * math.prod(self.channels)


def write_levels(
    path: Path,
    bands: Iterable[Pixels],
    layout: Layout,
    *,
    tags: Sequence[Mapping[str, object]],
    ome: bool = False,
    thumbnail: Mapping[str, object] | None = None,
) -> None:
    """Write a pyramid, whole or not at all.

    Parameters
    ----------
    path : Path
        File to write.
    bands : iterable of (h, w) or (h, w, 3) uint8 arrays
        Level 0 from top to bottom, taken one by one.
    layout : Layout
        Size and tiling.
    tags : sequence of mappings
        Options of `tifffile.TiffWriter.write` for each level.
    ome : bool
        Levels as SubIFDs of an OME-TIFF rather than top-level pages.
    thumbnail : mapping, optional
        Options for a second page that holds a small picture in one strip, as Aperio's slides have it.
    """
    rows = regroup(bands, shape=layout.shapes[0], channels=layout.channels, rows=layout.tile)
    with atomic_path(path) as temporary, ExitStack() as stack:
        big = layout.stored_bytes > _CLASSIC_BYTES
        writer = stack.enter_context(tifffile.TiffWriter(temporary, bigtiff=big, ome=ome))
        spills = [stack.enter_context(Spill(path.parent)) for _ in layout.shapes[1:]]
        first = {"software": f"wsipipe {__version__}", "subifds": len(spills) if ome else None, **tags[0]}
        _write_level(writer, spills[0].tee(rows, layout.reduce) if spills else rows, layout, 0, first)
        _fill_lower(spills, layout)
        if thumbnail is not None:
            _write_thumbnail(writer, spills, layout, thumbnail)
        for level in range(1, len(layout.shapes)):
            _write_level(writer, _parked(spills, layout, level), layout, level, tags[level])


def _fill_lower(spills: Sequence[Spill], layout: Layout) -> None:
    for level in range(1, len(spills)):
        spills[level].fill(_parked(spills, layout, level), layout.reduce)


def _parked(spills: Sequence[Spill], layout: Layout, level: int) -> Iterator[Pixels]:
    shape = layout.shapes[level]
    return spills[level - 1].bands(shape=shape, channels=layout.channels, rows=layout.tile)


def _write_level(
    writer: Any,  # noqa: ANN401 (tifffile is not typed here)
    bands: Iterable[Pixels],
    layout: Layout,
    level: int,
    tags: Mapping[str, object],
) -> None:
    told = {"photometric": "rgb" if layout.channels else "minisblack", **tags}
    writer.write(
        cut_tiles(bands, layout.tile),
        shape=(*layout.shapes[level], *layout.channels),
        dtype=np.uint8,
        tile=(layout.tile, layout.tile),
        maxworkers=1,  # more would compress a quarter of a gigabyte at a time
        **told,
    )


def _write_thumbnail(
    writer: Any,  # noqa: ANN401
    spills: Sequence[Spill],
    layout: Layout,
    tags: Mapping[str, object],
) -> None:
    levels = [level for level, shape in enumerate(layout.shapes) if level and max(shape) <= _THUMBNAIL_PX]
    if not levels:
        return
    picture = np.concatenate(list(_parked(spills, layout, levels[0])))
    writer.write(picture, photometric="rgb", rowsperstrip=len(picture), **tags)
