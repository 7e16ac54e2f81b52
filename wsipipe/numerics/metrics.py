"""How well a mask agrees with a reference: the six figures of the paper's Table 1.

All take boolean masks (scores for the AUC) of one shape, any number of dimensions, and count every element; choose
the elements that count (valid cells) before. What has to be counted in pieces (the mask of a whole slide) goes through
`Counts` and `auc_of_histograms`; the figures are the same. Conventions where a figure divides by zero:

* both masks empty: perfect agreement, 1.0 for Dice, precision and recall;
* only one of them empty: 0.0 for Dice, precision and recall;
* both masks all of one and the same class: no agreement beyond chance to judge, Cohen's kappa is nan;
* reference all of one class: no ranking to judge, the AUC is nan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.errors import NumericsError

METRICS = ("dice", "accuracy", "precision", "recall", "kappa", "auc")
"""Names of the six figures, in the order of the tables."""


@dataclass(frozen=True)
class Counts:
    """Elements of a mask by what the reference says of them; counts of parts add up.

    Parameters
    ----------
    hits, false_alarms, misses, rejections : int
        In both; in the mask alone; in the reference alone; in neither.
    """

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    rejections: int = 0

    @classmethod
    def of(cls, mask: ArrayLike, reference: ArrayLike) -> Self:
        """Count a mask against a reference of the same shape.

        Raises
        ------
        NumericsError
            The arrays are not boolean, are empty, or have not the same shape.
        """
        a, b = _pair(mask, reference)
        hits, marked, wanted = (int(np.count_nonzero(part)) for part in (a & b, a, b))
        return cls(hits, marked - hits, wanted - hits, a.size - marked - wanted + hits)

    def __add__(self, other: Counts) -> Counts:
        """Count of both parts together."""
        return Counts(
            self.hits + other.hits,
            self.false_alarms + other.false_alarms,
            self.misses + other.misses,
            self.rejections + other.rejections,
        )

    @property
    def total(self) -> int:
        """Elements counted."""
        return self.hits + self.false_alarms + self.misses + self.rejections

    @property
    def wanted(self) -> int:
        """Elements of the reference."""
        return self.hits + self.misses

    @property
    def dice(self) -> float:
        """See `dice`."""
        return self._share(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)

    @property
    def accuracy(self) -> float:
        """See `accuracy`."""
        return (self.hits + self.rejections) / self.total

    @property
    def precision(self) -> float:
        """See `precision`."""
        return self._share(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> float:
        """See `recall`."""
        return self._share(self.hits, self.wanted)

    @property
    def kappa(self) -> float:
        """See `cohen_kappa`."""
        from sklearn.metrics import cohen_kappa_score

        if self.total in (self.hits, self.rejections):
            return math.nan
        weights = (self.hits, self.false_alarms, self.misses, self.rejections)
        return float(cohen_kappa_score([1, 1, 0, 0], [1, 0, 1, 0], sample_weight=weights))

    def agreement(self) -> dict[str, float]:
        """All figures that follow from counts, by name: those of `METRICS` less the AUC."""
        return {name: getattr(self, name) for name in METRICS if name != "auc"}

    def _share(self, part: int, whole: int) -> float:
        if whole == 0:
            return 1.0 if self.hits + self.false_alarms + self.misses == 0 else 0.0
        return part / whole


def dice(mask: ArrayLike, reference: ArrayLike) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|); 1.0 where both are empty."""
    return Counts.of(mask, reference).dice


def accuracy(mask: ArrayLike, reference: ArrayLike) -> float:
    """Share of elements that agree."""
    return Counts.of(mask, reference).accuracy


def precision(mask: ArrayLike, reference: ArrayLike) -> float:
    """Share of the mask that lies in the reference; for an empty mask 1.0 if the reference is empty too, else 0.0."""
    return Counts.of(mask, reference).precision


def recall(mask: ArrayLike, reference: ArrayLike) -> float:
    """Share of the reference that the mask covers; for an empty reference 1.0 if the mask is empty too, else 0.0."""
    return Counts.of(mask, reference).recall


def cohen_kappa(mask: ArrayLike, reference: ArrayLike) -> float:
    """Cohen's kappa, agreement beyond chance (Cohen 1960); nan where both masks are constant and equal."""
    return Counts.of(mask, reference).kappa


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


def auc_of_histograms(wanted: ArrayLike, unwanted: ArrayLike) -> float:
    """Area under the receiver operating characteristic of scores that were counted by bin.

    Parameters
    ----------
    wanted, unwanted : (n,) int array
        Elements in the reference, and outside of it, by bin of their score, lowest score first. Scores of one bin
        count as ties: exact where each bin holds one value only, as with 256 bins of an 8-bit probability raster.

    Returns
    -------
    float
        nan where the reference holds one class only.

    Raises
    ------
    NumericsError
        The histograms differ in length.
    """
    from sklearn.metrics import roc_auc_score

    inside, outside = (np.asarray(counts, dtype=np.float64).ravel() for counts in (wanted, unwanted))
    if inside.size != outside.size:
        raise NumericsError(f"histograms need one length, got {inside.size} and {outside.size} bins")
    if not (inside.sum() and outside.sum()):
        return math.nan
    bins = np.arange(inside.size)
    truth = np.repeat([1, 0], inside.size)
    return float(roc_auc_score(truth, np.tile(bins, 2), sample_weight=np.concatenate([inside, outside])))


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
