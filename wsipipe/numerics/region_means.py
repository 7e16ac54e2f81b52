"""Means of a map over the components of a mask, in one pass over bands of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from wsipipe.errors import NumericsError
from wsipipe.numerics.components import label_components
from wsipipe.numerics.polygons import touching_labels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def region_means(bands: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[Floats, Ints]:
    """Mean of a map over each component of a mask, and the component's size.

    Parameters
    ----------
    bands : iterable of ((n, cols) array, (n, cols) array)
        Mask (what is not zero is inside) and map, from top to bottom; taken one by one.

    Returns
    -------
    (k,) float64 array
        Means, of the 4-connected components in the order of `outline_mask`: by their topmost leftmost pixel.
    (k,) int64 array
        Pixels.

    Raises
    ------
    NumericsError
        The arrays of a band, or two bands, do not fit.

    Notes
    -----
    Memory is that of one band and of a few numbers for each component.
    """
    pixels: list[NDArray[Any]] = [np.zeros(1, np.int64)]
    sums: list[NDArray[Any]] = [np.zeros(1)]
    seams = [np.empty((0, 2), np.int64)]
    above, count = np.zeros(0, np.int64), 0
    for mask, values in bands:
        if mask.ndim != 2 or mask.shape != values.shape or (count and mask.shape[1] != len(above)):
            raise NumericsError(f"a band of a mask {mask.shape} does not fit a map {values.shape}")
        labels, found = label_components(mask != 0)
        pixels.append(np.bincount(labels.ravel(), minlength=found + 1)[1:])
        sums.append(np.bincount(labels.ravel(), weights=values.ravel(), minlength=found + 1)[1:])
        top, bottom = (np.where(labels[edge] > 0, labels[edge].astype(np.int64) + count, 0) for edge in (0, -1))
        if len(above):
            seams.append(touching_labels(above, top))
        above, count = bottom, count + found
    return _merged(np.concatenate(pixels), np.concatenate(sums), np.concatenate(seams))


def _merged(pixels: Ints, sums: Floats, seams: Ints) -> tuple[Floats, Ints]:
    """Join what touches across bands; labels count from 1, those of a component from its topmost leftmost pixel on."""
    graph = coo_array((np.ones(len(seams), np.bool_), (seams[:, 0], seams[:, 1])), shape=(len(pixels),) * 2)
    root = connected_components(graph, directed=False)[1]
    # The first label of a component is that of its topmost leftmost pixel, bands being labelled from the top.
    _, first, component = np.unique(root, return_index=True, return_inverse=True)
    order = np.argsort(first)[1:]  # less the background, label 0
    total = np.bincount(component, weights=pixels)[order]
    return np.bincount(component, weights=sums)[order] / total, total.astype(np.int64)
