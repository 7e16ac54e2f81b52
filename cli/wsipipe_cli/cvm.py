"""`wsipipe cvm`: the paper's points to mask on stored feature maps."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    Device,
    FailFast,
    Force,
    Negative,
    NoCrop,
    Output,
    Positive,
    Reader,
    RecipeFile,
    Scheduler,
    Workers,
)

NAME = "cvm"


def command(
    maps: Annotated[list[Path], typer.Argument(help="Feature maps of `wsipipe extract`, or folders of them.")],
    points: Annotated[
        Path,
        typer.Option(
            "--points", "-p", help="Points of the slide; for several maps a folder of files named like the slides."
        ),
    ],
    output: Output = DEFAULT_OUTPUT,
    slide: Annotated[
        Path | None,
        typer.Option(help="The slide, or a folder that holds it: for the overlay, and for GeoJSON relative to bounds."),
    ] = None,
    recipe: RecipeFile = None,
    eta: Annotated[float | None, typer.Option(help="Weight of the out-of-target correlation, eq. 5. [0.6]")] = None,
    prototype: Annotated[
        int | None, typer.Option(help="Cells squared whose mean feature stands for a point: 1, 3 or 5. [3]")
    ] = None,
    lam: Annotated[
        float | None, typer.Option("--lam", help="Fitting weight lambda, eq. 6; by default that of --lam-rel.")
    ] = None,
    lam_rel: Annotated[
        float | None, typer.Option("--lam-rel", help="Scale-free fitting weight: lambda is this / (c1 - c2)^2. [1]")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Edge detector g = 1 / (1 + beta |grad z|^2). [10]")] = None,
    tol: Annotated[float | None, typer.Option(help="Relative duality gap at which the solver stops. [1e-4]")] = None,
    distance: Annotated[
        str, typer.Option(help="Keep the mask near the in-target points: none, euclidean or geodesic.")
    ] = "none",
    theta: Annotated[
        float, typer.Option(help="Weight of --distance; 1 cancels what a certain cell at the far end gains.")
    ] = 1,
    scheme: Annotated[
        str, typer.Option(help="primal_dual (exact, fast) or aos (the paper's; --tol is then the last relative step).")
    ] = "primal_dual",
    neighbourhood: Annotated[
        str | None,
        typer.Option(
            help="How lengths are measured: crofton (8 neighbours) or isotropic; by default what suits the scheme."
        ),
    ] = None,
    positive: Positive = None,
    negative: Negative = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
    device: Device = "auto",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    fail_fast: FailFast = False,
    force: Force = False,
) -> None:
    """Mask, probability, GeoJSON, overlay and report from points on a stored map, eq. 4 to 7 of the paper: masks/."""
    from wsipipe.annotations.classes import choose_classes
    from wsipipe.pipeline.batch import run_batch
    from wsipipe.pipeline.cvm import CvmOptions, segment_stored_map
    from wsipipe.pipeline.marked_points import check_one_file_each
    from wsipipe.pipeline.stored_maps import list_maps
    from wsipipe_cli.batch import progress_bars, summarise
    from wsipipe_cli.recipes import recipe_from

    changes = {
        "cvm": {"eta": eta, "lam": lam, "lam_rel": lam_rel, "beta": beta, "tol": tol, "prototype": prototype},
    }
    options = CvmOptions.of(
        recipe_from(recipe, changes).cvm, distance=distance, theta=theta, scheme=scheme, neighbourhood=neighbourhood
    )
    entries = list_maps(maps)
    check_one_file_each(points, [entry.key for entry in entries])
    alone = len(entries) == 1  # then the cluster shares one map, else each worker has its own
    task = functools.partial(
        segment_stored_map,
        points=points.absolute(),
        out=output.absolute(),
        options=options,
        slide=None if slide is None else slide.absolute(),
        classes=choose_classes(positive or (), negative or ()),
        crop=not no_crop,
        reader=reader,
        device=device,
        force=force,
        scheduler=scheduler if alone else None,
    )
    with progress_bars(len(entries)) as report:
        outcomes = run_batch(
            task,
            entries,
            workers=workers,
            scheduler=None if alone else scheduler,
            fail_fast=fail_fast,
            report=report,
        )
    summarise(outcomes, total=len(entries))
