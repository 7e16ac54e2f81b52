"""How weights rise during a training."""

from __future__ import annotations

import math


def sigmoid_rampup(progress: float) -> float:
    """exp(-5 (1 - t)^2): from 0.0067 to 1 (Laine and Aila, Temporal Ensembling, ICLR 2017).

    Parameters
    ----------
    progress : float
        t, share of the training that is done, in [0, 1].
    """
    return math.exp(-5.0 * (1.0 - progress) ** 2)


def linear_rampup(progress: float, share: float) -> float:
    """Rise from 0 to 1 over the first `share` of the training, in (0, 1]."""
    return min(1.0, progress / share)
