"""Points sampled from a mask, as if somebody had clicked them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET, PointSet
from wsipipe.errors import AnnotationError


def sample_points(
    mask: NDArray[np.bool_],
    *,
    pairs: int,
    seed: int,
    cell_px: float = 1.0,
    valid: NDArray[np.bool_] | None = None,
) -> PointSet:
    """Draw `pairs` in-target and as many out-of-target points, uniformly inside each class.

    Parameters
    ----------
    mask : (h, w) bool array
        In-target pixels.
    pairs : int
        Points per class, at least 1; no pixel is drawn twice.
    seed : int
        The same seed gives the same points.
    cell_px : float
        Side of a pixel of the mask in level-0 px.
    valid : (h, w) bool array, optional
        Where points may lie.

    Returns
    -------
    PointSet
        Centres of mask pixels in level-0 px, in-target points first; classes "Positive" and "Negative".

    Raises
    ------
    AnnotationError
        A class has fewer pixels than `pairs`, or the arrays do not fit.
    """
    if mask.ndim != 2 or pairs < 1 or (valid is not None and valid.shape != mask.shape):
        shape = None if valid is None else valid.shape
        raise AnnotationError(f"cannot sample {pairs} pairs from a mask {mask.shape} where {shape} is valid")
    allowed = np.ones(mask.shape, dtype=bool) if valid is None else valid.astype(bool)
    generator = np.random.default_rng(seed)
    inside = _draw(mask.astype(bool) & allowed, pairs, generator, "in-target")
    outside = _draw(~mask.astype(bool) & allowed, pairs, generator, "out-of-target")
    cells = np.concatenate([inside, outside])
    return PointSet(
        xy=(cells[:, ::-1] + 0.5) * cell_px,
        label=np.repeat(np.array([IN_TARGET, OUT_OF_TARGET], dtype=np.int64), pairs),
        class_names=("Positive",) * pairs + ("Negative",) * pairs,
    )


def _draw(where: NDArray[np.bool_], count: int, generator: np.random.Generator, side: str) -> NDArray[np.int64]:
    """`count` distinct (row, col) cells of a class."""
    flat = np.flatnonzero(where)
    if len(flat) < count:
        raise AnnotationError(
            f"the mask has {len(flat)} {side} pixels, fewer than the {count} points to sample",
            remedy="ask for fewer pairs, or leave this image out",
        )
    chosen = generator.choice(flat, size=count, replace=False)
    return np.stack(np.unravel_index(chosen, where.shape), axis=1).astype(np.int64)
