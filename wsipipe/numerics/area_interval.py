"""How far the area in target may be from what a probability map says of it.

Cells are not independent witnesses: where one gland is missed, all of its cells are, and a stain that misleads a
network misleads it everywhere. Two assumptions stand for that, one for each range:

* Blocks of `BLOCK_UM` squared err as a whole: in a block, one number drawn evenly from [0, 1] is the threshold for all
  of its cells. Each cell is in target as often as its probability says, and no model with these probabilities lets the
  area of a block vary more. Blocks are independent of each other.
* All logits of a slide are off by one number, normal with mean 0 and the standard deviation that held-out points give
  (`wsipipe.numerics.calibration.Calibration.shift`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

BLOCK_UM = 250.0  # some two glands; finer blocks cover too seldom (benchmarks/calibration.py --block)
DRAWS = 2000
LEVEL = 0.95
_VALUES = 256


@dataclass(frozen=True)
class AreaInterval:
    """Area in target, in px of the raster.

    Parameters
    ----------
    expected : float
        Sum of the probabilities.
    low, high : float
        Ends of the interval that holds 95% of the drawn areas.
    """

    expected: float
    low: float
    high: float


def area_interval(
    bands: Iterable[NDArray[np.uint8]], *, block_px: int, shift: float, seed: int = 0, draws: int = DRAWS
) -> AreaInterval:
    """Draw the area in target of a probability raster.

    Parameters
    ----------
    bands : iterable of (h, w) uint8 arrays
        round(255 p), of consecutive rows, in bands of any height.
    block_px : int
        Side of a block in px; those at the right and lower edge are smaller.
    shift : float
        Standard deviation, in logits, of the error that the whole raster shares.
    seed, draws : int
        Of the draws, and their number.

    Returns
    -------
    AreaInterval
        The same for whatever bands.

    Notes
    -----
    Memory is that of a band and of 256 counts for each block of a row of blocks.
    """
    rng = np.random.default_rng(seed)
    shifts = rng.normal(0.0, shift, (draws, 1)) if shift > 0 else np.zeros((draws, 1))
    total, expected = np.zeros(draws), 0.0
    for counts in _block_counts(bands, block_px):
        held = counts[counts[:, 1:].any(axis=1)]
        total += _drawn(held, shifts, rng)
        expected += float((held.sum(axis=0) * np.arange(_VALUES)).sum()) / (_VALUES - 1)
    low, high = np.quantile(total, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return AreaInterval(expected, float(low), float(high))


def _drawn(counts: NDArray[np.int64], shifts: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Pixels above the threshold drawn for each block, summed over the blocks; (draws,)."""
    drawn = rng.random((len(shifts), len(counts)))
    # A cell is in where expit(logit p + shift) > drawn: the shift moves the threshold, not each cell.
    least = np.floor(expit(logit(drawn) - shifts) * (_VALUES - 1)).astype(np.int64) + 1
    above = np.zeros((len(counts), _VALUES + 1), np.int64)
    above[:, :-1] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    return np.asarray(above[np.arange(len(counts)), least].sum(axis=1), np.float64)


def _block_counts(bands: Iterable[NDArray[np.uint8]], side: int) -> Iterable[NDArray[np.int64]]:
    """Count each value, (blocks, 256), one row of blocks after the other."""
    counts, rows = np.zeros((0, _VALUES), np.int64), 0
    for band in bands:
        start = 0
        while start < len(band):
            part = band[start : start + side - rows]
            counted = _counted(part, side)
            counts = counted if rows == 0 else counts + counted
            start, rows = start + len(part), rows + len(part)
            if rows == side:
                yield counts
                rows = 0
    if rows:
        yield counts


def _counted(part: NDArray[np.uint8], side: int) -> NDArray[np.int64]:
    block = np.arange(part.shape[1]) // side
    count = int(block[-1]) + 1
    flat = (block * _VALUES + part.astype(np.int64)).ravel()
    return np.bincount(flat, minlength=count * _VALUES).reshape(count, _VALUES)
