"""Whatever a library hands out, as RGB uint8 on white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WHITE = 255


def to_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """RGB of grey, grey-alpha, RGB or RGBA pixels.

    Parameters
    ----------
    pixels : (h, w) or (h, w, 1 to 4) array of bool, uint8 or uint16
        16-bit values span 0 to 65535; two and four channels have alpha last, not premultiplied.

    Returns
    -------
    (h, w, 3) uint8 array
        Transparent parts are white. Always a copy, and writable.

    Raises
    ------
    ValueError
        Another dtype or number of channels: no picture that one can look at.
    """
    samples = _eight_bit(pixels)
    samples = samples[..., np.newaxis] if samples.ndim == 2 else samples
    channels = samples.shape[2]
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"{channels} channels are neither grey nor RGB")
    colour = samples[..., : channels - 1] if channels in (2, 4) else samples
    colour = _on_white(colour, samples[..., -1:]) if channels in (2, 4) else colour
    return np.array(np.broadcast_to(colour, (*colour.shape[:2], 3)), order="C")


def white(height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of glass."""
    return np.full((height, width, 3), WHITE, np.uint8)


def room_for(height: int, width: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 to read into: `out` if given, else a new array, not cleared.

    Raises
    ------
    ValueError
        `out` has another shape or dtype.
    """
    if out is None:
        return np.empty((height, width, 3), np.uint8)
    if out.shape != (height, width, 3) or out.dtype != np.uint8:
        raise ValueError(f"out is {out.shape} {out.dtype}, not {(height, width, 3)} uint8")
    return out


def put(pixels: NDArray[np.uint8], out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """`out` with the pixels in it; the pixels themselves where it is None."""
    if out is None:
        return pixels
    canvas = room_for(pixels.shape[0], pixels.shape[1], out)
    canvas[...] = pixels
    return canvas


def _eight_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(WHITE)
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{pixels.dtype} samples; 8 or 16 bits, unsigned, can be read")
    return pixels


def _on_white(colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if alpha.size == 0 or alpha.min() == WHITE:
        return colour
    opaque = alpha.astype(np.uint16)
    blended = (colour * opaque + WHITE * (WHITE - opaque) + WHITE // 2) // WHITE
    return blended.astype(np.uint8)
