"""`wsipipe predict`: masks of slides from a trained model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    Backend,
    Device,
    FailFast,
    Force,
    NoCrop,
    Output,
    Reader,
    Scheduler,
    SlideMpp,
    Workers,
)

NAME = "predict"


def command(
    slides: Annotated[
        list[Path],
        typer.Argument(help="Slides, folders of slides, a CSV with a `wsi` column, or feature maps (.h5)."),
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="Run folder of `wsipipe train`, or a checkpoint.")],
    output: Output = DEFAULT_OUTPUT,
    threshold: Annotated[
        float | None, typer.Option(help="Smallest probability in the mask; not for models of several classes. [0.5]")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Encoder weights, where the file named in the checkpoint has moved.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="The model's encoder again, where it is your own code (python:...).")
    ] = None,
    slide_mpp: SlideMpp = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
    device: Device = "auto",
    backend: Backend = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    fail_fast: FailFast = False,
    force: Force = False,
) -> None:
    """Write mask, probability, GeoJSON, overlay and report of every slide: masks/ of the project folder."""
    from wsipipe.pipeline.predict import predict_slide
    from wsipipe_cli.batch import run_slides
    from wsipipe_cli.recipes import weights_from

    task = functools.partial(
        predict_slide,
        model=model.absolute(),
        out=output.absolute(),
        threshold=threshold,
        weights=weights_from(weights),
        encoder=encoder,
        backend=backend,
        crop=not no_crop,
        reader=reader,
        device=device,
        force=force,
    )
    run_slides(task, slides, slide_mpp=slide_mpp, workers=workers, scheduler=scheduler, fail_fast=fail_fast)
