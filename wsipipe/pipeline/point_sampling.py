"""The `points sample` command: points from reference masks, as if somebody had clicked them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.masks import read_mask
from wsipipe.errors import AnnotationError, ConfigError, StoreError, WsipipeError
from wsipipe.geometry import CellGrid
from wsipipe.pipeline.cases import Case, read_cases
from wsipipe.pipeline.evaluation_pairs import file_key
from wsipipe.pipeline.mask_extent import (
    MaskExtent,
    check_single_class,
    known_slide_size,
    mask_extent,
    report_beside,
)
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.point_files import DEFAULT_MARGIN, DEFAULT_PAIRS, draw_points, refuse_others, write_points
from wsipipe.pipeline.results import bounds_offset
from wsipipe.slides import open_slide
from wsipipe.store.raster import own_raster_info
from wsipipe.store.tables import read_csv, write_csv

_COLUMNS = ("slide", "points", "mask", "patient", "mpp")


@dataclass(frozen=True)
class Drawing:
    """How points are drawn and written.

    Parameters
    ----------
    pairs, seed
        See `draw_points`.
    margin_px : float
        Points lie farther than this from the border of the target, in level-0 px; one pixel of the mask at least.
    form : str
        "geojson" or "csv".
    crop : bool
        GeoJSON relative to the slide's bounds, as QuPath shows it.
    downsample : float
        Level-0 px per pixel of a mask that is given without its slide.
    reader : str
        Slide library.
    force : bool
        Replace files of points and manifests, whoever made them.
    """

    pairs: int = DEFAULT_PAIRS
    seed: int = 0
    margin_px: float = 0.0
    form: Literal["geojson", "csv"] = "geojson"
    crop: bool = True
    downsample: float = 1.0
    reader: str = "auto"
    force: bool = False


def sample_many(inputs: Sequence[Path], folder: Path, drawing: Drawing) -> list[SlideOutcome]:
    """Draw points for every mask; one that has too little of a class does not stop the others.

    Parameters
    ----------
    inputs : sequence of Path
        Manifests (see `read_cases`) and masks. The points of a mask are named after it, less an ending like "_mask".
    folder : Path
        Gets `<slide>.geojson` (or .csv), and a copy of every manifest with its points filled in.
    drawing : Drawing
        How.

    Returns
    -------
    list of SlideOutcome
        In order.

    Raises
    ------
    ConfigError
        A manifest cannot be used, two slides or manifests have one name, or a copy would replace a manifest.
    StoreError
        A manifest cannot be written.
    """
    manifests = {path: read_cases(path) for path in inputs if path.suffix.lower() == ".csv"}
    named = [case.key for cases in manifests.values() for case in cases]
    masks = [path for path in inputs if path not in manifests]
    _check_keys([*named, *map(file_key, masks)])
    _check_copies(manifests, folder, drawing)
    outcomes: list[SlideOutcome] = []
    for path, cases in manifests.items():
        own = [_guarded(case, folder, drawing) for case in cases]
        # Without the slides that got no points.
        drawn = [case for case, outcome in zip(cases, own, strict=True) if outcome.status == "done"]
        write_csv(folder / path.name, _rows(drawn, drawing), columns=_COLUMNS)
        outcomes += own
    return [*outcomes, *(_guarded(path, folder, drawing) for path in masks)]


def _check_keys(keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ConfigError(f"two masks are named {key!r}", remedy="rename one; points are named after their slide")
        seen.add(key)


def _check_copies(manifests: Mapping[Path, Sequence[Case]], folder: Path, drawing: Drawing) -> None:
    """Refuse, before anything is drawn, copies of manifests that would replace what somebody made."""
    remedy = "choose another --output"
    names: set[str] = set()
    for path, cases in manifests.items():
        copy = folder / path.name
        if path.name in names:
            raise ConfigError(f"two manifests are named {path.name}", path=path, remedy="rename one")
        names.add(path.name)
        if not copy.exists():
            continue
        if copy.samefile(path):
            raise ConfigError("would be replaced by its copy with points", path=path, remedy=remedy)
        if not drawing.force and not _is_copy(copy, _rows(cases, drawing)):
            problem = "is there already and says something else than the copy with points would"
            raise ConfigError(problem, path=copy, remedy=f"{remedy}, or --force to replace it")


def _is_copy(path: Path, rows: Sequence[Mapping[str, object]]) -> bool:
    """Whether a manifest holds nothing that these rows do not; slides without points were left out of it."""
    ours = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    try:
        return all(row in ours for row in read_csv(path))
    except StoreError:
        return False


def _guarded(source: Case | Path, folder: Path, drawing: Drawing) -> SlideOutcome:
    key = source.key if isinstance(source, Case) else file_key(source)
    try:
        return (
            sample_slide(source, folder, drawing) if isinstance(source, Case) else sample_mask(source, folder, drawing)
        )
    except WsipipeError as error:
        return SlideOutcome(key, "failed", str(error))


def sample_slide(case: Case, folder: Path, drawing: Drawing) -> SlideOutcome:
    """Draw points of a slide from its reference mask, which covers it at any resolution.

    Raises
    ------
    WsipipeError
        The slide or the mask cannot be read, has too few pixels of a class, or the file cannot be written.
    """
    with open_slide(case.slide, mpp=case.mpp, reader=drawing.reader) as slide:
        size, offset = slide.dimensions, bounds_offset(slide) if drawing.crop else (0.0, 0.0)
    check_single_class(case.mask)
    mask = read_mask(case.mask)
    extent = mask_extent(case.mask, mask.shape, size)
    return _sampled(_Place(case.key, case.mask, extent, size, offset), mask, folder, drawing)


def sample_mask(path: Path, folder: Path, drawing: Drawing) -> SlideOutcome:
    """Draw points from a mask alone; one of ours knows its scale. Errors as for `sample_slide`."""
    check_single_class(path)
    mask, info, key = read_mask(path), own_raster_info(path), file_key(path)
    if info is None:
        extent = MaskExtent.of_grid(CellGrid(len(mask), mask.shape[1], drawing.downsample))
        size = extent.size
    else:
        extent, size = MaskExtent.of_grid(info.grid), known_slide_size(info.grid, report_beside(path, key))
    return _sampled(_Place(key, path, extent, size), mask, folder, drawing)


@dataclass(frozen=True)
class _Place:
    """A mask of a slide: where it lies, what size the slide has, and the corner of its bounds, all in level-0 px."""

    key: str
    path: Path
    extent: MaskExtent
    slide_size: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)


def _sampled(place: _Place, mask: NDArray[np.bool_], folder: Path, drawing: Drawing) -> SlideOutcome:
    key, extent = place.key, place.extent
    # Neighbouring pixels of two classes would contradict each other.
    margin = max(DEFAULT_MARGIN, drawing.margin_px / min(extent.step))
    valid = extent.on_slide(place.slide_size)
    try:
        drawn = draw_points(mask, pairs=drawing.pairs, seed=drawing.seed, key=key, margin=margin, valid=valid)
    except AnnotationError as error:
        if error.path is not None:
            raise
        remedy = "ask for fewer pairs or a smaller margin, or leave this image out"
        raise AnnotationError(error.problem, path=place.path, remedy=remedy) from error
    path = folder / f"{key}.{drawing.form}"
    placed = replace(drawn, xy=drawn.xy * extent.step + extent.origin)
    if not drawing.force:
        refuse_others(path, placed, slide=key)
    write_points(path, placed, slide=key, offset=place.offset)
    return SlideOutcome(key, "done", f"{drawing.pairs} pairs", (path,))


def _rows(cases: Sequence[Case], drawing: Drawing) -> list[dict[str, object]]:
    """Rows of a manifest with points, ready for `train` and `crossval`; with the column `split` where there was one."""
    split = any(case.split for case in cases)
    return [
        {
            "slide": str(case.slide.absolute()),
            "points": f"{case.key}.{drawing.form}",
            "mask": str(case.mask.absolute()),
            "patient": case.patient,
            "mpp": case.mpp,
            **({"split": case.split} if split else {}),
        }
        for case in cases
    ]
