"""`wsipipe crossval`: methods compared on equal terms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsipipe_cli.extract import Encoder, Kind, Stride, Weights
from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    Device,
    Force,
    Mag,
    Mpp,
    Negative,
    NoCrop,
    Output,
    Positive,
    Reader,
    RecipeFile,
    Scheduler,
    SlideMpp,
    target_mpp,
)

if TYPE_CHECKING:
    from wsipipe.pipeline.crossval import CrossvalResult

NAME = "crossval"

Masked = Annotated[Path, typer.Argument(help="CSV: slide,mask[,patient,points,mpp].")]
Run = Annotated[Path | None, typer.Option("--run", help="Folder of the comparison. [OUTPUT/crossval/<manifest>]")]
Folds = Annotated[int, typer.Option(min=2, help="Parts of the patients; each is held out once.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training windows.")]
Seed = Annotated[int | None, typer.Option(help="Seed of folds, points and everything else random. [0]")]
Pairs = Annotated[
    int | None, typer.Option(min=1, help="Points of each class per image; without it the recipe's, or 3.")
]
Jobs = Annotated[int, typer.Option("--workers", min=1, help="Folds and methods trained at once, each in a process.")]


def command(
    manifest: Masked,
    run: Run = None,
    output: Output = DEFAULT_OUTPUT,
    recipe: RecipeFile = Path("slide"),
    methods: Annotated[
        str, typer.Option(help="Methods with commas between, as training.method has them; or all.")
    ] = "all",
    baseline: Annotated[str, typer.Option(help="Method that the others are told against.")] = "cvm",
    folds: Folds = 4,
    pairs: Pairs = None,
    epochs: Epochs = None,
    seed: Seed = None,
    kind: Kind = None,
    encoder: Encoder = None,
    weights: Weights = None,
    stride: Stride = None,
    mpp: Mpp = None,
    mag: Mag = None,
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
    """Cross-validate methods by patient: Table 1 in Markdown, CSV, LaTeX, and heat maps. Goes on where it stopped."""
    from wsipipe.annotations.classes import choose_classes
    from wsipipe.pipeline.crossval import compare, known_methods, method_variants
    from wsipipe.pipeline.preparation import Reading
    from wsipipe_cli.batch import progress_bars
    from wsipipe_cli.recipes import Changes, recipe_from, weights_from

    names = known_methods() if methods == "all" else [name.strip() for name in methods.split(",")]
    method_variants([baseline])  # refuses a name that is none
    changes: Changes = {
        "tile": {"mpp": target_mpp(mpp, mag)},
        "encoder": {"name": encoder, "kind": kind, "weights": weights_from(weights), "stride_px": stride},
        "training": {"epochs": epochs, "pairs": pairs, "seed": seed},
    }
    classes = choose_classes(positive or (), negative or ())
    with progress_bars() as report:
        result = compare(
            manifest.absolute(),
            recipe_from(recipe, changes),
            (run or output / "crossval" / manifest.stem).absolute(),
            method_variants(names),
            folds=folds,
            baseline=baseline,
            out=output.absolute(),
            reading=Reading(slide_mpp, classes, not no_crop, reader, device, workers, scheduler),
            force=force,
            report=report,
            tell=typer.echo,
        )
    finish(result)


def finish(result: CrossvalResult) -> None:
    """Print the table and where it is; exit with 1 if any job failed."""
    if result.files:
        typer.echo("\n" + result.files[0].read_text(encoding="utf-8"))
        typer.echo("\n".join(f"-> {path}" for path in result.files))
    counts = {status: sum(of.status == status for of in result.outcomes) for status in ("done", "skipped", "failed")}
    typer.echo(f"{counts['done']} done, {counts['skipped']} skipped as already done, {counts['failed']} failed")
    if counts["failed"]:
        raise typer.Exit(1)
