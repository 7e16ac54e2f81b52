"""Start of the iteration: the two means that part the values of a map best (Lloyd's iteration)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wsipipe.numerics.solvers.problem import Split

STEPS = 8


def two_means(split: Callable[[float], Split], *, low: float, high: float) -> tuple[float, float]:
    """Means c1 above and c2 below t = (c1 + c2) / 2, after at most 8 steps from the middle of the range.

    Parameters
    ----------
    split : callable
        Parts the map by a threshold t.
    low, high : float
        Range of the map, low < high.

    Returns
    -------
    c1, c2 : float
        c1 > c2.
    """
    c1, c2 = high, low
    for _ in range(STEPS):
        parts = split(float(np.float32((c1 + c2) / 2)))
        if parts.count_above in (0, parts.count):  # values next to one another: the threshold rounds onto one of them
            break
        means = parts.sum_above / parts.count_above, (parts.total - parts.sum_above) / (parts.count - parts.count_above)
        if means == (c1, c2) or not means[0] > means[1]:  # sums are rounded, too
            break
        c1, c2 = means
    return c1, c2
