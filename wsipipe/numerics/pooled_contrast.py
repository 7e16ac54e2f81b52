"""Contrast of a map against the points of many maps at once.

A few points of one image say little of what its target looks like; those of all images together say much. Here every
point of every image has a correlation map on a given feature map, and the maps are contrasted with weights that a
ridge regression finds, in place of one eta for all pairs (eq. 5). Correlations are those of a Gaussian kernel,
exp(-|f - f_p|^2 / (2 dim reach^2)), which unlike cosines die away: a point speaks for what is like it, and says
nothing of the rest. Points of the image itself are trusted more than those of others.

References
----------
Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", eq. 2.25: the mean of such a regression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from wsipipe.errors import NumericsError
from wsipipe.numerics.correlation import check_features, check_points

CLIP = 4.0  # standard deviations: one artefact must not outweigh all else
TINY = 1e-6
BAND = 4096  # cells that are compared with the points at once

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Standard:
    """Features in deviations from their mean, the same for all maps.

    Parameters
    ----------
    mean, deviation : (dim,) float32 arrays
        A feature that does not vary has an infinite deviation and counts for nothing.
    """

    mean: Floats
    deviation: Floats

    def apply(self, features: Floats) -> Floats:
        """Standardise (..., dim) features; cut at four deviations."""
        return np.asarray(np.clip((features - self.mean) / self.deviation, -CLIP, CLIP))


class Moments:
    """Mean and deviation of features that come in parts."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(1), np.zeros(1)

    def add(self, features: Floats) -> None:
        """Count in (n, dim) features."""
        values = features.astype(np.float64)
        self._count += len(values)
        self._sum = self._sum + values.sum(axis=0)
        self._squares = self._squares + np.square(values).sum(axis=0)

    def standard(self) -> Standard:
        """Standardise by all that was counted in."""
        if not self._count:
            raise NumericsError("no features to take mean and deviation of")
        mean = self._sum / self._count
        deviation = np.sqrt(np.maximum(self._squares / self._count - np.square(mean), 0))
        return Standard(
            mean.astype(np.float32),
            np.where(deviation > TINY * np.maximum(1, np.abs(mean)), deviation, np.inf).astype(np.float32),
        )


@dataclass(frozen=True)
class Prototypes:
    """Points of many maps by their features.

    Parameters
    ----------
    vectors : (n, dim) float32 array
        Standardised.
    label : (n,) int64 array
        1 in-target, 0 out-of-target.
    group : (n,) int64 array
        Number of the map that a point lies on.
    """

    vectors: Floats
    label: NDArray[np.int64]
    group: NDArray[np.int64]

    def thinned(self, count: int, *, seed: int) -> Prototypes:
        """At most `count` points, drawn at random."""
        if len(self.label) <= count:
            return self
        kept = np.sort(np.random.default_rng(seed).permutation(len(self.label))[:count])
        return Prototypes(self.vectors[kept], self.label[kept], self.group[kept])


class PooledContrast:
    """Weights of the points' correlation maps, and the contrast of any map.

    Parameters
    ----------
    prototypes : Prototypes
        At least one point of each class.
    reach : float
        Of the kernel, in deviations of a feature.
    noise : float
        Ridge parameter, for classes of equal size: how little a single point is trusted.
    own : float
        How many times more a point is trusted on the map that it lies on.

    Raises
    ------
    NumericsError
        One of the classes has no point, or a parameter is not positive.

    Attributes
    ----------
    scale : float
        A correlation is exp(-scale * squared distance).
    """

    def __init__(self, prototypes: Prototypes, *, reach: float, noise: float, own: float) -> None:
        if not {0, 1} <= set(prototypes.label.tolist()):
            raise NumericsError("pooled contrast needs points of both classes")
        if min(reach, noise, own) <= 0:
            raise NumericsError(f"reach, noise and own are positive, got {reach}, {noise}, {own}")
        self._points, self._own = prototypes, own
        self.scale = 0.5 / (prototypes.vectors.shape[1] * reach**2)
        inside = prototypes.label == 1
        # Both classes weigh the same, however many points they have.
        self._noise = 2 * noise * np.where(inside, inside.mean(), (~inside).mean())
        self._wanted = np.where(inside, 1.0, -1.0)
        kernel = self._kernel(prototypes.vectors).astype(np.float64)
        self._factor = cho_factor(kernel + np.diag(self._noise))
        self._weights: NDArray[np.float64] = cho_solve(self._factor, self._wanted)

    @property
    def vectors(self) -> Floats:
        """Standardised features (n, dim) of the points."""
        return self._points.vectors

    def weights(self, group: int | None = None) -> NDArray[np.float64]:
        """Weights (n,) of the correlation maps on a map of a group; None or an unknown one: a map without points.

        Notes
        -----
        (K + N)^-1 is factorised once. Where the noise of few points changes, N + U D U', the weights follow from it
        by the identity of Woodbury, at the price of one solve with as many right sides.
        """
        own = np.flatnonzero(self._points.group == group) if group is not None else np.zeros(0, np.int64)
        if not len(own) or self._own == 1:
            return self._weights
        change = self._noise[own] * (1 / self._own - 1)
        unit = np.zeros((len(self._wanted), len(own)))
        unit[own, np.arange(len(own))] = 1
        columns = cho_solve(self._factor, unit)
        inner = np.diag(1 / change) + columns[own]
        return np.asarray(self._weights - columns @ np.linalg.solve(inner, self._weights[own]))

    def of(self, features: Floats, *, group: int | None = None) -> Floats:
        """Contrast (...) of standardised features (..., dim): about 1 at in-target points, -1 at the others.

        Notes
        -----
        Memory beside the result: two bands of 4096 cells by n points.
        """
        weights = self.weights(group).astype(np.float32)
        flat = features.reshape(-1, features.shape[-1])
        out = np.empty(len(flat), np.float32)
        for start in range(0, len(flat), BAND):
            out[start : start + BAND] = self._kernel(flat[start : start + BAND]) @ weights
        return out.reshape(features.shape[:-1])

    def _kernel(self, cells: Floats) -> Floats:
        """Correlations (m, n) of cells (m, dim) with the points."""
        vectors = self._points.vectors
        squares = np.square(cells).sum(axis=1)[:, None] + np.square(vectors).sum(axis=1)
        squares -= 2 * (cells @ vectors.T)
        np.maximum(squares, 0, out=squares)
        squares *= np.float32(-self.scale)
        return np.asarray(np.exp(squares, out=squares))


def point_means(features: Floats, cells: NDArray[np.int64], *, side: int) -> Floats:
    """Mean feature (n, dim) of the square of `side` cells round each point (row, col), cut at the map's edge."""
    check_features(features)
    points, reach = check_points(cells, features.shape[:2]), side // 2
    means = [
        features[max(0, row - reach) : row + reach + 1, max(0, col - reach) : col + reach + 1].mean(axis=(0, 1))
        for row, col in points.tolist()
    ]
    return np.asarray(means, np.float32).reshape(len(points), features.shape[2])
