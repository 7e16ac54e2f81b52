"""Several segmentations, each of one class against the rest, as one soft target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import NumericsError


def class_shares(u: NDArray[np.float32], valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Make a distribution over the classes of what is said of each class alone.

    t_k = (u_k + (1 - s)_+ / K) / max(s, 1) with s = u_1 + ... + u_K: where several classes claim a cell they share it,
    and what no class claims is anybody's. So t sums to 1 everywhere, a cell of which nothing is known gets the uniform
    distribution, which is the least sure one, and of two classes with u_2 = 1 - u_1, t = u.

    Parameters
    ----------
    u : (K, rows, cols) float32 array
        In [0, 1]. Never mutated.
    valid : (rows, cols) bool array, optional
        Cells that count; t is 0 on the others.

    Returns
    -------
    (K, rows, cols) float32 array

    Raises
    ------
    NumericsError
        Fewer than two classes, values outside [0, 1], or shapes that do not fit.
    """
    if u.ndim != 3 or len(u) < 2 or (valid is not None and valid.shape != u.shape[1:]):
        raise NumericsError(f"segmentations of classes are (K, rows, cols), got {u.shape}")
    if not (u.min() >= 0 and u.max() <= 1):
        raise NumericsError(f"segmentations of classes lie in [0, 1], got {u.min()} to {u.max()}")
    total = u.sum(axis=0)
    shares = (u + np.maximum(1 - total, 0) / len(u)) / np.maximum(total, 1)
    return np.where(True if valid is None else valid, shares, 0).astype(np.float32)
