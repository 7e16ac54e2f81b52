"""Probabilities that mean what they say: temperature scaling on points that a network did not learn from.

One number, the temperature, divides all logits, so that cells keep their order and their side of 0.5. A second one, a
shift of all logits (Platt's scaling), is not applied: it would move the mask, and what a few held-out slides say of it
does not carry over to others. Its size does tell how far a whole slide may be off: `Calibration.shift`.

References
----------
Guo et al. 2017, "On calibration of modern neural networks".
Platt 1999, "Probabilistic outputs for support vector machines".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from wsipipe.errors import NumericsError

MIN_POINTS = 10  # of each class; fewer say next to nothing of how sure a network may be
HOTTEST = 10.0  # of the temperatures looked at; the coldest is 1
_FARTHEST = 5.0  # of the shifts looked at, in logits
_TINY = 2.0**-24  # of float32: a sigmoid that came out as 0 or 1 is taken for the last one before

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """What held-out points say of a network's probabilities.

    Parameters
    ----------
    temperature : float
        Divides the logits; at least 1: held-out points, which have chosen the epoch too, look easier than new ones, so
        that they are no reason to make a network surer than it is.
    shift : float or None
        Standard deviation, in logits, of an error that all cells of a slide share; None where nobody knows.
    in_target, out_of_target : int
        Held-out points.
    note : str
        What the user should know.
    """

    temperature: float = 1.0
    shift: float | None = None
    in_target: int = 0
    out_of_target: int = 0
    note: str = ""


def fit_calibration(logits: ArrayLike, label: ArrayLike) -> Calibration:
    """Fit the temperature to held-out points by their cross-entropy.

    Parameters
    ----------
    logits : (n,) float array
        What the network says at the points.
    label : (n,) int array
        1 in-target, 0 out-of-target.

    Returns
    -------
    Calibration
        Of temperature 1, with a note, where a class has fewer than `MIN_POINTS`. `shift` is the root mean square of the
        best shift b of all logits given its standard error s: sqrt(b^2 + s^2).

    Raises
    ------
    NumericsError
        The arrays differ in length, a logit is not finite, or a label is neither 0 nor 1.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(label, np.float64)
    if z.shape != y.shape or z.ndim != 1 or not np.isfinite(z).all() or not np.isin(y, (0, 1)).all():
        raise NumericsError(f"needs n finite logits and n labels 0 or 1, got {z.shape} and {y.shape}")
    inside, outside = int(y.sum()), int((1 - y).sum())
    if min(inside, outside) < MIN_POINTS:
        held = f"{inside} in-target and {outside} out-of-target points"
        note = f"not calibrated: only {held} were held out ({MIN_POINTS} of each are needed)"
        return Calibration(in_target=inside, out_of_target=outside, note=note)
    temperature = math.exp(_lowest(lambda log: _cross_entropy(z / math.exp(log), y), 0.0, math.log(HOTTEST)))
    scaled = z / temperature
    shift = _lowest(lambda b: _cross_entropy(scaled + b, y), -_FARTHEST, _FARTHEST)
    p = expit(scaled + shift)
    error = 1 / math.sqrt(max(float((p * (1 - p)).sum()), 1 / _FARTHEST**2))
    return Calibration(temperature, math.hypot(shift, error), inside, outside)


def calibrated(probability: Floats, temperature: float) -> Floats:
    """Probability float32 at a temperature, from that of a network (temperature 1); any shape."""
    if temperature == 1:
        return probability
    logits = logit(np.clip(probability, _TINY, 1 - _TINY, dtype=np.float64))
    return np.asarray(expit(logits / temperature), np.float32)


def expected_calibration_error(probability: ArrayLike, label: ArrayLike, *, bins: int = 15) -> float:
    """Mean distance between probability and share in target, over bins of equal width weighted by their size."""
    p, y = np.asarray(probability, np.float64).ravel(), np.asarray(label, np.float64).ravel()
    which = np.minimum((p * bins).astype(np.int64), bins - 1)
    said, true = (np.bincount(which, weights=values, minlength=bins) for values in (p, y))
    return float(np.abs(said - true).sum() / len(p))


def _cross_entropy(logits: NDArray[np.float64], label: NDArray[np.float64]) -> float:
    return float(np.mean(np.logaddexp(0, logits) - label * logits))


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    # Imported here: only training fits, prediction takes what was fitted.
    from scipy.optimize import minimize_scalar

    return float(minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
