"""What all lists of patch features have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["trident", "clam", "stamp"]
LAYOUTS: tuple[Layout, ...] = ("trident", "clam", "stamp")
# Vectors of consecutive patches, (k, dim) float32, called anew for every pass over them.
Vectors = Callable[[], Iterator[NDArray[np.float32]]]


@dataclass(frozen=True)
class ListFacts:
    """What a list says beside vectors and corners; None where it says nothing.

    Parameters
    ----------
    layout : str
        "trident", "clam" or "stamp".
    unit : {"px", "um"}
        Of the corners and of `patch`: level-0 px, or um on the slide.
    patch : float or None
        Side of a patch in `unit`.
    patch_px : int or None
        Side of a patch in target px.
    overlap_px : int or None
        Overlap of neighbouring patches in target px.
    slide_size : (int, int) or None
        (width, height) in level-0 px.
    magnification : float or None
        Nominal target magnification: a bin, not a resolution.
    encoder : str or None
        What computed the vectors.
    slide : str or None
        Name of the slide.
    """

    layout: Layout
    unit: Literal["px", "um"]
    patch: float | None = None
    patch_px: int | None = None
    overlap_px: int | None = None
    slide_size: tuple[int, int] | None = None
    magnification: float | None = None
    encoder: str | None = None
    slide: str | None = None


@dataclass(frozen=True, eq=False)
class FeatureList:
    """A list of patch features, read.

    Parameters
    ----------
    path : Path
        The file.
    facts : ListFacts
        What it says of itself.
    corners : (n, 2) float64 array
        Top-left corners (x, y) in `facts.unit`.
    features : (n, dim) float16 array
        One vector per patch, all finite.
    """

    path: Path
    facts: ListFacts
    corners: NDArray[np.float64]
    features: NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class ListHeader:
    """What is written beside the vectors.

    Parameters
    ----------
    slide, encoder : str
        Names.
    slide_size : (int, int)
        (width, height) in level-0 px.
    slide_mpp : float
        um per level-0 px.
    scale : float
        Level-0 px per target px.
    patch_px, overlap_px : int
        In target px.
    dim : int
        Length of a vector.
    corners : (n, 2) float64 array
        Top-left corners (x, y) of the patches in level-0 px, in the order of the vectors.
    digest : str
        Names the settings that the vectors were made with.
    """

    slide: str
    encoder: str
    slide_size: tuple[int, int]
    slide_mpp: float
    scale: float
    patch_px: int
    overlap_px: int
    dim: int
    corners: NDArray[np.float64]
    digest: str
