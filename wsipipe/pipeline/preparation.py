"""From a manifest to training windows: features where they are missing, points checked and put on cells."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsipipe.annotations.audit import Finding, audit_points, check_source, refuse, without_duplicates
from wsipipe.annotations.classes import ClassList, ClassMap, Color, TissueClass, class_color
from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET, PointSet
from wsipipe.annotations.reading import read_points
from wsipipe.config import Recipe, updated
from wsipipe.errors import AnnotationError, ConfigError, WsipipeError
from wsipipe.parallel import map_items
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.manifest import ManifestRow
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.results import bounds_offset
from wsipipe.pipeline.samples import Sample, cells_of_points, cut_windows, draw_pairs
from wsipipe.pipeline.sources import FeatureSource, Source, feature_source, image_source, opened
from wsipipe.pipeline.splits import PointedSlide, split_slides
from wsipipe.pipeline.stain import stain_of
from wsipipe.pipeline.stored_maps import is_stored_map
from wsipipe.progress import Report
from wsipipe.slides import SlideEntry, slide_identity
from wsipipe.store.feature_map import FeatureMap

_LISTED = 5
_ALIKE = ("encoder", "weights_digest", "kind", "mpp", "stride_px", "dim", "stain")


@dataclass(frozen=True)
class Reading:
    """How slides and points are read.

    Parameters
    ----------
    slide_mpp : float or None
        um per level-0 px of slides that the manifest gives none.
    classes : ClassMap, ClassList or None
        Which classes are in-target and out-of-target, the usual ones where None; or are told from each other.
    crop : bool
        What QuPath wrote is relative to the slide's bounds.
    reader : str
        Slide library.
    device : str
        For the encoder.
    workers : int
        Slides that are encoded at a time.
    scheduler : str or None
        Address of a dask cluster that encodes instead.
    """

    slide_mpp: float | None = None
    classes: ClassMap | ClassList | None = None
    crop: bool = True
    reader: str = "auto"
    device: str = "auto"
    workers: int = 1
    scheduler: str | None = None


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Windows to train and to validate on.

    Parameters
    ----------
    train, validation : tuple of Sample
        Windows with points.
    facts : mapping
        What a map must be to fit the model: in_channels, encoder, weights_digest, kind, mpp, stride_px.
    notes : tuple of str
        What the user should know of points and split.
    digest : str
        Of slides, points, masks and split: another one means another training set.
    classes : tuple of TissueClass
        Where several are told apart: in the order of their labels.
    """

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    digest: str
    classes: tuple[TissueClass, ...] = ()


def prepare(rows: Sequence[ManifestRow], recipe: Recipe, *, out: Path, reading: Reading, report: Report) -> TrainingSet:
    """Make the training set of a manifest.

    Raises
    ------
    WsipipeError
        A slide cannot be read or encoded, points cannot be used, none is left to train or to validate on, masks are
        asked for and missing.
    """
    _check_masks(rows, recipe)
    used = [row for row in rows if row.split != "test"]
    sources = _sources(used, recipe, out=out, reading=reading, report=report)
    pointed, notes = _pointed_slides(used, sources, recipe, reading)
    split = split_slides(pointed, fraction=recipe.training.validation_fraction, seed=recipe.training.seed)
    train, validation = (_windows(slides, recipe) for slides in (split.train, split.validation))
    names = tuple(of.name for of in recipe.training.classes or ())
    _check_classes(train, names, notes)
    _check_validation(validation, used)
    facts = _facts(sources, recipe)
    digest, classes = _digest(used, reading, facts), _colored(names, pointed)
    return TrainingSet(train, validation, facts, (*notes, split.note), digest, classes)


def _check_masks(rows: Sequence[ManifestRow], recipe: Recipe) -> None:
    lacking = [row.key for row in rows if row.mask is None and row.split != "test"]
    if recipe.training.method == "full" and lacking:
        raise ConfigError(
            f"method 'full' learns from masks, {lacking[0]} has none", remedy="fill the manifest's mask column"
        )


def _sources(
    rows: Sequence[ManifestRow], recipe: Recipe, *, out: Path, reading: Reading, report: Report
) -> list[Source]:
    entries = [SlideEntry(row.key, row.slide, reading.slide_mpp if row.mpp is None else row.mpp) for row in rows]
    slides = [entry for entry in entries if not is_stored_map(entry.path)]
    if recipe.encoder.uses_images:
        _refuse_maps(rows, slides)
        resolution, stain = recipe.tile.mpp, recipe.stain
        return [image_source(entry, resolution, reader=reading.reader, stain=stain) for entry in entries]
    extracted = _extract(slides, recipe, out=out, reading=reading, report=report) if slides else []
    paths = {entry.key: path for entry, path in zip(slides, extracted, strict=True)}
    sources = [feature_source(entry, paths.get(entry.key, entry.path), reader=reading.reader) for entry in entries]
    _check_alike(sources)
    return [*sources]


