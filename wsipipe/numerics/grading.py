"""A mask and the map that it was segmented from, as one probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Below 1, so that no rounding lifts a cell outside the mask to 0.5.
_MOST = np.float32(0.995)
# Means of the two phases where a map does not show both: halfway between no opinion and a sure one.
PLAIN_MEANS = (0.75, 0.25)


def shows_both(c1: float, c2: float) -> bool:
    """Whether the means of eq. 6 that were fitted to a map of probabilities lie on both sides of 0.5.

    Where they do not the map shows one phase only (a slide without target, say), which must not be split in two:
    segment it again with `PLAIN_MEANS`.
    """
    return c1 > 0.5 > c2


def graded(u: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half the mask plus half of z: at least 0.5 exactly on the mask, and graded by z on both sides.

    Parameters
    ----------
    u : (rows, cols) float32 array
        Minimiser of eq. 6; the mask is u > 0.5.
    z : (rows, cols) float32 array
        Map that u segments, in [0, 1].

    Returns
    -------
    (rows, cols) float32 array
        In [0, 1).
    """
    probability = np.minimum(z, _MOST)
    probability += u > np.float32(0.5)
    probability /= 2
    return probability
