"""`wsipipe segment`: masks straight from points, no training."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from wsipipe_cli.extract import Encoder, Stride, Weights
from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    Backend,
    Device,
    FailFast,
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
    Slides,
    Stain,
    StainReference,
    Workers,
    target_mpp,
)

NAME = "segment"


def command(
    slides: Slides,
    points: Annotated[
        Path,
        typer.Option(
            "--points", "-p", help="Points of the slide; for several slides a folder of files named like the slides."
        ),
    ],
    output: Output = DEFAULT_OUTPUT,
    recipe: RecipeFile = None,
    encoder: Encoder = None,
    weights: Weights = None,
    stride: Stride = None,
    stain: Stain = None,
    stain_reference: StainReference = None,
    mpp: Mpp = None,
    mag: Mag = None,
    slide_mpp: SlideMpp = None,
    positive: Positive = None,
    negative: Negative = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
    device: Device = "auto",
    backend: Backend = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    fail_fast: FailFast = False,
    force: Force = False,
) -> None:
    """Mask, probability, GeoJSON, overlay and report from the variational model alone: masks/ of the project folder."""
    from wsipipe.annotations.classes import choose_classes
    from wsipipe.pipeline.marked_points import check_one_file_each
    from wsipipe.pipeline.segment import segment_slide
    from wsipipe_cli.batch import run_slides
    from wsipipe_cli.recipes import Changes, recipe_from, weights_from

    changes: Changes = {
        "segment": {
            "encoder": encoder,
            "weights": weights_from(weights),
            "stride_px": stride,
            "mpp": target_mpp(mpp, mag),
        },
        "encoder": {"backend": backend},
        "stain": {"method": stain, "reference": stain_reference},
    }
    task = functools.partial(
        segment_slide,
        points=points.absolute(),
        out=output.absolute(),
        recipe=recipe_from(recipe, changes),
        classes=choose_classes(positive or (), negative or ()),
        crop=not no_crop,
        reader=reader,
        device=device,
        force=force,
    )
    run_slides(
        task,
        slides,
        slide_mpp=slide_mpp,
        workers=workers,
        scheduler=scheduler,
        fail_fast=fail_fast,
        check=functools.partial(check_one_file_each, points),
    )
