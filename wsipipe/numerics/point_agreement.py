"""What the other points say of each point: leave one out, segment from the rest, look at its cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsipipe.config import SegmentSettings
from wsipipe.numerics.correlation import check_points
from wsipipe.numerics.grading import graded
from wsipipe.numerics.point_segmentation import (
    Read,
    Solve,
    WindowedMap,
    checked_valid,
    contrast_maps,
    fit_shaping,
    levelled,
    point_prototypes,
    solve_whole,
    usable_points,
    weighted_direction,
)

# Contrast maps of so many bytes are in memory at once.
_GROUP_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class PointAgreement:
    """Whether points agree with the others.

    Parameters
    ----------
    probability : (n,) float64 array
        Of being in target at each point's cell, as the other points have it; NaN where they cannot say: the point lies
        off the valid cells, or is the only one of its class.
    label : (n,) int64 array
        What the points themselves say.
    """

    probability: NDArray[np.float64]
    label: NDArray[np.int64]

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which points the others can judge, (n,)."""
        return np.isfinite(self.probability)

    @property
    def contradicted(self) -> NDArray[np.bool_]:
        """Which points the others would label the other way, (n,)."""
        return np.asarray(self.judged & ((self.probability >= 0.5) != (self.label == 1)))


def leave_one_out(
    read: Read,
    shape: tuple[int, int],
    points_cells: ArrayLike,
    label: ArrayLike,
    *,
    settings: SegmentSettings,
    valid: NDArray[np.bool_] | None = None,
    solve: Solve = solve_whole,
    report: Callable[[int, int], None] | None = None,
) -> PointAgreement:
    """Segment a map once without each point, with the method of `segment_map`.

    Parameters
    ----------
    read, shape, points_cells, label, settings, valid, solve
        As `segment_map` has them.
    report : callable, optional
        report(done, total): points judged so far.

    Returns
    -------
    PointAgreement

    Raises
    ------
    AnnotationError, NumericsError
        As `segment_map`.

    Notes
    -----
    Features are shaped once, with all points' cells among the landmarks: shaping knows no labels, so nothing of a
    point's label leaks into what is said of it. Points on one cell are left out together. The map is read once for
    every group of points whose contrast maps fit into 256 MB; each point costs one variational solve.
    """
    world = WindowedMap(read, shape, checked_valid(valid, shape))
    cells, labels = check_points(points_cells, shape), np.asarray(label, np.int64)
    used, used_labels, _ = usable_points(cells, labels, world.valid)
    shaping = fit_shaping(world, used, settings)
    prototypes = point_prototypes(world, shaping, used, settings)
    found = np.full(len(cells), np.nan)
    index = np.flatnonzero(world.valid[cells[:, 0], cells[:, 1]])
    rests = {
        i: rest for i in range(len(used)) if len(np.unique(used_labels[rest := (used != used[i]).any(axis=1)])) == 2
    }
    for group in _groups(list(rests), world.shape):
        directions = [weighted_direction(prototypes[rests[i]], used_labels[rests[i]], settings) for i in group]
        for i, contrast in zip(group, contrast_maps(world, shaping, np.stack(directions)), strict=True):
            z = levelled(contrast, world.valid, settings.gain)
            u, _ = solve(z, world.valid, settings)
            found[index[i]] = graded(u, z)[tuple(used[i])]
            if report is not None:
                report(int(np.isfinite(found).sum()), len(rests))
    return PointAgreement(found, labels)


def _groups(points: list[int], shape: tuple[int, int]) -> Iterator[list[int]]:
    size = max(1, _GROUP_BYTES // (4 * shape[0] * shape[1]))
    return (points[start : start + size] for start in range(0, len(points), size))
