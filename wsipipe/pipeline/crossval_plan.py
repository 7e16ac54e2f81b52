"""What a comparison of methods will do, fixed before anything is trained: folds, points, jobs."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsipipe.annotations.classes import ClassMap
from wsipipe.annotations.masks import read_mask
from wsipipe.annotations.points import PointSet
from wsipipe.config import Recipe, updated
from wsipipe.errors import AnnotationError, CheckpointError, ConfigError, StoreError, WsipipeError
from wsipipe.parallel import map_items
from wsipipe.pipeline.cases import Case
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.folds import assign_folds
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.point_files import DEFAULT_PAIRS, draw_points, write_points
from wsipipe.pipeline.preparation import Reading
from wsipipe.pipeline.samples import truth_of
from wsipipe.pipeline.sources import FeatureSource, Source, feature_source, image_source
from wsipipe.progress import Report
from wsipipe.slides import SlideEntry, slide_identity
from wsipipe.store.tables import plain, read_json, write_csv, write_json

FILE_TYPE, FILE_VERSION = "wsipipe.crossval", 1
_LISTED = 5


@dataclass(frozen=True)
class Variant:
    """One column of a comparison: a recipe that differs from the others in little.

    Parameters
    ----------
    name : str
        In the tables, and of its folders.
    changes : mapping
        What it changes in the recipe, {"training": {"method": "cvm"}}.
    """

    name: str
    changes: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """An image with its points on disk, where its cells are read from, and its fold."""

    case: Case
    source: Source
    points: Path
    fold: int


@dataclass(frozen=True, eq=False)
class Job:
    """One variant on one fold: a training run and the scores of the fold's images.

    Parameters
    ----------
    fold : int
        The images that are held out, from 1.
    variant : str
        Name of the variant.
    recipe : Recipe
        Its settings.
    folder : Path
        Run folder.
    manifest : Path
        Of the images to train on.
    held_out : tuple of HeldOut
        The fold's images.
    out : Path
        Project folder, where feature maps are.
    reading : Reading
        How slides are read, and where it is computed.
    identity : mapping
        By which finished work is recognised: digests of everything that the scores depend on.
    force : bool
        Do it again even where it is finished.
    """

    fold: int
    variant: str
    recipe: Recipe
    folder: Path
    manifest: Path
    held_out: tuple[HeldOut, ...]
    out: Path
    reading: Reading
    identity: Mapping[str, Any]
    force: bool = False

    @property
    def name(self) -> str:
        """Of the job in messages and progress."""
        return f"fold-{self.fold}/{self.variant}"


@dataclass(frozen=True, eq=False)
class Plan:
    """A comparison, ready to run.

    Parameters
    ----------
    run : Path
        Its folder.
    images : tuple of HeldOut
        All images, in the manifest's order.
    jobs : tuple of Job
        Fold by fold, so that the first finished fold already compares all variants.
    folds, seed : int
        Of the comparison.
    notes : tuple of str
        What the user should know.
    """

    run: Path
    images: tuple[HeldOut, ...]
    jobs: tuple[Job, ...]
    folds: int
    seed: int
    notes: tuple[str, ...]


def make_plan(
    cases: Sequence[Case],
    recipe: Recipe,
    run: Path,
    variants: Sequence[Variant],
    *,
    folds: int,
    out: Path,
    reading: Reading,
    force: bool,
    report: Report,
) -> Plan:
    """Fix folds and points of a comparison, make features that are missing, and write all of it into the run folder.

    Parameters
    ----------
    cases : sequence of Case
        All images.
    recipe : Recipe
        Settings that all variants share; its training seed draws folds and points too, and its training pairs (or 3)
        say how many points are drawn where the manifest has none.
    run : Path
        Folder of the comparison.
    variants : sequence of Variant
        What is compared.
    folds : int
        Number of folds.
    out, reading, report
        As in `train`.
    force : bool
        Forget what the folder holds.

    Raises
    ------
    WsipipeError
        A slide, mask or points cannot be used, or the folder holds a comparison of other settings.
    """
    _check_recipe(recipe, variants)
    seed = recipe.training.seed
    fold_of = assign_folds([case.patient for case in cases], folds=folds, seed=seed)
    pairs = recipe.training.pairs or DEFAULT_PAIRS
    sources = _sources(cases, recipe, out=out, reading=reading, report=report)
    before = None if force else _read_plan(run)
    points = _points(cases, sources, run, pairs=pairs, seed=seed, keep=before is not None)
    images = tuple(HeldOut(*parts) for parts in zip(cases, sources, points, fold_of, strict=True))
    told = _told(images, recipe, folds=folds, pairs=pairs, reading=reading)
    if before is not None:
        _check_same(before, told, run)
    _write_plan(run, told, images, folds)
    jobs = tuple(_jobs(images, recipe, run, variants, folds=folds, out=out, reading=reading, plan=told, force=force))
    return Plan(run, images, jobs, folds, seed, (_note(cases, recipe, pairs),))


def _check_recipe(recipe: Recipe, variants: Sequence[Variant]) -> None:
    """Held-out images are scored on the features that all variants share, and by the target of their mask."""
    if recipe.training.classes:
        raise ConfigError("a comparison is of target and rest alone, not of training.classes", remedy="leave them out")
    if recipe.encoder.trainable or any(v.changes.get("encoder", {}).get("trainable") for v in variants):
        raise ConfigError(
            "a comparison needs an encoder that stays the same, encoder.trainable is true", remedy="set it to false"
        )


def _note(cases: Sequence[Case], recipe: Recipe, pairs: int) -> str:
    if cases[0].points is not None:
        return "points of the manifest" + ("" if recipe.training.pairs is None else f", up to {pairs} pairs per image")
    return f"{pairs} pairs of points per image, drawn from the masks"


def _sources(
    cases: Sequence[Case], recipe: Recipe, *, out: Path, reading: Reading, report: Report
) -> tuple[Source, ...]:
    entries = [case.entry(reading.slide_mpp) for case in cases]
    if recipe.encoder.uses_images:
        return tuple(
            image_source(entry, recipe.tile.mpp, reader=reading.reader, stain=recipe.stain) for entry in entries
        )
    task = functools.partial(_extract, out=out, recipe=recipe, reader=reading.reader, device=reading.device)
    maps: dict[int, Path] = {}
    spread = map_items(task, entries, workers=reading.workers, scheduler=reading.scheduler, report=report)
    for index, outcome in spread:
        if isinstance(outcome, WsipipeError):
            raise outcome
        maps[index] = outcome.outputs[0]
    return tuple(feature_source(entry, maps[index], reader=reading.reader) for index, entry in enumerate(entries))


def _extract(entry: SlideEntry, report: Report, *, out: Path, recipe: Recipe, reader: str, device: str) -> SlideOutcome:
    return extract_slide(entry, out, recipe, reader=reader, device=device, report=report)


def _points(
    cases: Sequence[Case], sources: Sequence[Source], run: Path, *, pairs: int, seed: int, keep: bool
) -> list[Path]:
    """Points of every image: the manifest's, those drawn before, or new ones."""
    paths, errors = [], []
    for case, source in zip(cases, sources, strict=True):
        path = case.points or run / "points" / f"{case.key}.geojson"
        paths.append(path)
        if case.points is not None or (keep and path.is_file()):
            continue
        try:
            write_points(path, points_on_cells(case, source, pairs=pairs, seed=seed), slide=case.key)
        except AnnotationError as error:
            errors.append(f"{case.key}: {error.problem}")
    if errors:
        listed = "; ".join(errors[:_LISTED]) + ("; ..." if len(errors) > _LISTED else "")
        raise AnnotationError(
            f"no points can be drawn for {len(errors)} of {len(cases)} images: {listed}",
            remedy="ask for fewer --pairs, leave these images out, or give points in the manifest",
        )
    return paths


