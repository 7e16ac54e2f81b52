"""`wsipipe train`: a segmenter from points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsipipe_cli.extract import Encoder, Kind, Stride, Weights
from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    Backend,
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
    Stain,
    StainReference,
    Workers,
    target_mpp,
)

NAME = "train"


def command(
    manifest: Annotated[Path, typer.Argument(help="CSV: slide,points[,mask,patient,split,mpp].")],
    run: Annotated[Path | None, typer.Option("--run", help="Run folder. [OUTPUT/runs/<manifest>]")] = None,
    output: Output = DEFAULT_OUTPUT,
    recipe: RecipeFile = Path("slide"),
    epochs: Annotated[int | None, typer.Option(help="Passes over the training windows.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="A row of Table 1: cvm, contrast_map, partial_ce, mixmatch, mean_teacher, crf, dual_branch, cosine, "
            "direct_variational, or full (masks); or cvm_plus, our own. [cvm]"
        ),
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Points of each class used per slide. [all]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random. [0]")] = None,
    kind: Kind = None,
    encoder: Encoder = None,
    weights: Weights = None,
    stride: Stride = None,
    finetune_encoder: Annotated[
        bool, typer.Option("--finetune-encoder", help="Tune the encoder's last stages, too; reads pixels at each step.")
    ] = False,
    stain: Stain = None,
    stain_reference: StainReference = None,
    mpp: Mpp = None,
    mag: Mag = None,
    slide_mpp: SlideMpp = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Several classes to tell apart, Tumor,Stroma,Background=Ignore*: NAME, or NAME=PATTERN."),
    ] = None,
    positive: Positive = None,
    negative: Negative = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
    device: Device = "auto",
    backend: Backend = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    force: Force = False,
) -> None:
    """Train on the points of a manifest; extracts features that are missing. Goes on where it was interrupted."""
    from wsipipe.annotations.classes import choose_classes
    from wsipipe.errors import ConfigError
    from wsipipe.pipeline.train import train
    from wsipipe_cli.batch import progress_bars
    from wsipipe_cli.recipes import Changes, classes_from, recipe_from, weights_from

    changes: Changes = {
        "tile": {"mpp": target_mpp(mpp, mag)},
        "encoder": {
            "name": encoder,
            "kind": kind,
            "weights": weights_from(weights),
            "stride_px": stride,
            "backend": backend,
            "trainable": True if finetune_encoder else None,
        },
        "stain": {"method": stain, "reference": stain_reference},
        "training": {
            "epochs": epochs,
            "method": method,
            "pairs": pairs,
            "seed": seed,
            "classes": classes_from(classes),
        },
    }
    chosen = recipe_from(recipe, changes)
    if chosen.training.classes and (positive or negative):
        names = ", ".join(of.name for of in chosen.training.classes)
        raise ConfigError(f"--positive and --negative part two classes, the recipe has {names}", remedy="give one kind")
    with progress_bars() as report:
        result = train(
            manifest.absolute(),
            chosen,
            (run or output / "runs" / manifest.stem).absolute(),
            out=output.absolute(),
            slide_mpp=slide_mpp,
            classes=choose_classes(positive or (), negative or ()),
            crop=not no_crop,
            device=device,
            reader=reader,
            workers=workers,
            scheduler=scheduler,
            force=force,
            report=report,
        )
    typer.echo(str(result))
