"""A mask and the map that it was segmented from, as one probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Below 1, so that no rounding lifts a cell outside the mask to 0.5.
_MOST = np.float32(0.995)
# Between these lies the level at which two phases of a probability are told apart.
LEVELS = (0.4, 0.6)
_APART = 0.5


def bounded_means(c1: float, c2: float) -> tuple[float, float] | None:
    """Means to segment a probability with, where those that eq. 6 fitted are not to be believed.

    Fitted means put a network right that is too careful, or too bold, on a slide of another stain. Where a map shows
    one phase only (a slide without target, say) they would split it in two. So the level between them is held to
    `LEVELS`.

    Parameters
    ----------
    c1, c2 : float
        Fitted means of the two phases.

    Returns
    -------
    (float, float) or None
        Means to segment the map with once more; None where the fitted ones stand.
    """
    level = (c1 + c2) / 2
    bounded = min(max(level, LEVELS[0]), LEVELS[1])
    return None if bounded == level else (bounded + _APART / 2, bounded - _APART / 2)


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
