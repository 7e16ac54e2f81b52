"""Find the tissue of an opened slide."""

from __future__ import annotations

from wsipipe.config import TissueSettings
from wsipipe.geometry import CellGrid
from wsipipe.numerics.tissue import Tissue, tissue_mask
from wsipipe.slides import read_overview, require_mpp
from wsipipe.slides.base import SlideReader


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
        Mask and its grid in level-0 px, origin (0, 0).

    Raises
    ------
    ResolutionError
        The slide has no mpp.
    TissueError
        Dark background, or no tissue.
    """
    mpp0 = require_mpp(reader)
    rgb = read_overview(reader, settings.mpp)
    mask = tissue_mask(rgb, mpp=settings.mpp, settings=settings)
    rows, cols = mask.shape
    return Tissue(mask, CellGrid(rows=rows, cols=cols, cell_px=settings.mpp / mpp0))
