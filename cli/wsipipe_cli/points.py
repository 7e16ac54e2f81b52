"""`wsipipe points`: points from masks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsipipe_cli.options import DEFAULT_OUTPUT, NoCrop, Output, Reader

NAME = "points"

app = typer.Typer(help="Sample points from reference masks.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Sample points from reference masks."""


@app.command("sample")
def sample(
    inputs: Annotated[
        list[Path], typer.Argument(help="Manifests (CSV: slide,mask[,patient,mpp]) or masks.", show_default=False)
    ],
    output: Output = DEFAULT_OUTPUT,
    pairs: Annotated[int, typer.Option(min=1, help="Points of each class per image.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw; with the slide's name it decides alone.")] = 0,
    margin: Annotated[float, typer.Option(min=0, help="Smallest distance from the target's border, level-0 px.")] = 0,
    form: Annotated[
        Literal["geojson", "csv"], typer.Option("--format", help="QuPath GeoJSON, or CSV with x, y, label.")
    ] = "geojson",
    downsample: Annotated[
        float, typer.Option(min=0.001, help="Level-0 px per pixel of a mask given without its slide.")
    ] = 1.0,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
) -> None:
    """Draw points at random inside and outside of masks: points/ of the project folder, manifests filled in beside."""
    from wsipipe.pipeline.point_sampling import Drawing, sample_many
    from wsipipe_cli.batch import summarise

    drawing = Drawing(pairs, seed, margin, form, not no_crop, downsample, reader)
    outcomes = sample_many(inputs, output / "points", drawing)
    summarise(outcomes, total=len(outcomes))
