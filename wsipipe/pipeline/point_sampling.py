"""The `points sample` command: points from reference masks, as if somebody had clicked them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wsipipe.annotations.masks import read_mask
from wsipipe.errors import AnnotationError, ConfigError, StoreError, WsipipeError
from wsipipe.pipeline.cases import Case, read_cases
from wsipipe.pipeline.evaluation_pairs import file_key
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
        (width, height), offset = slide.dimensions, bounds_offset(slide) if drawing.crop else (0.0, 0.0)
    rows, cols = read_mask(case.mask).shape
    step = _own_step(case.mask)
    across, down = (width / cols, height / rows) if step is None else (step, step)
    if abs(across / down - 1) > 0.02:
        problem = f"is {cols} x {rows} px, its slide {width} x {height} px"
        raise AnnotationError(problem, path=case.mask, remedy="a mask covers the whole slide")
    return _sampled(case.key, case.mask, folder, drawing, scale=(across, down), offset=offset)


def sample_mask(path: Path, folder: Path, drawing: Drawing) -> SlideOutcome:
    """Draw points from a mask alone; one of ours knows its scale. Errors as for `sample_slide`."""
    step = _own_step(path) or drawing.downsample
    return _sampled(file_key(path), path, folder, drawing, scale=(step, step), offset=(0.0, 0.0))


def _own_step(mask: Path) -> float | None:
    """Level-0 px per pixel of a mask of ours; None of others.

    Raises
    ------
    AnnotationError
        It is a mask of several classes.
    """
    info = own_raster_info(mask)
    if info is None:
        return None
    if info.classes:
        names = ", ".join(of.name for of in info.classes)
        raise AnnotationError(f"holds the classes {names}, points are drawn inside and outside of one", path=mask)
    return info.grid.cell_px


def _sampled(
    key: str,
    mask: Path,
    folder: Path,
    drawing: Drawing,
    *,
    scale: tuple[float, float],
    offset: tuple[float, float],
) -> SlideOutcome:
    # Neighbouring pixels of two classes would contradict each other.
    margin = max(DEFAULT_MARGIN, drawing.margin_px / min(scale))
    try:
        drawn = draw_points(read_mask(mask), pairs=drawing.pairs, seed=drawing.seed, key=key, margin=margin)
    except AnnotationError as error:
        if error.path is not None:
            raise
        remedy = "ask for fewer pairs or a smaller margin, or leave this image out"
        raise AnnotationError(error.problem, path=mask, remedy=remedy) from error
    path = folder / f"{key}.{drawing.form}"
    placed = replace(drawn, xy=drawn.xy * scale)
    if not drawing.force:
        refuse_others(path, placed, slide=key)
    write_points(path, placed, slide=key, offset=offset)
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
