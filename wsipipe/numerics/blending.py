"""Overlapping windows, blended into one map without seams, a band of rows at a time.

Every cell is the mean of the windows that cover it, weighted by a tent that falls towards the window's border; the sum
is divided by the sum of the same weights, so that a constant stays constant and no seam can show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError

Predict = Callable[[slice, slice], NDArray[np.float32] | None]


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """First cells of windows that cover [0, length), neighbours overlapping by at least `overlap`.

    The last window is moved back to end at `length`, so that all windows have the same size where the map allows.
    """
    if not 0 <= overlap < window:
        raise NumericsError(f"windows of {window} cells cannot overlap by {overlap}")
    if length <= window:
        return [0]
    starts = list(range(0, length - window, window - overlap))
    return [*starts, length - window]


def blend_windows(
    shape: tuple[int, int], predict: Predict, *, window: int, overlap: int, channels: tuple[int, ...] = ()
) -> Iterator[NDArray[np.float32]]:
    """Blend predictions of overlapping windows.

    Parameters
    ----------
    shape : (int, int)
        (rows, cols) of the map.
    predict : callable
        Takes a row slice and a column slice, returns a (rows, cols, *channels) float32 prediction, or None for a window
        with nothing in it (counts as zeros).
    window, overlap : int
        In cells.
    channels : tuple of int
        What each cell holds: () one number, (K,) so many, each blended alone.

    Yields
    ------
    (n, cols, *channels) float32 array
        Consecutive bands of rows, together the whole map. No more than two rows of windows are in memory.
    """
    rows, cols = shape
    top = 0
    total = np.zeros((0, cols, *channels), np.float32)
    weight = np.zeros((0, cols, *(1 for _ in channels)), np.float32)
    starts = window_starts(rows, window, overlap)
    for start, following in zip(starts, [*starts[1:], rows], strict=True):
        height = min(window, rows - start)
        total, weight = _grown(total, start + height - top), _grown(weight, start + height - top)
        _add_row_of_windows(total[start - top :], weight[start - top :], start, cols, predict, window, overlap)
        done = following - top
        yield total[:done] / weight[:done]
        total, weight, top = total[done:], weight[done:], following


def _add_row_of_windows(
    total: NDArray[np.float32],
    weight: NDArray[np.float32],
    start: int,
    cols: int,
    predict: Predict,
    window: int,
    overlap: int,
) -> None:
    height = len(total)
    for left in window_starts(cols, window, overlap):
        width = min(window, cols - left)
        tent = np.outer(_tent(height, overlap), _tent(width, overlap))
        tent = tent.reshape(*tent.shape, *weight.shape[2:])
        values = predict(slice(start, start + height), slice(left, left + width))
        weight[:, left : left + width] += tent
        if values is not None:
            total[:, left : left + width] += tent * values


def _tent(length: int, overlap: int) -> NDArray[np.float32]:
    """Weights that rise over `overlap` cells from each end; never zero."""
    ramp = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)) / (overlap + 1)
    return np.minimum(ramp, 1.0).astype(np.float32)


def _grown(array: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), np.float32)])
