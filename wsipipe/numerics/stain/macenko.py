"""Macenko's stain normalisation (ISBI 2009): the two stains of a slide in optical density, and their strength.

The fit is torchstain's. A pixel's optical density is a sum of two stain vectors times their amounts; normalised, the
amounts stay, in shares of their 99th percentile, and the vectors and percentiles become those of the reference. So
the whole of it is one 3 x 3 matrix in optical density.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import StainError

PUBLISHED = (0.5626, 0.2159, 0.7201, 0.8012, 0.4062, 0.5581, 1.9705, 1.0308)
"""Reference of the code that its authors' method is mostly used by (mitkovetta/staining-normalization): stain matrix
(3, 2) by rows, columns haematoxylin and eosin, and the 99th percentiles of their amounts."""

LIGHT = 240.0
"""Grey value of clear glass, as in that code."""
_CLEAR = 0.15  # optical density below which a channel counts as clear there
_LEAST_PX = 2000
_LEAST_ANGLE = 5.0  # degrees; haematoxylin and eosin lie some 20 apart, the noise of grey pixels 1 or 2
_LEAST_AMOUNT = 0.05
_STRIP_PX = 2**15  # stays in the cache


def fit(rgb: NDArray[np.uint8]) -> tuple[float, ...]:
    """Find the two stains.

    Parameters
    ----------
    rgb : (n, 3) uint8 array
        Pixels of tissue.

    Returns
    -------
    tuple of 8 floats
        As `PUBLISHED`.

    Raises
    ------
    StainError
        Too few pixels absorb in every channel, or they show one stain or none.
    """
    from torchstain.base.normalizers import MacenkoNormalizer

    stained = int((_density()[rgb] >= _CLEAR).all(axis=1).sum())
    if stained < _LEAST_PX:
        raise StainError(f"has {stained} stained px in the sample of its tissue, {_LEAST_PX} are needed")
    normaliser = MacenkoNormalizer(backend="numpy")
    normaliser.fit(rgb, Io=LIGHT, beta=_CLEAR)
    _check(normaliser.HERef, normaliser.maxCRef)
    return tuple(float(value) for value in (*normaliser.HERef.ravel(), *normaliser.maxCRef))


def recolour(pixels: NDArray[np.uint8], own: tuple[float, ...], target: tuple[float, ...]) -> NDArray[np.uint8]:
    """Bring pixels from one stain to another.

    Parameters
    ----------
    pixels : (..., 3) uint8 array
        RGB.
    own, target : tuple of 8 floats
        Of the slide and of the reference, as `PUBLISHED`.

    Returns
    -------
    (..., 3) uint8 array
        As torchstain gives for the pixels of the fit, but rounded where it cuts off.
    """
    density, matrix = _density().astype(np.float32), -_matrix(own, target).T.astype(np.float32)
    flat = pixels.reshape(-1, 3)
    out = np.empty_like(flat)
    for start in range(0, len(flat), _STRIP_PX):
        values = density.take(flat[start : start + _STRIP_PX]) @ matrix
        np.exp(np.minimum(values, 1.0, out=values), out=values)  # what is brighter is cut at 255 anyway
        values *= np.float32(LIGHT)
        np.minimum(values, 255, out=values)
        values += np.float32(0.5)
        out[start : start + _STRIP_PX] = values
    return out.reshape(pixels.shape)


def _matrix(own: tuple[float, ...], target: tuple[float, ...]) -> NDArray[np.float64]:
    """(3, 3): optical density of the slide to that of the reference."""
    (stains, most), (new_stains, new_most) = _split(own), _split(target)
    return np.asarray((new_stains * (new_most / most)) @ np.linalg.pinv(stains))


def _split(numbers: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.reshape(numbers[:6], (3, 2)), np.asarray(numbers[6:])


def _density() -> NDArray[np.float64]:
    """Optical density of the 256 grey values, natural logarithm."""
    return np.asarray(-np.log((np.arange(256) + 1.0) / LIGHT))


def _check(stains: NDArray[np.float64], most: NDArray[np.float64]) -> None:
    """Refuse what would blow up noise: vectors of one direction, amounts near nothing."""
    angle = float(np.degrees(np.arccos(np.clip(stains[:, 0] @ stains[:, 1], -1, 1))))
    if not angle >= _LEAST_ANGLE:
        raise StainError(f"shows no two stains: their colours lie {angle:.1f} degrees apart")
    if not (most >= _LEAST_AMOUNT).all():
        raise StainError(f"shows no two stains: the weaker one has an optical density of {most.min():.2f}")
