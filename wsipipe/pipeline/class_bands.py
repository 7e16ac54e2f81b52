"""Several classes of a slide, from the raster of their probabilities: labels, regions and figures, band by band."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.classes import TissueClass
from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.regions import Bands, regions_of
from wsipipe.store.raster import iter_bands

BAND_ROWS = 512


def label_bands(probability: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Most probable class of every pixel.

    Parameters
    ----------
    probability : iterable of (n, cols, K) uint8 arrays
        round(255 p) of each class, 0 for all where there is no tissue.

    Yields
    ------
    (n, cols) uint8 array
        1 for the first class, of equal ones the first; 0 where all are 0.
    """
    for band in probability:
        yield np.where(band.any(axis=2), band.argmax(axis=2) + 1, 0).astype(np.uint8)


@dataclass(frozen=True)
class OneClass:
    """A class among labels, as a mask in bands.

    Parameters
    ----------
    labels : Bands
        1, 2, ... for the classes, 0 for none.
    value : int
        Of the class.
    """

    labels: Bands
    value: int

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        """Bands (n, cols) bool."""
        return (band == self.value for band in self.labels)


def class_regions(
    labels: Bands,
    grid: CellGrid,
    classes: Sequence[TissueClass],
    *,
    mpp: float | None,
    probability: Path | None,
    simplify_px: float = 0.0,
) -> list[OutlinedRegion]:
    """Outline every component of every class, one class after the other.

    Parameters
    ----------
    labels : Bands
        1, 2, ... for the classes, 0 for none; bands of `BAND_ROWS` rows where there is a probability.
    grid, mpp, simplify_px
        See `regions_of`; each class is simplified by itself.
    classes : sequence of TissueClass
        Names and colours of the regions.
    probability : Path or None
        Raster with a channel for each class.

    Returns
    -------
    list of OutlinedRegion
        See `regions_of`; the mean probability is that of the region's own class.
    """
    return [
        region
        for value, of in enumerate(classes, start=1)
        for region in regions_of(
            OneClass(labels, value),
            grid,
            class_name=of.name,
            color=of.color,
            mpp=mpp,
            probability=None if probability is None else _channel(probability, value - 1),
            simplify_px=simplify_px,
        )
    ]


def _channel(probability: Path, index: int) -> Iterator[NDArray[np.uint8]]:
    return (band[..., index] for band in iter_bands(probability, BAND_ROWS))


class ClassBands:
    """The labels of a slide, read from its probability raster as often as somebody needs them.

    Parameters
    ----------
    probability : Path
        Raster with a channel for each class.
    classes : sequence of TissueClass
        In the order of the channels.
    """

    def __init__(self, probability: Path, classes: Sequence[TissueClass]) -> None:
        self._path, self._classes = probability, classes

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Bands (n, cols) uint8, see `label_bands`."""
        return label_bands(iter_bands(self._path, BAND_ROWS))

    def regions(self, grid: CellGrid, mpp: float | None) -> list[OutlinedRegion]:
        """Regions of all classes, see `class_regions`."""
        return class_regions(self, grid, self._classes, mpp=mpp, probability=self._path)

    def figures(self, regions: Sequence[OutlinedRegion]) -> dict[str, dict[str, Any]]:
        """Tell a report of each class: its value in the mask, colour, regions and pixels."""
        pixels = np.zeros(len(self._classes) + 1, np.int64)
        for band in self:
            pixels += np.bincount(band.ravel(), minlength=len(pixels))
        return {
            of.name: {
                "value": value,
                "color": list(of.color),
                "regions": sum(region.class_name == of.name for region in regions),
                "pixels": int(pixels[value]),
            }
            for value, of in enumerate(self._classes, start=1)
        }