def points_on_cells(case: Case, source: Source, *, pairs: int, seed: int) -> PointSet:
    """Draw points of an image from its mask, at the centres of the cells that the network will see (level-0 px)."""
    grid = source.grid
    whole = slice(0, grid.rows), slice(0, grid.cols)
    truth = truth_of(read_mask(case.mask), source, *whole, path=case.mask)
    drawn = draw_points(truth, pairs=pairs, seed=seed, key=case.key, valid=source.read_valid(*whole))
    xy = drawn.xy * grid.cell_px + np.asarray(grid.origin)
    width, height = source.slide_size
    # The last cells may reach beyond the slide; points must not.
    return replace(drawn, xy=np.clip(xy, 0, np.array([width, height]) - 0.5))


def _told(images: Sequence[HeldOut], recipe: Recipe, *, folds: int, pairs: int, reading: Reading) -> dict[str, Any]:
    """Everything that the scores of all variants depend on, by content."""
    classes = reading.classes or ClassMap()
    # Settings of single methods are told by their jobs; points alone have none.
    shared = updated(recipe, {"training": {"method": "partial_ce"}}).for_method()
    free = ("training.method", "training.previews")
    settings = {f"{section}.{name}": value for section, of in shared.items() for name, value in of.items()}
    told: dict[str, Any] = {
        "type": FILE_TYPE,
        "version": FILE_VERSION,
        "folds": folds,
        "pairs drawn": None if images[0].case.points else pairs,
        "slide_mpp": reading.slide_mpp,
        "classes": [list(part) for part in classes.told],
        "crop": reading.crop,
        "features": _features(images[0].source),
        **{name: value for name, value in settings.items() if name not in free},
        "images": {image.case.key: _content(image) for image in images},
    }
    return dict(json.loads(json.dumps(plain(told))))


