"""Shape features for a slide and its points, without training: diffusion coordinates and a ridge on the points.

Cells of one tissue are linked by chains of like cells, even where the ends of a chain are not alike. So the cells
first get coordinates in which a chain is short: the leading eigenvectors of a graph of nearest neighbours, weighted as
in label spreading. Cosines of these coordinates are correlation maps (eq. 4) that follow the tissue, and a few points
say enough.

References
----------
Zhou et al. 2003, "Learning with local and global consistency" (the kernel (1 - alpha S)^-1).
Zelnik-Manor and Perona 2004, "Self-tuning spectral clustering" (the scale of each cell's own neighbourhood).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import eigsh

from wsipipe.numerics.nearest import nearest

CLIP = 4.0  # standard deviations: one artefact must not stretch the axes
TINY = 1e-6
EXTENSION = 5  # landmarks that give a cell its coordinates

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Axes:
    """Standardised features on their principal axes.

    Parameters
    ----------
    mean, deviation : (dim,) float32 arrays
        Of the features.
    axes : (dim, k) float32 array
        Principal axes of the standardised features, strongest first.
    """

    mean: Floats
    deviation: Floats
    axes: Floats

    def apply(self, features: Floats) -> Floats:
        """(n, dim) features -> (n, k) coordinates; their variances are kept, because whitening drowns the tissue."""
        standard = (features - self.mean) / self.deviation
        return np.asarray(np.clip(standard, -CLIP, CLIP, out=standard) @ self.axes)


def fit_axes(sample: Floats, *, components: int) -> Axes:
    """Axes of a (n, dim) sample of features; features that do not vary count for nothing."""
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = sample.std(axis=0, dtype=np.float64).astype(np.float32)
    deviation = np.where(deviation > TINY, deviation, np.float32(np.inf))
    standard = np.clip((sample - mean) / deviation, -CLIP, CLIP).astype(np.float64)
    axes = np.linalg.eigh(standard.T @ standard)[1][:, ::-1]
    return Axes(mean, deviation, np.ascontiguousarray(axes[:, :components], dtype=np.float32))


@dataclass(frozen=True)
class Diffusion:
    """Diffusion coordinates of landmarks, and through them of any cell.

    Parameters
    ----------
    landmarks : (m, k) float32 array
        Cells of the map, as `Axes` gives them.
    coordinates : (m, rank) float32 array
        Their diffusion coordinates.
    """

    landmarks: Floats
    coordinates: Floats

    def apply(self, cells: Floats) -> Floats:
        """(n, k) cells -> (n, rank) coordinates of unit length: the weighted mean of those of the nearest landmarks."""
        squares, index = nearest(cells, self.landmarks, min(EXTENSION, len(self.landmarks)))
        weights = np.exp(-squares / (squares[:, -1:] + TINY))
        mean = np.zeros((len(cells), self.coordinates.shape[1]), np.float32)
        for weight, which in zip(weights.T, index.T, strict=True):
            mean += weight[:, None] * self.coordinates[which]
        return unit(mean)


def fit_diffusion(landmarks: Floats, *, neighbours: int, rank: int, reach: float) -> Diffusion:
    """Diffusion coordinates from the graph of nearest neighbours of (m, k) landmarks, m >= 2.

    Parameters
    ----------
    landmarks : (m, k) float32 array
    neighbours : int
        Links of each landmark.
    rank : int
        Number of coordinates; as many as there are where the landmarks are few.
    reach : float
        alpha in (1 - alpha S)^-1, below 1: how far a label spreads along the graph.
    """
    graph = _graph(landmarks, min(neighbours, len(landmarks) - 1))
    root = np.sqrt(graph.sum(axis=1))
    scale = diags_array(1 / root)
    values, vectors = _leading((scale @ graph @ scale).tocsr(), rank)
    coordinates = vectors / np.sqrt(1 - reach * np.minimum(values, 1)) / root[:, None]
    return Diffusion(landmarks, np.ascontiguousarray(coordinates, dtype=np.float32))


def _graph(landmarks: Floats, count: int) -> csr_array:
    """Symmetric (m, m) weights exp(-d^2 / (scale_i scale_j)), where scale is the distance of the last neighbour."""
    size = len(landmarks)
    squares, index = nearest(landmarks, landmarks, count + 1)
    scale = np.sqrt(squares[:, -1].astype(np.float64)) + TINY
    rows = np.repeat(np.arange(size), count + 1)
    columns = index.ravel()
    weights = np.exp(-squares.ravel() / (scale[rows] * scale[columns]))
    apart = rows != columns
    graph = coo_array((weights[apart], (rows[apart], columns[apart])), (size, size)).tocsr()
    return graph.maximum(graph.T)


def _leading(matrix: csr_array, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest eigenvalues and their eigenvectors of a symmetric matrix; the start is fixed, so the result is."""
    if rank * 3 >= matrix.shape[0]:
        values, vectors = np.linalg.eigh(matrix.toarray())
        return values[-rank:], vectors[:, -rank:]
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    values, vectors = eigsh(matrix, k=rank, which="LA", v0=start)
    return values, vectors


@dataclass(frozen=True)
class Shaping:
    """From features to shaped features: axes, then the diffusion coordinates of several draws of landmarks."""

    axes: Axes
    diffusions: Sequence[Diffusion]

    def apply(self, features: Floats) -> Floats:
        """(n, dim) features -> (n, draws x rank) shaped features of unit length: cosines are means over the draws."""
        cells = self.axes.apply(features)
        draws = [diffusion.apply(cells) for diffusion in self.diffusions]
        return np.concatenate(draws, axis=1) / np.float32(np.sqrt(len(draws)))


def ridge_weights(prototypes: Floats, label: NDArray[np.int64], *, noise: float) -> Floats:
    """Weight of each point's correlation map: sum_i w_i S_i is the ridge regression of +-1 on the points.

    Parameters
    ----------
    prototypes : (n, dim) float32 array
        Shaped features of the points, of unit length.
    label : (n,) int64 array
        1 in-target, 0 out-of-target. Both classes weigh the same, however many points they have.
    noise : float
        Ridge parameter, for classes of equal size.

    Returns
    -------
    (n,) float32 array
    """
    inside = label == 1
    share = np.where(inside, inside.mean(), (~inside).mean())
    kernel = prototypes.astype(np.float64) @ prototypes.T.astype(np.float64)
    weights = np.linalg.solve(kernel + np.diag(2 * noise * share), np.where(inside, 1.0, -1.0))
    return np.asarray(weights, np.float32)


def unit(values: Floats) -> Floats:
    """Scale the last axis to length 1; vectors of length 0 stay 0."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1), np.float32)
