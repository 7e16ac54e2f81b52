"""`wsipipe tile`: tissue contours and the grid of patches."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    FailFast,
    Force,
    Mag,
    Mpp,
    NoCrop,
    Output,
    Reader,
    RecipeFile,
    Scheduler,
    SlideMpp,
    Slides,
    Workers,
    target_mpp,
)

NAME = "tile"


def command(
    slides: Slides,
    output: Output = DEFAULT_OUTPUT,
    recipe: RecipeFile = None,
    mpp: Mpp = None,
    mag: Mag = None,
    patch_size: Annotated[int | None, typer.Option(help="Side of a patch in target px.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Overlap of neighbouring patches in target px.")] = None,
    min_tissue: Annotated[float | None, typer.Option(help="Smallest tissue fraction of a patch. [0.1]")] = None,
    export: Annotated[str | None, typer.Option(help="Also write every patch as an image: png.")] = None,
    slide_mpp: SlideMpp = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    fail_fast: FailFast = False,
    force: Force = False,
) -> None:
    """Find tissue and lay the grid of patches: tissue/, thumbnails/ and tiles/ of the project folder."""
    from wsipipe.pipeline.tile import tile_slide
    from wsipipe_cli.batch import run_slides
    from wsipipe_cli.recipes import recipe_from

    if export not in (None, "png"):
        raise typer.BadParameter(f"--export {export}: only png can be written")
    changes = {
        "mpp": target_mpp(mpp, mag),
        "patch_size_px": patch_size,
        "overlap_px": overlap,
        "min_tissue": min_tissue,
    }
    settings = recipe_from(recipe, {"tile": changes}).tile
    task = functools.partial(
        tile_slide,
        out=output.absolute(),
        settings=settings,
        crop=not no_crop,
        reader=reader,
        export_png=export == "png",
        force=force,
    )
    run_slides(task, slides, slide_mpp=slide_mpp, workers=workers, scheduler=scheduler, fail_fast=fail_fast)
