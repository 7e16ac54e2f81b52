"""Reinhard's colour transfer (IEEE CG&A 2001) in CIELAB: mean and deviation of L, a and b become the reference's.

The fit is torchstain's, as are the constants of the conversion (sRGB, D65, as in scikit-image).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import StainError

PUBLISHED = (65.22132, 28.934267, -14.142519, 15.800227, 9.263783, 6.0213304)
"""Means and deviations of L, a, b: slideflow's preset "v3", over some 50,000 tiles of 450 slides of TCGA."""

_CLEAR_GREY = 206  # the darkest channel of glass: optical density 0.15 below a white of 240
_LEAST_PX = 2000
_LEAST_DEVIATION = 0.5
_STRIP_PX = 2**14  # stays in the cache
_LEVELS = 2**14  # of linear light on its way to grey values: at most a fifth of a grey value apart
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])  # after the cube root
_BLACK = np.array([-16.0, 0.0, 0.0])


def fit(rgb: NDArray[np.uint8]) -> tuple[float, ...]:
    """Measure a stain's colours.

    Parameters
    ----------
    rgb : (n, 3) uint8 array
        Pixels of tissue; those without any stain are left out.

    Returns
    -------
    tuple of 6 floats
        As `PUBLISHED`.

    Raises
    ------
    StainError
        Too few pixels are stained, or they have one colour.
    """
    from torchstain.base.normalizers import ReinhardNormalizer

    stained = rgb[rgb.min(axis=1) <= _CLEAR_GREY]
    if len(stained) < _LEAST_PX:
        raise StainError(f"has {len(stained)} stained px in the sample of its tissue, {_LEAST_PX} are needed")
    normaliser = ReinhardNormalizer(backend="numpy")
    normaliser.fit(stained)
    numbers = tuple(float(value) for value in (*normaliser.target_means, *normaliser.target_stds))
    if min(numbers[3:]) < _LEAST_DEVIATION:
        raise StainError(f"is grey or of one colour: L, a, b deviate by {', '.join(f'{n:.2f}' for n in numbers[3:])}")
    return numbers


def recolour(pixels: NDArray[np.uint8], own: tuple[float, ...], target: tuple[float, ...]) -> NDArray[np.uint8]:
    """Bring pixels from the colours of a slide to those of a reference.

    Parameters
    ----------
    pixels : (..., 3) uint8 array
        RGB.
    own, target : tuple of 6 floats
        Of the slide and of the reference, as `PUBLISHED`.

    Returns
    -------
    (..., 3) uint8 array
        As torchstain gives for the pixels of the fit, but rounded where it cuts off.
    """
    linear, grey = _linear_light().astype(np.float32), _grey_values()
    to_cone, to_rgb = (_TO_XYZ / _WHITE[:, None]).T.astype(np.float32), (np.linalg.inv(_TO_XYZ) * _WHITE).T
    turn, shift = (part.astype(np.float32) for part in _affine(own, target))
    flat = pixels.reshape(-1, 3)
    out = np.empty_like(flat)
    for start in range(0, len(flat), _STRIP_PX):
        roots = _root(linear.take(flat[start : start + _STRIP_PX]) @ to_cone) @ turn + shift
        light = _unroot(roots) @ to_rgb.astype(np.float32)
        np.clip(light, 0, 1, out=light)
        light *= _LEVELS
        out[start : start + _STRIP_PX] = grey.take(light.astype(np.int32))
    return out.reshape(pixels.shape)


def _affine(own: tuple[float, ...], target: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3, 3) and (3,): the change of means and deviations, on the cube roots that L, a, b are linear in."""
    back, scale = np.linalg.inv(_TO_LAB), np.asarray(target[3:]) / np.asarray(own[3:])
    shift = back @ (scale * (_BLACK - np.asarray(own[:3])) + np.asarray(target[:3]) - _BLACK)
    return (back @ (scale[:, None] * _TO_LAB)).T, shift


def _root(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """CIE's cube root, linear near black; exp and log are several times as fast as cbrt."""
    roots = np.exp(np.log(np.maximum(light, np.float32(1e-6))) * np.float32(1 / 3))
    return np.where(light > np.float32(0.008856), roots, np.float32(7.787) * light + np.float32(16 / 116))


def _unroot(roots: NDArray[np.float32]) -> NDArray[np.float32]:
    near_black = (roots - np.float32(16 / 116)) / np.float32(7.787)
    return np.where(roots > np.float32(0.2068966), roots * roots * roots, near_black)


def _linear_light() -> NDArray[np.float64]:
    """Light of the 256 grey values of sRGB, in [0, 1]."""
    values = np.arange(256) / 255
    return np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)


def _grey_values() -> NDArray[np.uint8]:
    """Grey values of `_LEVELS` + 1 steps of light."""
    light = np.arange(_LEVELS + 1) / _LEVELS
    values = np.where(light > 0.0031308, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return (values * 255 + 0.5).astype(np.uint8)