def _refuse_maps(rows: Sequence[ManifestRow], slides: Sequence[SlideEntry]) -> None:
    if len(slides) < len(rows):
        raise ConfigError(
            "encoder 'none' takes images as they are, the manifest lists feature maps",
            remedy="list images alone, or maps alone",
        )


def _check_alike(sources: Sequence[FeatureSource]) -> None:
    """Refuse maps of several kinds: a network learns one."""
    first = sources[0]
    for source in sources:
        for fact in _ALIKE:
            here, there = getattr(source.info, fact), getattr(first.info, fact)
            if here != there and not (fact == "mpp" and here and there and math.isclose(here, there, rel_tol=1e-6)):
                raise ConfigError(
                    f"holds features with {fact} {here}, {first.path} with {there}",
                    path=source.path,
                    remedy="train on maps made alike; `wsipipe convert --mpp` gives all slides one nominal resolution",
                )


def recipe_of_maps(rows: Sequence[ManifestRow], recipe: Recipe) -> Recipe:
    """Recipe that tells of the maps of a manifest, where it lists maps alone: they are not made by the recipe's own.

    Raises
    ------
    StoreError
        The first map is damaged.
    """
    if not all(is_stored_map(row.slide) for row in rows):
        return recipe
    with FeatureMap.open(rows[0].slide) as features:
        info = features.info
    tile = info.settings.get("tile", {}) if info.kind == "patch" else {}
    encoder = {"name": info.encoder, "kind": info.kind, "stride_px": info.stride_px if info.kind == "dense" else None}
    told = {key: tile.get(key) for key in ("patch_size_px", "overlap_px")}
    recipe = recipe.model_copy(update={"stain": stain_of(info)})
    return updated(recipe, {"encoder": encoder, "tile": {"mpp": info.mpp, **told}})


def _extract(
    entries: Sequence[SlideEntry], recipe: Recipe, *, out: Path, reading: Reading, report: Report
) -> list[Path]:
    task = functools.partial(_extract_one, out=out, recipe=recipe, reader=reading.reader, device=reading.device)
    paths: dict[int, Path] = {}
    spread = map_items(task, entries, workers=reading.workers, scheduler=reading.scheduler, report=report)
    for index, outcome in spread:
        if isinstance(outcome, WsipipeError):
            raise outcome
        paths[index] = outcome.outputs[0]
    return [paths[index] for index in range(len(entries))]


def _extract_one(
    entry: SlideEntry, report: Report, *, out: Path, recipe: Recipe, reader: str, device: str
) -> SlideOutcome:
    recipe = updated(recipe, {"encoder": {"trainable": False}})  # for a map, batch norms are folded: the same, faster
    return extract_slide(entry, out, recipe, reader=reader, device=device, report=report)


def _pointed_slides(
    rows: Sequence[ManifestRow], sources: Sequence[Source], recipe: Recipe, reading: Reading
) -> tuple[list[PointedSlide], list[str]]:
    slides, notes, errors = [], [], []
    keys = [row.key for row in rows]
    for row, source in zip(rows, sources, strict=True):
        try:
            slide, told = _pointed(row, source, keys, recipe=recipe, reading=reading)
        except AnnotationError as error:
            errors.append(error)
            continue
        notes += [f"{row.key}: {note}" for note in told]
        if len(slide.points):
            slides.append(slide)
    _refuse_all(errors)
    return slides, notes


def _pointed(
    row: ManifestRow, source: Source, keys: Sequence[str], *, recipe: Recipe, reading: Reading
) -> tuple[PointedSlide, list[str]]:
    points = _read_points(row, source, keys, reading)
    drawn = draw_pairs(points, recipe.training.pairs, seed=recipe.training.seed, key=row.key)
    cells, dropped = cells_of_points(drawn, source)
    kind = "points" if points.classes else "out-of-target points"
    lost = [f"{dropped} {kind} lie off the tissue and are not needed"] if dropped else []
    return PointedSlide(row, source, cells, points.colors), [*points.notes, *lost]


