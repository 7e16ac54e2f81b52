"""`wsipipe ablate`: what the number of points and eta are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsipipe_cli.crossval import Epochs, Folds, Jobs, Masked, Pairs, Seed, finish
from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    Device,
    Force,
    Negative,
    NoCrop,
    Output,
    Positive,
    Reader,
    RecipeFile,
    Scheduler,
    SlideMpp,
)

if TYPE_CHECKING:
    from wsipipe.pipeline.crossval_plan import Variant

NAME = "ablate"

app = typer.Typer(rich_markup_mode=None, help="Vary one setting of the method, all else equal.", no_args_is_help=True)

Run = Annotated[Path | None, typer.Option("--run", help="Folder of the comparison. [OUTPUT/ablation/<manifest>-...]")]


@dataclass(frozen=True)
class _Options:
    """What both commands are given alike."""

    manifest: Path
    run: Path | None
    output: Path
    recipe: Path | None
    folds: int
    epochs: int | None
    seed: int | None
    slide_mpp: float | None
    positive: list[str] | None
    negative: list[str] | None
    no_crop: bool
    reader: str
    device: str
    workers: int
    scheduler: str | None
    force: bool


@app.callback()
def group() -> None:
    """Vary one setting of the method, all else equal."""


@app.command("pairs")
def pairs(
    manifest: Masked,
    values: Annotated[str, typer.Option("--values", help="Numbers of pairs, with commas between.")] = "2,3,4,5",
    run: Run = None,
    output: Output = DEFAULT_OUTPUT,
    recipe: RecipeFile = Path("slide"),
    folds: Folds = 4,
    epochs: Epochs = None,
    seed: Seed = None,
    slide_mpp: SlideMpp = None,
    positive: Positive = None,
    negative: Negative = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
    device: Device = "auto",
    workers: Jobs = 1,
    scheduler: Scheduler = None,
    force: Force = False,
) -> None:
    """Cross-validate with 2, 3, 4, ... pairs of points, with the weighted KL and without it (Fig. 3a)."""
    from wsipipe.pipeline.ablation import pair_variants

    shared = (manifest, run, output, recipe, folds, epochs, seed, slide_mpp, positive, negative, no_crop)
    options = _Options(*shared, reader, device, workers, scheduler, force)
    counts = [int(value) for value in _numbers(values, whole=True)]
    _compare(options, "pairs", pair_variants(counts), varied="pairs of points", baseline="pairs-3", pairs=max(counts))


@app.command("eta")
def eta(
    manifest: Masked,
    values: Annotated[str, typer.Option("--values", help="Values of eta, with commas between.")] = "0,0.3,0.6,0.9",
    run: Run = None,
    output: Output = DEFAULT_OUTPUT,
    recipe: RecipeFile = Path("slide"),
    folds: Folds = 4,
    pairs: Pairs = None,
    epochs: Epochs = None,
    seed: Seed = None,
    slide_mpp: SlideMpp = None,
    positive: Positive = None,
    negative: Negative = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
    device: Device = "auto",
    workers: Jobs = 1,
    scheduler: Scheduler = None,
    force: Force = False,
) -> None:
    """Cross-validate with several weights of the out-of-target points in the contrast map (Fig. 3b)."""
    from wsipipe.pipeline.ablation import eta_variants

    shared = (manifest, run, output, recipe, folds, epochs, seed, slide_mpp, positive, negative, no_crop)
    options = _Options(*shared, reader, device, workers, scheduler, force)
    _compare(options, "eta", eta_variants(_numbers(values)), varied="eta", baseline="eta-0.6", pairs=pairs)


def _numbers(text: str, *, whole: bool = False) -> list[float]:
    try:
        return [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: give numbers with commas between") from error


def _compare(
    options: _Options, name: str, variants: Sequence[Variant], *, varied: str, baseline: str, pairs: int | None
) -> None:
    from wsipipe.annotations.classes import choose_classes
    from wsipipe.pipeline.crossval import compare
    from wsipipe.pipeline.preparation import Reading
    from wsipipe_cli.batch import progress_bars
    from wsipipe_cli.recipes import recipe_from

    changes = {"training": {"epochs": options.epochs, "pairs": pairs, "seed": options.seed}}
    folder = options.output / "ablation" / f"{options.manifest.stem}-{name}"
    with progress_bars() as report:
        result = compare(
            options.manifest.absolute(),
            recipe_from(options.recipe, changes),
            (options.run or folder).absolute(),
            variants,
            folds=options.folds,
            baseline=baseline,
            varied=varied,
            out=options.output.absolute(),
            reading=Reading(
                slide_mpp=options.slide_mpp,
                classes=choose_classes(options.positive or (), options.negative or ()),
                crop=not options.no_crop,
                reader=options.reader,
                device=options.device,
                workers=options.workers,
                scheduler=options.scheduler,
            ),
            force=options.force,
            report=report,
            tell=typer.echo,
        )
    finish(result)
