"""What is trained on and what validated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.classes import Color
from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET
from wsipipe.pipeline.manifest import ManifestRow
from wsipipe.pipeline.samples import CellPoints
from wsipipe.pipeline.sources import Source

# With fewer patients, setting one aside costs more than it tells; points are held out instead.
MIN_PATIENTS = 5
MIN_POINTS = 3


@dataclass(frozen=True, eq=False)
class PointedSlide:
    """A slide of the manifest with its points on its map, and the colours that its file gives to several classes."""

    row: ManifestRow
    source: Source
    points: CellPoints
    colors: Mapping[int, Color] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Split:
    """Slides (or the same slides with different points) to train and to validate on.

    Parameters
    ----------
    train, validation : tuple of PointedSlide
        None of them without points.
    note : str
        How they were chosen, for the user.
    """

    train: tuple[PointedSlide, ...]
    validation: tuple[PointedSlide, ...]
    note: str


def split_slides(slides: Sequence[PointedSlide], *, fraction: float, seed: int) -> Split:
    """Divide slides into training and validation.

    The manifest's split column decides where there is one. Otherwise patients are drawn; with fewer than five of
    them, points of every slide are held out instead; where a class has too few points for that, all points serve
    both ends.

    Parameters
    ----------
    slides : sequence of PointedSlide
        In the manifest's order; rows with split "test" take no part.
    fraction : float
        Share to validate on.
    seed : int
        Of the draw.
    """
    used = [slide for slide in slides if slide.row.split != "test"]
    if any(slide.row.split for slide in used):
        return _by_column(used)
    if len({slide.row.patient for slide in used}) >= MIN_PATIENTS:
        return _by_patient(used, fraction, np.random.default_rng(seed))
    return _by_point(used, fraction, np.random.default_rng(seed))


def _by_column(slides: Sequence[PointedSlide]) -> Split:
    train = tuple(slide for slide in slides if slide.row.split == "train")
    validation = tuple(slide for slide in slides if slide.row.split == "val")
    return Split(train, validation, f"split of the manifest: {len(train)} slides train, {len(validation)} validate")


def _by_patient(slides: Sequence[PointedSlide], fraction: float, rng: np.random.Generator) -> Split:
    patients = sorted({slide.row.patient for slide in slides})
    count = min(max(1, round(fraction * len(patients))), len(patients) - 1)
    held = {patients[index] for index in rng.permutation(len(patients))[:count]}
    train = tuple(slide for slide in slides if slide.row.patient not in held)
    validation = tuple(slide for slide in slides if slide.row.patient in held)
    return Split(train, validation, f"{count} of {len(patients)} patients validate")


def _by_point(slides: Sequence[PointedSlide], fraction: float, rng: np.random.Generator) -> Split:
    held = [_held_out(slide.points.label, fraction, rng) for slide in slides]
    validation = _chosen(slides, held)
    if _classes(validation) != _classes(slides) | {OUT_OF_TARGET, IN_TARGET}:
        note = "too few points to hold any out: the same points train and validate"
        return Split(tuple(slides), tuple(slides), note)
    train = _chosen(slides, [~mask for mask in held])
    count, total = sum(int(mask.sum()) for mask in held), sum(map(len, held))
    return Split(train, validation, f"fewer than {MIN_PATIENTS} patients: {count} of {total} points validate")


def _classes(slides: Sequence[PointedSlide]) -> set[int]:
    return {int(label) for slide in slides for label in slide.points.label}


def _held_out(label: NDArray[np.int64], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Stratified draw: of every class with enough points a share, at least one."""
    held = np.zeros(len(label), dtype=bool)
    for value in np.unique(label):
        index = rng.permutation(np.flatnonzero(label == value))
        if len(index) >= MIN_POINTS:
            held[index[: max(1, round(fraction * len(index)))]] = True
    return held


def _chosen(slides: Sequence[PointedSlide], masks: Sequence[NDArray[np.bool_]]) -> tuple[PointedSlide, ...]:
    return tuple(
        replace(slide, points=slide.points.subset(mask))
        for slide, mask in zip(slides, masks, strict=True)
        if mask.any()
    )
