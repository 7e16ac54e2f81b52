"""The whole slide at once, at a coarse resolution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import Region
from wsipipe.slides.base import SlideReader
from wsipipe.slides.view import MppView


def read_overview(reader: SlideReader, mpp: float | None) -> NDArray[np.uint8]:
    """Whole slide at a target resolution, read piece by piece.

    Parameters
    ----------
    reader : SlideReader
        The slide.
    mpp : float or None
        um per px of the overview; None: level-0 px.

    Returns
    -------
    (height, width, 3) uint8 array
        Shares its top-left corner with the slide. Memory beyond the result stays bounded, with or without a pyramid.

    Raises
    ------
    SlideError, ResolutionError
        The slide is damaged, or its resolution unknown.
    """
    view = MppView(reader, mpp)
    overview = view.read(Region(0, 0, view.width, view.height))
    reader.forget_tiles()  # nobody comes back to tiles of so coarse a level
    return overview
