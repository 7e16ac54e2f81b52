"""Find the tissue of an opened slide."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsipipe.config import TileSettings, TissueSettings
from wsipipe.errors import TissueError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.tissue import Tissue, tissue_mask
from wsipipe.slides import read_overview, require_mpp
from wsipipe.slides.base import SlideReader

# Pictures of single cores are small: their outline should still be finer than a cell of any map.
_SHORT_SIDE_PX = 128
_OVERVIEW_PX = 1 << 21
_EVERYTHING_PX = 1024
# px of the overview: sizes of slides times quotients of resolutions.
_ROUNDING = 1e-6


def slide_tissue(reader: SlideReader, settings: TileSettings) -> Tissue:
    """Find the tissue that patches are laid over.

    Parameters
    ----------
    reader : SlideReader
        The slide.
    settings : TileSettings
        Where `tissue.detect` is off, all of the picture is tissue. So it is where `mpp` is None and the picture's
        resolution is unknown: nothing says how large a speck, a cell or a hole is there.

    Returns
    -------
    Tissue
        Mask and grid in level-0 px, origin (0, 0).

    Raises
    ------
    ResolutionError, TissueError, SlideError
        As `find_tissue`.
    """
    if not settings.tissue.detect or (settings.mpp is None and reader.mpp is None):
        return everything(*reader.dimensions)
    return find_tissue(reader, settings.tissue)


def find_tissue(reader: SlideReader, settings: TissueSettings) -> Tissue:
    """Detect tissue on the overview of a slide.

    Parameters
    ----------
    reader : SlideReader
        The slide; its mpp must be known.
    settings : TissueSettings
        Resolution of the detection, smallest piece and hole.

    Returns
    -------
    Tissue
        Mask and its grid in level-0 px, origin (0, 0); the last row and column may reach past the slide.

    Raises
    ------
    ResolutionError
        The slide has no mpp.
    TissueError
        Dark background, or no tissue.
    SlideError
        The slide is damaged.
    """
    own = require_mpp(reader)
    mpp = detection_mpp(reader.dimensions, own, settings)
    rgb = read_overview(reader, mpp)
    _mend_margin(rgb, reader.dimensions, own / mpp)
    try:
        mask = tissue_mask(rgb, mpp=mpp, settings=settings)
    except TissueError as error:
        raise TissueError(error.problem, path=reader.path, remedy=error.remedy) from error
    rows, cols = mask.shape
    return Tissue(mask, CellGrid(rows=rows, cols=cols, cell_px=mpp / own))


def _mend_margin(rgb: NDArray[np.uint8], dimensions: tuple[int, int], scale: float) -> None:
    """Give a last row and column that reach past the slide the colours of those before them.

    They are mixed with the white beyond, which beside a smear of stain looks like texture, and so like tissue.
    """
    for axis, side in enumerate(reversed(dimensions)):
        lines = rgb.swapaxes(0, axis)
        if len(lines) > max(1.0, side * scale + _ROUNDING):
            lines[-1] = lines[-2]


def detection_mpp(dimensions: tuple[int, int], mpp: float, settings: TissueSettings) -> float:
    """Resolution of the overview in um per px: finer for small pictures, never finer than the picture.

    Of large slides it is coarser, up to twice, where the overview would have more than two megapixels: the outline
    stays the same up to 1% of the tissue's area, and the time bounded.

    Parameters
    ----------
    dimensions : (int, int)
        (width, height) of the slide in level-0 px.
    mpp : float
        um per level-0 px.
    settings : TissueSettings
        The resolution for slides of ordinary size.
    """
    width, height = (side * mpp for side in dimensions)
    bounded = min(math.sqrt(width * height / _OVERVIEW_PX), 2 * settings.mpp)
    return max(mpp, min(max(settings.mpp, bounded), min(width, height) / _SHORT_SIDE_PX))


def everything(width: int, height: int) -> Tissue:
    """Call all of a picture of `width` x `height` level-0 px tissue."""
    grid = CellGrid.covering(width, height, max(1.0, max(width, height) / _EVERYTHING_PX))
    return Tissue(np.ones(grid.shape, dtype=bool), grid)
