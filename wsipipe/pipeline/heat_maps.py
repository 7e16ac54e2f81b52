"""Some held-out images under every variant, side by side (Fig. 4 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsipipe.annotations.masks import read_mask
from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET, PointSet
from wsipipe.annotations.reading import read_points
from wsipipe.pipeline.crossval_job import probability_picture
from wsipipe.pipeline.crossval_plan import HeldOut, Job, Plan
from wsipipe.pipeline.curves import rendered
from wsipipe.pipeline.mask_extent import mask_extent
from wsipipe.pipeline.preparation import Reading
from wsipipe.pipeline.results import bounds_offset
from wsipipe.pipeline.sources import opened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXAMPLES = 4
_PANEL_INCHES, _DPI, _PICTURE_PX = 2.1, 120, 480
_COLORS = {OUT_OF_TARGET: "#1f5fff", IN_TARGET: "#ff1f1f"}


def draw_heat_maps(plan: Plan, done: Sequence[Job], variants: Sequence[str]) -> NDArray[np.uint8]:
    """Draw image, points, truth and the probability under every variant, for up to four held-out images.

    Parameters
    ----------
    plan : Plan
        The comparison; its seed draws the images, from as many folds as possible.
    done : sequence of Job
        Finished jobs; where a fold lacks a variant, the place stays empty.
    variants : sequence of str
        Columns, in this order.

    Returns
    -------
    (h, w, 3) uint8 array
    """
    from matplotlib.figure import Figure

    chosen = _examples(plan, sorted({job.fold for job in done}))
    jobs = {(job.fold, job.variant): job for job in done}
    columns = [name for name in variants if any(job.variant == name for job in done)]
    heights = [min(2.0, max(0.4, _aspect(image))) for image in chosen]
    size = (_PANEL_INCHES * (len(columns) + 2), _PANEL_INCHES * sum(heights) + 0.12 * len(chosen) + 0.3)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    grid = figure.subplots(len(chosen), len(columns) + 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, image in zip(grid, chosen, strict=True):
        _draw_row(row, image, jobs, columns)
        _draw_points(row[0], _points_of(image, done[0].reading))
    for axes, title in zip(grid[0], ("image and points", "truth", *columns), strict=True):
        axes.set_title(title, fontsize=9)
    return rendered(figure)


def _examples(plan: Plan, folds: Sequence[int]) -> list[HeldOut]:
    """Images drawn in turn from the folds."""
    rng = np.random.default_rng(plan.seed)
    waiting = {
        fold: [own[index] for index in rng.permutation(len(own))]
        for fold in folds
        if (own := [image for image in plan.images if image.fold == fold])
    }
    chosen: list[HeldOut] = []
    while len(chosen) < EXAMPLES and any(waiting.values()):
        chosen += [images.pop(0) for images in waiting.values() if images]
    return chosen[:EXAMPLES]


def _aspect(image: HeldOut) -> float:
    return image.source.grid.rows / image.source.grid.cols


def _draw_row(row: Sequence[Axes], image: HeldOut, jobs: Mapping[tuple[int, str], Job], columns: Sequence[str]) -> None:
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_facecolor("0.85")
    grid = image.source.grid
    extent = (0.0, grid.cols * grid.cell_px, grid.rows * grid.cell_px, 0.0)
    picture = image.source.picture(slice(0, grid.rows), slice(0, grid.cols), long_side_px=_PICTURE_PX)
    row[0].imshow(picture, extent=extent)
    row[0].set_ylabel(image.case.key, fontsize=7)
    _draw_mask(row[1], image)
    for axes, name in zip(row[2:], columns, strict=True):
        job = jobs.get((image.fold, name))
        if job is not None:
            with Image.open(probability_picture(job, image.case.key)) as values:
                axes.imshow(np.asarray(values), extent=extent, cmap="jet", vmin=0, vmax=255)


def _draw_mask(axes: Axes, image: HeldOut) -> None:
    mask, source = read_mask(image.case.mask), image.source
    covered = mask_extent(image.case.mask, mask.shape, source.slide_size, slack_px=source.grid.cell_px)
    (x, y), (width, height) = covered.origin, covered.size
    axes.imshow(_thinned(mask), extent=(x, x + width, y + height, y), cmap="gray", vmin=0, vmax=1)


def _thinned(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    step = -(-max(mask.shape) // _PICTURE_PX)
    return mask[::step, ::step]


def _points_of(image: HeldOut, reading: Reading) -> PointSet:
    """Points as training reads them: of the run's classes, and from the corner that QuPath counts from."""
    offset = (0.0, 0.0)
    if reading.crop:
        with opened(image.source.entry, reader=reading.reader) as slide:
            offset = bounds_offset(slide)
    return read_points(image.points, classes=reading.classes, offset=offset, slide=image.case.key)


def _draw_points(axes: Axes, points: PointSet) -> None:
    """Rings, so that what was clicked stays visible: red in target, blue out of it."""
    for label, color in _COLORS.items():
        x, y = points.xy[points.label == label].T
        axes.scatter(x, y, s=26, facecolors="none", edgecolors="white", linewidths=2.2)
        axes.scatter(x, y, s=26, facecolors="none", edgecolors=color, linewidths=1.2)
