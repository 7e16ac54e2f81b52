"""Resample by separable, antialiased, linear interpolation on one global grid.

Every output pixel is computed from its own global coordinate, never from where a region starts, so that any tiling
gives the same values to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Source px of a band: its floats stay in the processor's cache, and the allocator does not hand their pages back and
# fetch them afresh for every region, which took as long as the arithmetic.
_BAND_PX = 32


@dataclass(frozen=True)
class Taps:
    """Weights of one axis.

    Parameters
    ----------
    index : (n, taps) int64 array
        Source px of every output px, in the source frame.
    weight : (n, taps) float32 array
        Non-negative; every row sums to 1.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def start(self) -> int:
        """First source px needed."""
        return int(self.index[0, 0])

    @property
    def stop(self) -> int:
        """Behind the last source px needed."""
        return int(self.index[-1, -1]) + 1


def linear_taps(start: int, count: int, ratio: float) -> Taps:
    """Triangle filter, as wide as an output px where that is wider than a source px.

    Parameters
    ----------
    start, count : int
        Output px along one axis.
    ratio : float
        Source px per output px; the corners (0, 0) of both frames coincide.
    """
    centre = (np.arange(start, start + count, dtype=np.float64) + 0.5) * ratio
    support = max(ratio, 1.0)
    # The px whose centres lie within the filter: no more than this many do.
    first = np.floor(centre - support + 0.5).astype(np.int64)
    index = first[:, None] + np.arange(int(np.ceil(2 * support)))
    weight = np.clip(1 - np.abs(index + 0.5 - centre[:, None]) / support, 0, None)
    return Taps(index, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))


def resample(source: NDArray[np.uint8], rows: Taps, cols: Taps) -> NDArray[np.uint8]:
    """Apply the taps of both axes.

    Parameters
    ----------
    source : (rows.stop - rows.start, cols.stop - cols.start, 3) uint8 array
        Source px that the taps need.

    Returns
    -------
    (n rows, n cols, 3) uint8 array
    """
    across = _matrix(cols)
    pixels = np.empty((len(rows.index), len(cols.index), 3), np.uint8)
    done = 0
    for part in _bands(rows):
        values = source[part.start - rows.start : part.stop - rows.start].astype(np.float32)
        high = _along_first(_matrix(part), values)
        wide = _along_first(across, _transposed(high))
        pixels[done : done + len(part.index)] = _transposed(np.rint(wide, out=wide).astype(np.uint8))
        done += len(part.index)
    return pixels


def _transposed(pixels: NDArray[Any]) -> NDArray[Any]:
    """Swap rows and columns of (n, m, 3), moving a pixel's channels together: twice as fast as one by one."""
    n, m, channels = pixels.shape
    whole = pixels.view(f"V{channels * pixels.itemsize}").reshape(n, m)
    return np.ascontiguousarray(whole.T).view(pixels.dtype).reshape(m, n, channels)


def _bands(taps: Taps) -> list[Taps]:
    """Cut output px into runs that need about `_BAND_PX` source px."""
    step = max(1, len(taps.index) * _BAND_PX // (taps.stop - taps.start))
    starts = range(0, len(taps.index), step)
    return [Taps(taps.index[at : at + step], taps.weight[at : at + step]) for at in starts]


def _matrix(taps: Taps) -> csr_array:
    # Imported here: scipy.sparse costs a fifth of a second, and listing slides needs none of it.
    from scipy.sparse import csr_array

    n, width = taps.index.shape
    bounds = np.arange(0, n * width + 1, width)
    return csr_array(
        (taps.weight.ravel(), (taps.index - taps.start).ravel(), bounds), shape=(n, taps.stop - taps.start)
    )


def _along_first(matrix: csr_array, source: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(matrix @ source.reshape(source.shape[0], -1)).reshape(matrix.shape[0], *source.shape[1:])
