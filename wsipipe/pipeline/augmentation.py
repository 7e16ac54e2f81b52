"""Windows seen another way: flips, quarter turns and, for images, other colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Plane = TypeVar("Plane", bound=np.generic)

# Scanners and stains differ by about this much in gain and offset of a channel, values in [0, 1].
_GAIN, _OFFSET = 0.15, 0.05


@dataclass(frozen=True)
class Turn:
    """One of the eight symmetries of the square.

    Parameters
    ----------
    quarters : int
        Quarter turns counter-clockwise.
    mirrored : bool
        Whether the turned window is flipped left to right.
    """

    quarters: int = 0
    mirrored: bool = False

    def __call__(self, array: NDArray[Plane]) -> NDArray[Plane]:
        """Turn the last two axes (h, w) of an array."""
        turned = np.rot90(array, self.quarters, axes=(-2, -1))
        return np.flip(turned, -1) if self.mirrored else turned


def draw_turn(rng: np.random.Generator) -> Turn:
    """Draw any of the eight symmetries."""
    return Turn(int(rng.integers(4)), bool(rng.integers(2)))


def jitter_colours(rgb: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Change gain and offset of each channel of (3, h, w) RGB in [0, 1]; the result stays in [0, 1]."""
    gain = 1 + rng.uniform(-_GAIN, _GAIN, size=(3, 1, 1))
    offset = rng.uniform(-_OFFSET, _OFFSET, size=(3, 1, 1))
    return np.clip(rgb * gain.astype(np.float32) + offset.astype(np.float32), 0, 1)


def stacked(arrays: Sequence[NDArray[Plane]], *, fill: float | None) -> NDArray[Plane]:
    """Stack arrays (..., h, w) of different sizes at their top-left corners.

    Parameters
    ----------
    arrays : sequence of arrays
        Equal but for h and w.
    fill : float or None
        Value past the end of smaller arrays; None repeats their last row and column.
    """
    height, width = (max(array.shape[axis] for array in arrays) for axis in (-2, -1))
    return np.stack([_grown(array, height, width, fill) for array in arrays])


def _grown(array: NDArray[Plane], height: int, width: int, fill: float | None) -> NDArray[Plane]:
    more = [(0, 0)] * (array.ndim - 2) + [(0, height - array.shape[-2]), (0, width - array.shape[-1])]
    if fill is None:
        return np.pad(array, more, mode="edge")
    return np.pad(array, more, constant_values=fill)