def _features(source: Source) -> str | None:
    return source.info.weights_digest if isinstance(source, FeatureSource) else None


def _content(image: HeldOut) -> dict[str, Any]:
    case = image.case
    return {
        "patient": case.patient,
        "fold": image.fold,
        "mpp": case.mpp,
        "slide": slide_identity(case.slide),
        "mask": _sha(case.mask),
        "points": _sha(image.points),
    }


def _digest(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _read_plan(run: Path) -> dict[str, Any] | None:
    path = run / "plan.json"
    if not path.is_file():
        return None
    plan = read_json(path)
    if plan.get("type") != FILE_TYPE or plan.get("version") != FILE_VERSION:
        problem = f"is of type {plan.get('type')!r}, version {plan.get('version')}; expected {FILE_TYPE!r}"
        raise StoreError(problem, path=path, remedy="choose another --run folder, or --force to begin this one anew")
    return plan


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> None:
    remedy = "choose another --run folder, or --force to begin this one anew"
    for name in sorted({*before, *now} - {"images"}):
        if before.get(name) != now.get(name):
            problem = f"compares with {name} = {before.get(name)}, now it is {now.get(name)}"
            raise CheckpointError(problem, path=run, remedy=remedy)
    for key in sorted({*before["images"], *now["images"]}):
        old, new = (plan["images"].get(key, {}) for plan in (before, now))
        if changed := [
            name for name in ("slide", "mask", "points", "patient", "mpp", "fold") if old.get(name) != new.get(name)
        ]:
            raise CheckpointError(f"compares on other data: {key} has another {changed[0]}", path=run, remedy=remedy)


def _write_plan(run: Path, told: Mapping[str, Any], images: Sequence[HeldOut], folds: int) -> None:
    rows = [{"slide": image.case.key, "patient": image.case.patient, "fold": image.fold} for image in images]
    write_csv(run / "folds.csv", rows)
    for fold in range(1, folds + 1):
        write_csv(_manifest(run, fold), [_row(image) for image in images if image.fold != fold])
    write_json(run / "plan.json", told)


def _manifest(run: Path, fold: int) -> Path:
    return run / f"fold-{fold}" / "train.csv"


def _row(image: HeldOut) -> dict[str, object]:
    case = image.case
    paths = {"slide": case.slide, "points": image.points, "mask": case.mask}
    return {name: str(path.absolute()) for name, path in paths.items()} | {"patient": case.patient, "mpp": case.mpp}


def _jobs(
    images: Sequence[HeldOut],
    recipe: Recipe,
    run: Path,
    variants: Sequence[Variant],
    *,
    folds: int,
    out: Path,
    reading: Reading,
    plan: Mapping[str, Any],
    force: bool,
) -> Iterator[Job]:
    digest = _digest(plan)
    # Jobs run side by side; inside of one, features are at hand and nothing is left to spread.
    alone = replace(reading, workers=1, scheduler=None)
    recipes = {
        variant.name: updated(recipe, {name: dict(of) for name, of in variant.changes.items()}) for variant in variants
    }
    for fold in range(1, folds + 1):
        held_out = tuple(image for image in images if image.fold == fold)
        for name, settings in recipes.items():
            identity = {"plan": digest, "fold": fold, "settings": _digest(settings.for_method())}
            folder = run / f"fold-{fold}" / name
            yield Job(fold, name, settings, folder, _manifest(run, fold), held_out, out, alone, identity, force)
