"""Points that a user clicked on one slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import AnnotationError

OUT_OF_TARGET, IN_TARGET = 0, 1


@dataclass(frozen=True, eq=False)
class PointSet:
    """In-target and out-of-target points of one slide, or points of several classes.

    Parameters
    ----------
    xy : (n, 2) float64 array
        (x, y) in level-0 px, top-left origin.
    label : (n,) int64 array
        1 in-target, 0 out-of-target; of several classes, the place of the class in `classes`.
    class_names : tuple of str
        Class of every point as the file has it.
    source : Path or None
        The file the points come from.
    notes : tuple of str
        What the file holds beside these points and why it was left out; one line each.
    slides : tuple of str
        Slides that the file itself names; mostly none.
    classes : tuple of str
        Names of the classes where several are told from each other; empty: in-target and out-of-target.
    colors : mapping of int to (int, int, int)
        RGB that the file gives the classes, by label; without those that it gives none.
    """

    xy: NDArray[np.float64]
    label: NDArray[np.int64]
    class_names: tuple[str, ...]
    source: Path | None = None
    notes: tuple[str, ...] = ()
    slides: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.label)
        if self.xy.shape != (n, 2) or self.label.shape != (n,) or len(self.class_names) != n:
            raise AnnotationError(
                f"points need xy (n, 2), label (n,) and n class names, got {self.xy.shape}, {self.label.shape} "
                f"and {len(self.class_names)}",
                path=self.source,
            )
        if not np.isfinite(self.xy).all():
            raise AnnotationError("holds a point that is not finite", path=self.source)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels that points can have."""
        return tuple(range(len(self.classes))) if self.classes else (IN_TARGET, OUT_OF_TARGET)

    @property
    def in_target(self) -> NDArray[np.float64]:
        """(x, y) of the in-target points, (p, 2)."""
        return np.asarray(self.xy[self.label == IN_TARGET])

    @property
    def out_of_target(self) -> NDArray[np.float64]:
        """(x, y) of the out-of-target points, (q, 2)."""
        return np.asarray(self.xy[self.label == OUT_OF_TARGET])

    def subset(self, keep: NDArray[np.bool_] | NDArray[np.int64]) -> PointSet:
        """Points chosen by a mask or by indices."""
        index = np.arange(len(self))[keep]
        names = tuple(self.class_names[i] for i in index)
        return replace(self, xy=self.xy[index], label=self.label[index], class_names=names)
