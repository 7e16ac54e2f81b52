"""Which patches of a slide are looked at: the grid, and the `tile` command's work on one slide."""

from __future__ import annotations

from wsipipe.config import TileSettings
from wsipipe.geometry import CellGrid


def patch_grid(width: int, height: int, scale: float, settings: TileSettings) -> CellGrid:
    """Cells of a patch map over a slide, each centred under its patch.

    Parameters
    ----------
    width, height : int
        Size of the slide in level-0 px.
    scale : float
        Level-0 px per target px.
    settings : TileSettings
        Patch size and overlap in target px.

    Returns
    -------
    CellGrid
        Cell (r, c) is a square of `stride_px` target px. Its patch has the top-left corner
        (c, r) * stride_px * scale in level-0 px; overlapping patches are larger than their cells, so the origin is
        half the overlap from the slide's corner and patch and cell share their centre.
    """
    stride = settings.stride_px * scale
    grid = CellGrid.covering(width, height, stride)
    margin = settings.overlap_px / 2 * scale
    return CellGrid(rows=grid.rows, cols=grid.cols, cell_px=stride, origin=(margin, margin))
