"""The `segment` command's work on one slide: points and the variational model, no training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.audit import audit_points, audit_source, audit_tissue, refuse, without_duplicates
from wsipipe.annotations.classes import ClassMap
from wsipipe.annotations.points import PointSet
from wsipipe.annotations.reading import read_marks, read_points
from wsipipe.config import Recipe, SegmentSettings
from wsipipe.errors import AnnotationError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.point_segmentation import segment_map
from wsipipe.numerics.regrid import Band
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.feature_plan import map_grid
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.results import (
    Segmentation,
    area_line,
    bounds_offset,
    is_written,
    result_paths,
    write_results,
)
from wsipipe.pipeline.tissue_reuse import tissue_for
from wsipipe.progress import Report, silent
from wsipipe.slides import MppView, SlideEntry, SlideReader, keys_beside, open_slide
from wsipipe.store.feature_map import FeatureMap

Floats = NDArray[np.float32]

_POINT_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".xml", ".annotations", ".csv")


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
        marked = usable_points(points_read, entry, slide, tissue, map_grid(view, recipe))
        extracted = extract_slide(entry, out, recipe, reader=reader, device=device, report=report)
        with FeatureMap.open(extracted.outputs[0]) as features:
            provenance = {
                "command": "segment",
                "points": [[*xy, label] for xy, label in zip(marked.xy.tolist(), marked.label.tolist(), strict=True)],
                "settings": recipe.segment.digest(),
                "features": features.info.settings_digest,
                "slide": features.info.slide_identity,
                "mpp": slide.mpp,
                "offset": list(offset),
            }
            if not force and is_written(folder, entry.key, provenance):
                return SlideOutcome(entry.key, "skipped", "mask is up to date", result_paths(folder, entry.key))
            bands = _bands(*_segment(features, marked, recipe.segment))
            segmentation = Segmentation(features.grid, bands, tissue, offset=offset)
            told = write_results(folder, entry.key, slide, segmentation, provenance=provenance)
    return SlideOutcome(entry.key, "done", area_line(told), result_paths(folder, entry.key))


def check_one_file_each(points: Path, keys: Sequence[str]) -> None:
    """Refuse one file of clicks for several slides, unless its points say themselves which slide they are on.

    Raises
    ------
    AnnotationError
        Several slides, and a file whose points name none.
    """
    if len(keys) > 1 and not points.is_dir() and not any(point.slide for point in read_marks(points).points):
        raise AnnotationError(
            f"is one file of points for {len(keys)} slides",
            path=points,
            remedy="give a folder with a file per slide, named like the slides",
        )


def feature_recipe(recipe: Recipe) -> Recipe:
    """Recipe whose tile and encoder sections are those that `segment` extracts with."""
    segment = recipe.segment
    tile = recipe.tile.model_copy(update={"mpp": segment.mpp})
    encoder = recipe.encoder.model_copy(
        update={"name": segment.encoder, "kind": "dense", "weights": segment.weights, "stride_px": segment.stride_px}
    )
    return recipe.model_copy(update={"tile": tile, "encoder": encoder})


def points_file(points: Path, key: str) -> Path:
    """Points of a slide: the file itself, or the one in a folder that has the slide's name.

    Raises
    ------
    AnnotationError
        The folder holds none, or several.
    """
    if not points.is_dir():
        return points
    found = [file for suffix in _POINT_SUFFIXES if (file := points / f"{key}{suffix}").is_file()]
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise AnnotationError(
            f"holds {names} for slide {key}, needs one", path=points, remedy=f"name the points {key}.geojson"
        )
    return found[0]


def usable_points(points: PointSet, entry: SlideEntry, slide: SlideReader, tissue: Tissue, grid: CellGrid) -> PointSet:
    """Refuse points that cannot be meant; drop those that say nothing new.

    Raises
    ------
    AnnotationError
        Of another slide, outside the slide, in-target points off the tissue, one class only, two classes on a cell.
    """
    width, height = slide.dimensions
    findings = [
        *audit_source(points.source or "", entry.key, slides=points.slides, other_keys=keys_beside(entry.path)),
        *audit_points(points, width=width, height=height, grid=grid),
        *audit_tissue(points, tissue.mask, tissue.grid),
    ]
    refuse(findings, source=points.source)
    for finding in findings:
        warnings.warn(f"{entry.key}: {finding.message}", UserWarning, stacklevel=2)
    return without_duplicates(points)


def _segment(features: FeatureMap, points: PointSet, settings: SegmentSettings) -> tuple[Floats, NDArray[np.bool_]]:
    """Probability and validity of every cell; what the user should know is warned of."""
    grid, valid = features.grid, features.read_valid(slice(None), slice(None))
    cells = grid.cells_of(points.xy)
    found = segment_map(features.read, grid.shape, cells, points.label, valid=valid, settings=settings)
    for note in (*points.notes, *found.notes):
        warnings.warn(f"{features.info.slide}: {note}", UserWarning, stacklevel=2)
    return found.probability, valid


def _bands(values: Floats, valid: NDArray[np.bool_], rows: int = 256) -> Iterator[Band]:
    return ((values[start : start + rows], valid[start : start + rows]) for start in range(0, len(values), rows))
