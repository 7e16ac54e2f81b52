"""Tissue of a slide, taken from what `tile` wrote where that is up to date."""

from __future__ import annotations

from pathlib import Path

from wsipipe.config import TileSettings
from wsipipe.errors import StoreError
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.tile import TilePaths, plan_tiles
from wsipipe.pipeline.tissue import slide_tissue
from wsipipe.slides import MppView, SlideEntry
from wsipipe.store.tile_file import TileInfo, read_tile_file, read_tile_info


def tissue_for(entry: SlideEntry, view: MppView, out: Path, settings: TileSettings) -> Tissue:
    """Read the tissue of a slide from its tile file, or find it; the result is the same.

    Parameters
    ----------
    entry : SlideEntry
        The slide.
    view : MppView
        The opened slide at the resolution of `settings`.
    out : Path
        Project folder.
    settings : TileSettings
        What the tile file must have been made with.

    Raises
    ------
    ResolutionError, TissueError, SlideError
        As `wsipipe.pipeline.tissue.slide_tissue`.
    """
    tiles = TilePaths.of(out, entry.key).tiles
    # The frame of the outlines (`crop`) does not touch the mask.
    wanted = [plan_tiles(entry, view, settings, patches_exported=False, crop=crop) for crop in (True, False)]
    if tiles.is_file():
        try:
            if any(_same_tissue(read_tile_info(tiles), info) for info in wanted):
                return read_tile_file(tiles).tissue
        except StoreError:
            pass  # cut off, or of another version: it is found again
    return slide_tissue(view.reader, settings)


def _same_tissue(found: TileInfo, wanted: TileInfo) -> bool:
    return (found.slide_identity, found.settings_digest, found.slide_mpp, found.slide_size) == (
        wanted.slide_identity,
        wanted.settings_digest,
        wanted.slide_mpp,
        wanted.slide_size,
    )
