"""`wsipipe extract`: stitched feature maps."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    Backend,
    Device,
    FailFast,
    Force,
    Mag,
    Mpp,
    Output,
    Reader,
    RecipeFile,
    Scheduler,
    SlideMpp,
    Slides,
    Stain,
    StainReference,
    Workers,
    target_mpp,
)

NAME = "extract"

Kind = Annotated[str | None, typer.Option(help="patch: one vector per patch; dense: a convolutional map. [patch]")]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="resnet18, resnet34, resnet50, filterbank; timm:MODEL or timm:hf-hub:OWNER/MODEL (pip install "
        "'wsipipe[timm]'); python:package.module.function, your own. [resnet34]"
    ),
]
Weights = Annotated[
    str | None, typer.Option(help="imagenet or hub (published ones), none (random, seeded) or a file. [imagenet]")
]
Stride = Annotated[int | None, typer.Option(help="Dense maps: step between cells in target px. [16]")]


def command(
    slides: Slides,
    output: Output = DEFAULT_OUTPUT,
    recipe: RecipeFile = None,
    kind: Kind = None,
    encoder: Encoder = None,
    weights: Weights = None,
    stride: Stride = None,
    stain: Stain = None,
    stain_reference: StainReference = None,
    mpp: Mpp = None,
    mag: Mag = None,
    patch_size: Annotated[int | None, typer.Option(help="Side of a patch in target px.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Overlap of neighbouring patches in target px.")] = None,
    slide_mpp: SlideMpp = None,
    reader: Reader = "auto",
    device: Device = "auto",
    backend: Backend = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    fail_fast: FailFast = False,
    force: Force = False,
) -> None:
    """Compute a feature map of every slide: features/ of the project folder. Goes on where it was interrupted."""
    from wsipipe.pipeline.extract import extract_slide
    from wsipipe_cli.batch import run_slides
    from wsipipe_cli.recipes import Changes, recipe_from, weights_from

    changes: Changes = {
        "tile": {"mpp": target_mpp(mpp, mag), "patch_size_px": patch_size, "overlap_px": overlap},
        "encoder": {
            "name": encoder,
            "kind": kind,
            "weights": weights_from(weights),
            "stride_px": stride,
            "backend": backend,
        },
        "stain": {"method": stain, "reference": stain_reference},
    }
    task = functools.partial(
        extract_slide,
        out=output.absolute(),
        recipe=recipe_from(recipe, changes),
        reader=reader,
        device=device,
        force=force,
    )
    run_slides(task, slides, slide_mpp=slide_mpp, workers=workers, scheduler=scheduler, fail_fast=fail_fast)
