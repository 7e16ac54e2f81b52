"""The `segment` command's work on one slide: points and the variational model, no training."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.classes import ClassMap
from wsipipe.annotations.points import PointSet
from wsipipe.annotations.reading import read_points
from wsipipe.config import Recipe, SegmentSettings
from wsipipe.numerics.point_segmentation import segment_map
from wsipipe.numerics.solvers.problem import Status
from wsipipe.numerics.solvers.tasks import SolverSettings
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.feature_plan import map_grid
from wsipipe.pipeline.large_maps import Room, solve_map
from wsipipe.pipeline.marked_points import class_told, points_file, points_told, target_class, usable_points
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.results import Segmentation, bounds_offset, in_bands, settle, settled
from wsipipe.pipeline.tissue_reuse import tissue_for
from wsipipe.progress import Report, silent
from wsipipe.slides import MppView, SlideEntry, keys_beside, open_slide
from wsipipe.store.feature_map import FeatureMap

Floats = NDArray[np.float32]


def segment_slide(
    entry: SlideEntry,
    *,
    points: Path,
    out: Path,
    recipe: Recipe,
    classes: ClassMap | None = None,
    crop: bool = True,
    reader: str = "auto",
    device: str = "auto",
    force: bool = False,
    report: Report = silent,
) -> SlideOutcome:
    """Segment one slide from its points with the variational model.

    Parameters
    ----------
    entry : SlideEntry
        The slide.
    points : Path
        Its points; or a folder with a file of the slide's name.
    out : Path
        Project folder; results go to its `masks`.
    recipe : Recipe
        Its section `segment` says which features are used; `tile` how tissue is found.
    classes : ClassMap, optional
        Which classes are in target and out of target.
    crop : bool
        GeoJSON, read and written, is relative to the slide's bounds, as in QuPath.

    Raises
    ------
    AnnotationError
        The points cannot be read or used.
    WsipipeError
        The slide cannot be read, has no tissue, no resolution, or the results cannot be written.
    """
    file = points_file(points, entry.key)
    recipe = feature_recipe(recipe)
    folder = out / "masks"
    with open_slide(entry.path, mpp=entry.mpp, reader=reader) as slide:
        offset = bounds_offset(slide) if crop else (0.0, 0.0)
        view = MppView(slide, recipe.tile.mpp)
        tissue = tissue_for(entry, view, out, recipe.tile)
        points_read = read_points(file, classes=classes, offset=offset, slide=entry.key)
        marked = usable_points(
            points_read,
            entry.key,
            size=slide.dimensions,
            tissue=tissue,
            grid=map_grid(view, recipe),
            other_keys=keys_beside(entry.path),
        )
        extracted = extract_slide(entry, out, recipe, reader=reader, device=device, report=report)
        with FeatureMap.open(extracted.outputs[0]) as features:
            provenance = {
                "command": "segment",
                "points": points_told(marked),
                "settings": recipe.segment.digest(),
                "features": features.info.settings_digest,
                "slide": features.info.slide_identity,
                "mpp": slide.mpp,
                "offset": list(offset),
                **class_told(marked),
            }
            if not force and (outcome := settled(folder, entry.key, provenance)):
                return outcome
            room = Room(folder, entry.key, report=report)
            bands = in_bands(*_segment(features, marked, recipe.segment, room))
            name = target_class(marked)
            segmentation = Segmentation(features.grid, bands, tissue, class_name=name, offset=offset)
            return settle(folder, entry.key, slide, segmentation, provenance=provenance)


def feature_recipe(recipe: Recipe) -> Recipe:
    """Recipe whose tile and encoder sections are those that `segment` extracts with."""
    segment = recipe.segment
    tile = recipe.tile.model_copy(update={"mpp": segment.mpp})
    encoder = recipe.encoder.model_copy(
        update={"name": segment.encoder, "kind": "dense", "weights": segment.weights, "stride_px": segment.stride_px}
    )
    return recipe.model_copy(update={"tile": tile, "encoder": encoder})


def _segment(
    features: FeatureMap, points: PointSet, settings: SegmentSettings, room: Room
) -> tuple[Floats, NDArray[np.bool_]]:
    """Probability and validity of every cell; what the user should know is warned of."""
    grid, valid = features.grid, features.read_valid(slice(None), slice(None))
    cells = grid.cells_of(points.xy)
    solve = partial(solve_in, room)
    found = segment_map(features.read, grid.shape, cells, points.label, valid=valid, settings=settings, solve=solve)
    for note in (*points.notes, *found.notes):
        warnings.warn(f"{features.info.slide}: {note}", UserWarning, stacklevel=2)
    return found.probability, valid


def solve_in(room: Room, z: Floats, valid: NDArray[np.bool_], settings: SegmentSettings) -> tuple[Floats, Status]:
    """Segment a contrast map by eq. 6 within the memory that there is: u, and how the solve ended."""
    how = SolverSettings(lam_rel=settings.lam_rel, beta=settings.beta, tol=settings.tol)
    solution, _ = solve_map(z, valid=valid, room=room, settings=how, means=settings.means)
    return solution.u, solution.status
