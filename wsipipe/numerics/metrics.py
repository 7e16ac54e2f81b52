"""How well a mask agrees with a reference: the six figures of the paper's Table 1.

All take boolean masks (scores for the AUC) of one shape, any number of dimensions, and count every element; choose
the elements that count (valid cells) before. Conventions for empty masks:

* both masks empty: perfect agreement, 1.0 for Dice, precision, recall and kappa;
* only one of them empty: 0.0 for Dice, precision and recall;
* reference all of one class: no ranking to judge, the AUC is nan.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import NumericsError


def dice(mask: ArrayLike, reference: ArrayLike) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|); 1.0 where both are empty."""
    a, b = _pair(mask, reference)
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def accuracy(mask: ArrayLike, reference: ArrayLike) -> float:
    """Share of elements that agree."""
    a, b = _pair(mask, reference)
    return float((a == b).mean())


def precision(mask: ArrayLike, reference: ArrayLike) -> float:
    """Share of the mask that lies in the reference; for an empty mask 1.0 if the reference is empty too, else 0.0."""
    a, b = _pair(mask, reference)
    return _share(int((a & b).sum()), int(a.sum()), both_empty=not (a.any() or b.any()))


def recall(mask: ArrayLike, reference: ArrayLike) -> float:
    """Share of the reference that the mask covers; for an empty reference 1.0 if the mask is empty too, else 0.0."""
    a, b = _pair(mask, reference)
    return _share(int((a & b).sum()), int(b.sum()), both_empty=not (a.any() or b.any()))


def cohen_kappa(mask: ArrayLike, reference: ArrayLike) -> float:
    """Cohen's kappa, agreement beyond chance (Cohen 1960); 1.0 where both masks are constant and equal."""
    from sklearn.metrics import cohen_kappa_score

    a, b = _pair(mask, reference)
    if np.array_equal(a, b):
        return 1.0
    return float(cohen_kappa_score(a, b))


def auc(scores: ArrayLike, reference: ArrayLike) -> float:
    """Area under the receiver operating characteristic of scores; nan where the reference holds one class only."""
    from sklearn.metrics import roc_auc_score

    values = np.asarray(scores, dtype=np.float64).ravel()
    truth = _mask(reference)
    _same_size(values, truth)
    if not np.isfinite(values).all():
        raise NumericsError("scores must be finite")
    if truth.all() or not truth.any():
        return math.nan
    return float(roc_auc_score(truth, values))


def _share(part: int, whole: int, *, both_empty: bool) -> float:
    if whole == 0:
        return 1.0 if both_empty else 0.0
    return part / whole


def _pair(mask: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = _mask(mask), _mask(reference)
    if np.shape(mask) != np.shape(reference):
        raise NumericsError(f"masks need one shape, got {np.shape(mask)} and {np.shape(reference)}")
    _same_size(a, b)
    return a, b


def _mask(mask: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise NumericsError(f"a mask must be boolean, got {array.dtype}")
    return array.ravel()


def _same_size(a: NDArray[np.bool_] | NDArray[np.float64], b: NDArray[np.bool_]) -> None:
    if a.size != b.size or a.size == 0:
        raise NumericsError(f"mask and reference need one size above zero, got {a.size} and {b.size} elements")