def _refuse_all(errors: Sequence[AnnotationError]) -> None:
    """All slides whose points need work at once, so that one look at them suffices."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "; ".join(str(error) for error in errors[:_LISTED]) + ("; ..." if len(errors) > _LISTED else "")
        raise AnnotationError(f"the points of {len(errors)} slides cannot be used: {listed}")


def _read_points(row: ManifestRow, source: Source, keys: Sequence[str], reading: Reading) -> PointSet:
    offset = _offset(source, reading)
    points = read_points(row.points, classes=reading.classes, offset=offset, slide=row.key)
    findings = check_source(row.points, row.key, slides=points.slides, other_keys=keys)
    width, height = source.slide_size
    # Among several slides, one may well be all target or all background; several classes are looked for afterwards.
    alone = len(keys) > 1 or bool(points.classes)
    findings += audit_points(points, width=width, height=height, allow_one_class=alone, grid=source.grid)
    refuse(findings, source=row.points)
    # Leaving duplicates out tells of them already.
    told = tuple(_told(finding) for finding in findings if finding.kind != "duplicate")
    return without_duplicates(replace(points, notes=(*points.notes, *told)))


def _told(finding: Finding) -> str:
    return f"{finding.message} ({finding.remedy})" if finding.remedy else finding.message


def _offset(source: Source, reading: Reading) -> tuple[float, float]:
    """Corner of the slide's bounds; whether a file counts from there is for its reader to tell, by its content."""
    if not reading.crop:
        return 0.0, 0.0
    with opened(source.entry, reader=reading.reader) as slide:
        return bounds_offset(slide)


def _windows(slides: Sequence[PointedSlide], recipe: Recipe) -> tuple[Sample, ...]:
    training = recipe.training
    return tuple(
        sample
        for slide in slides
        for sample in cut_windows(
            slide.source,
            slide.points,
            window=training.window,
            point_width=training.point_width,
            mask=slide.row.mask,
            classes=len(training.classes or ()),
        )
    )


def _check_classes(train: Sequence[Sample], names: Sequence[str], notes: Sequence[str]) -> None:
    """Refuse points that lack a class; notes say what was left out, of which it may be."""
    present = {int(label) for sample in train for label in sample.points.label}
    if names:
        _check_several(present, names, notes)
        return
    for label, name in ((IN_TARGET, "in-target"), (OUT_OF_TARGET, "out-of-target")):
        if label not in present:
            raise AnnotationError(
                f"no {name} points to train on among {len(train)} windows", remedy=f"click {name} points on tissue"
            )


def _check_several(present: set[int], names: Sequence[str], notes: Sequence[str]) -> None:
    lacking = [name for label, name in enumerate(names) if label not in present]
    if not lacking:
        return
    found = ", ".join(repr(name) for label, name in enumerate(names) if label in present) or "none"
    left_out = "".join(f"; {note}" for note in notes if "points" in note)
    raise AnnotationError(
        f"no point of class {', '.join(map(repr, lacking))} to train on, but of {found}{left_out}",
        remedy="click points of it on tissue (glass is left out by itself), give its name in the file as "
        "NAME=PATTERN, or leave the class out",
    )


def _colored(names: Sequence[str], slides: Sequence[PointedSlide]) -> tuple[TissueClass, ...]:
    """Give every class the colour that the first file with one gives it; its own by name where that is taken."""
    colors: dict[int, Color] = {}
    for slide in slides:
        colors = {**slide.colors, **colors}
    classes: list[TissueClass] = []
    for label, name in enumerate(names):
        taken = {before.color for before in classes}
        color = colors.get(label, class_color(name))
        classes.append(TissueClass(name, class_color(name) if color in taken else color))
    return tuple(classes)


def _check_validation(validation: Sequence[Sample], rows: Sequence[ManifestRow]) -> None:
    """Without a labelled point to validate on, no epoch would be the best one and no model be kept."""
    if any(len(sample.points) for sample in validation):
        return
    keys = [row.key for row in rows if row.split == "val"]
    listed = ", ".join(keys[:_LISTED]) + (", ..." if len(keys) > _LISTED else "")
    raise AnnotationError(
        f"no point to validate on lies on the tissue of the val slides: {listed}",
        remedy="click points on their tissue, mark other slides val, or leave the split column out",
    )


def _facts(sources: Sequence[Source], recipe: Recipe) -> dict[str, Any]:
    source = sources[0]
    if isinstance(source, FeatureSource):
        names = ("encoder", "weights_digest", "kind", "mpp", "stride_px")
        stain = {} if source.info.stain is None else {"stain": source.info.stain}
        return {"in_channels": source.channels, **{name: getattr(source.info, name) for name in names}, **stain}
    image = {"encoder": "none", "weights_digest": "", "kind": "image", "stride_px": 1}
    return {"in_channels": source.channels, "mpp": recipe.tile.mpp, **image}


def _digest(rows: Sequence[ManifestRow], reading: Reading, facts: Mapping[str, Any]) -> str:
    """Hash of what the run learns from: content of slides, points and masks, not their places."""
    told = [
        [row.key, row.patient, row.split, row.mpp, slide_identity(row.slide), _content(row.points), _content(row.mask)]
        for row in rows
    ]
    classes = reading.classes or ClassMap()
    text = json.dumps([told, reading.slide_mpp, *classes.told, reading.crop, dict(facts)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
