"""Contrast maps (eq. 5) of feature maps too large for memory: read in windows, a few contrast maps at a time.

N in eq. 5 needs the range of S_p - eta S_q over the whole map before a single cell can be normalised. So the features
are read once for the ranges of all pairs of points, and once more for as many in-target points as there is memory for
contrast maps; most often that is all of them. `wsipipe.numerics.contrast` does the same in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError
from wsipipe.numerics.contrast import FLAT, check_valid
from wsipipe.numerics.correlation import check_points, prototypes, similarity, unit_features

WINDOW = 128  # cells squared that are read at once
HELD_VALUES = 1 << 28  # cells of contrast maps held at once: 1 GiB

Floats = NDArray[np.float32]
Read = Callable[[slice, slice], NDArray[np.float32]]
Window = tuple[slice, slice]


def read_prototypes(read: Read, shape: tuple[int, int], cells: NDArray[np.int64], *, side: int = 3) -> Floats:
    """Take the prototypes of points (`wsipipe.numerics.correlation.prototypes`) from windows round them.

    Parameters
    ----------
    read : callable
        read(rows, cols) -> (r, c, dim) float array: a window of the map, zeros where there are no features.
    shape : (int, int)
        (rows, cols) of the map.
    cells : (n, 2) int64 array
        Points (row, col); at least one.
    side : int
        Odd: cells squared that stand for a point.

    Returns
    -------
    (n, dim) float32 array
        Of length 1, or 0 where there are no features.
    """
    return np.concatenate([_read_prototype(read, shape, cell, side) for cell in check_points(cells, shape).tolist()])


def _read_prototype(read: Read, shape: tuple[int, int], cell: list[int], side: int) -> Floats:
    reach = side // 2
    rows, cols = (slice(max(0, at - reach), min(at + reach + 1, size)) for at, size in zip(cell, shape, strict=True))
    inside = np.array([[cell[0] - rows.start, cell[1] - cols.start]])
    return prototypes(np.asarray(read(rows, cols)), inside, side=side)


def stream_contrast(
    read: Read,
    valid: NDArray[np.bool_],
    inside: Floats,
    outside: Floats,
    *,
    eta: float = 0.6,
    held_values: int = HELD_VALUES,
) -> Iterator[Floats]:
    """Mean contrast map z_p of each in-target point (eq. 5), one after the other.

    Parameters
    ----------
    read : callable
        read(rows, cols) -> (r, c, dim) float array: a window of the map, of up to 128 x 128 cells.
    valid : (rows, cols) bool array
        Cells that count; windows without any are not read.
    inside, outside : (n, dim) and (m, dim) float32 arrays
        Prototypes of the in-target and the out-of-target points, of length 1; at least one each.
    eta : float
        Weight of the out-of-target correlation, in [0, 1].
    held_values : int
        Cells of contrast maps in memory at once (at least one map); fewer mean more passes over the features.

    Yields
    ------
    (rows, cols) float32 array
        In [0, 1], 0 where not valid and where the map has no contrast; as `wsipipe.numerics.contrast.contrast_map`.

    Raises
    ------
    NumericsError
        Nothing in target or nothing out of it, eta outside [0, 1], features that are not finite or do not fit.
    """
    check_valid(valid, valid.shape)
    if not len(inside) or not len(outside):
        raise NumericsError(f"contrast needs points of both kinds, got {len(inside)} in target, {len(outside)} out")
    if not 0 <= eta <= 1:
        raise NumericsError(f"eta lies in [0, 1], got {eta}")
    return _stream(_Map(read, valid), inside, outside, np.float32(eta), max(1, held_values // valid.size))


@dataclass(frozen=True)
class _Map:
    """A feature map that is read in windows."""

    read: Read
    valid: NDArray[np.bool_]

    def windows(self) -> Iterator[Window]:
        """Windows that hold valid cells."""
        rows, cols = self.valid.shape
        for top in range(0, rows, WINDOW):
            for left in range(0, cols, WINDOW):
                window = slice(top, min(top + WINDOW, rows)), slice(left, min(left + WINDOW, cols))
                if self.valid[window].any():
                    yield window

    def correlations(self, window: Window, vectors: Floats) -> Floats:
        """(n, k) correlations (eq. 4) of n vectors with the k valid cells of a window, in row-major order."""
        values, chosen = np.asarray(self.read(*window)), self.valid[window]
        if values.shape != (*chosen.shape, vectors.shape[1]):
            raise NumericsError(f"a window of {chosen.shape} cells came back with the shape {values.shape}")
        ((_, unit),) = unit_features(values[chosen][None])
        return similarity(vectors, unit)[:, 0]


def _stream(features: _Map, inside: Floats, outside: Floats, eta: np.float32, held: int) -> Iterator[Floats]:
    low, high = _ranges(features, inside, outside, eta)
    for first in range(0, len(inside), held):
        part = slice(first, first + held)
        yield from _contrasts(features, inside[part], outside, eta, (low[part], high[part]))


def _ranges(features: _Map, inside: Floats, outside: Floats, eta: np.float32) -> tuple[Floats, Floats]:
    """(n, m) smallest and largest ReLU(S_p - eta S_q) of every pair of points, over the valid cells."""
    low = np.full((len(inside), len(outside)), np.inf, np.float32)
    high = np.zeros_like(low)
    vectors = np.concatenate([inside, outside])
    for window in features.windows():
        correlation = features.correlations(window, vectors)
        others = -eta * correlation[len(inside) :]
        for p, own in enumerate(correlation[: len(inside)]):
            difference = others + own
            np.minimum(low[p], difference.min(axis=1), out=low[p])
            np.maximum(high[p], difference.max(axis=1), out=high[p])
    return np.maximum(low, np.float32(0)), high


def _contrasts(
    features: _Map, inside: Floats, outside: Floats, eta: np.float32, ranges: tuple[Floats, Floats]
) -> Floats:
    """(n, rows, cols) contrast maps of some in-target points, given the ranges of their pairs."""
    out = np.zeros((len(inside), *features.valid.shape), np.float32)
    vectors = np.concatenate([inside, outside])
    for window in features.windows():
        correlation, chosen = features.correlations(window, vectors), features.valid[window]
        others = -eta * correlation[len(inside) :]
        for p, own in enumerate(correlation[: len(inside)]):
            out[p][window][chosen] = _normalised(others + own, ranges[0][p], ranges[1][p]).mean(axis=0)
    return out


def _normalised(difference: Floats, low: Floats, high: Floats) -> Floats:
    """N(ReLU(d)^2) of (m, k) differences whose m ranges are known; 0 where a range is that of rounding."""
    square = np.square(np.clip(difference, low[:, None], high[:, None]))
    span = high * high - low * low
    contrast = high - low >= FLAT
    square -= (low * low)[:, None]
    square /= np.where(contrast, span, 1)[:, None]
    square[~contrast] = 0
    return square
