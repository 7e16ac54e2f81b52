"""How sure a difference between two methods is: the paired bootstrap, resampled by patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import NumericsError

DRAWS = 10_000


@dataclass(frozen=True)
class Difference:
    """Mean difference of a figure between two methods, with its interval.

    Parameters
    ----------
    mean : float
        Over the images; nan where no image has a figure from both methods.
    low, high : float
        Ends of the confidence interval; nan where fewer than two patients are left.
    images, patients : int
        That were compared.
    """

    mean: float
    low: float
    high: float
    images: int
    patients: int


def paired_difference(
    figures: ArrayLike, baseline: ArrayLike, patients: Sequence[str], *, seed: int, level: float = 0.95
) -> Difference:
    """Compare two methods on the same images.

    Parameters
    ----------
    figures, baseline : (n,) float array
        A figure of every image under the method and under the baseline; nan where it is undefined: the image is
        left out of both.
    patients : sequence of n str
        Images of one patient are drawn together, because they are no independent evidence (cluster bootstrap).
    seed : int
        Of the draws.
    level : float
        Of confidence.

    Returns
    -------
    Difference
        `figures` less `baseline`. The interval is the percentile interval of 10 000 draws of patients with
        replacement, of the mean over the images of the drawn patients.

    Raises
    ------
    NumericsError
        The arrays have not one length.
    """
    a, b = np.asarray(figures, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if not a.shape == b.shape == (len(patients),):
        raise NumericsError(f"needs n figures twice and n patients, got {a.shape}, {b.shape} and {len(patients)}")
    known = np.isfinite(a) & np.isfinite(b)
    gaps = (a - b)[known]
    if not gaps.size:
        return Difference(math.nan, math.nan, math.nan, 0, 0)
    names, cluster = np.unique(np.asarray(patients, dtype=str)[known], return_inverse=True)
    sums, sizes = (np.bincount(cluster, weights=of).astype(np.float64) for of in (gaps, np.ones_like(gaps)))
    low, high = _interval(sums, sizes, seed, level) if len(names) > 1 else (math.nan, math.nan)
    return Difference(float(gaps.mean()), low, high, gaps.size, len(names))


def _interval(sums: NDArray[np.float64], sizes: NDArray[np.float64], seed: int, level: float) -> tuple[float, float]:
    """Percentile interval of sum(sums) / sum(sizes) over draws of clusters."""
    found = scipy.stats.bootstrap(
        (sums, sizes),
        lambda total, count, axis: total.sum(axis=axis) / count.sum(axis=axis),
        n_resamples=DRAWS,
        paired=True,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
