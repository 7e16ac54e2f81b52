"""What an annotation file holds, before anyone asks which class is in-target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.errors import AnnotationError

# The largest slides are below a million px wide; what is far above is a wrong unit or a broken number.
MAX_COORDINATE_PX = 1e8


class PointMark(NamedTuple):
    """A point (x, y) in px of the file's frame, its class, and its slide where the file names one."""

    x: float
    y: float
    class_name: str | None
    slide: str | None = None


@dataclass(frozen=True)
class Marks:
    """Points and regions of one file.

    Parameters
    ----------
    points : tuple of PointMark
        In px, in the frame of the file (see `frame_offset`).
    regions : tuple of OutlinedRegion
        In px, in the frame of the file.
    ignored : mapping of str to int
        What the file holds and cannot be used, with its count: {"ruler": 2}.
    slides : tuple of str
        Names of slides as the file gives them, each once.
    frame_offset : (float, float) or None
        (x, y) to add for level-0 px of the slide, where the file itself says so; None where it says nothing.
    colors : mapping of str to (int, int, int)
        RGB of classes of points, where the file says it.
    """

    points: tuple[PointMark, ...] = ()
    regions: tuple[OutlinedRegion, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    slides: tuple[str, ...] = ()
    frame_offset: tuple[float, float] | None = None
    colors: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


def merged(parts: Iterable[Marks]) -> Marks:
    """Join the marks of several parts of one file, in order."""
    listed = tuple(parts)
    ignored: Counter[str] = Counter()
    colors: dict[str, tuple[int, int, int]] = {}
    for part in listed:
        ignored.update(part.ignored)
        colors = {**part.colors, **colors}  # the first one counts
    return Marks(
        points=tuple(point for part in listed for point in part.points),
        regions=tuple(region for part in listed for region in part.regions),
        ignored=dict(ignored),
        slides=tuple(dict.fromkeys(name for part in listed for name in part.slides)),
        colors=colors,
    )


def checked_xy(xy: NDArray[np.float64], *, where: str, path: Path) -> NDArray[np.float64]:
    """Pass on coordinates, (n, 2), that can be slide pixels.

    Raises
    ------
    AnnotationError
        A coordinate is not finite or larger than any slide.
    """
    bad = ~(np.abs(xy) <= MAX_COORDINATE_PX)
    if bad.any():
        x, y = xy[np.nonzero(bad.any(axis=1))[0][0]].tolist()
        raise AnnotationError(f"{where}: ({x:g}, {y:g}) is no pixel of a slide", path=path)
    return xy


def as_number(text: str | None, *, where: str, path: Path, decimal_comma: bool = True) -> float:
    """Read a coordinate; "12,5" too, which some programs write under some locales.

    Raises
    ------
    AnnotationError
        It is missing or no finite number.
    """
    value = (text or "").strip()
    if decimal_comma and "." not in value:
        value = value.replace(",", ".", 1)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise AnnotationError(f"{where}: {text!r} is no coordinate", path=path)
    return number
