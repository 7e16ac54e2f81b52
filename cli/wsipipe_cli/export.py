"""`wsipipe export`: finished masks for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsipipe_cli.options import DEFAULT_OUTPUT, NoCrop, Output, Reader, SlideMpp

NAME = "export"


def command(
    masks: Annotated[
        list[Path],
        typer.Argument(help="Masks of `predict`, `segment` or any program, or folders: masks/ of a project."),
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", help="geojson, geojson.gz, asap, gpkg, parquet, dicom-seg; several with commas, or give it again."
        ),
    ],
    output: Output = DEFAULT_OUTPUT,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class of the regions. [as the report says, else Tumor]")
    ] = None,
    simplify: Annotated[
        float, typer.Option(min=0, help="Drop corners that stand out by less than about this, um; 0: none.")
    ] = 0,
    slide: Annotated[
        Path | None, typer.Option(help="The slide, or a folder of slides: for masks of other programs, and for DICOM.")
    ] = None,
    slide_mpp: SlideMpp = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
) -> None:
    """Write masks as polygons for QuPath, ASAP, GIS and data frames, or as DICOM: exports/ of the project."""
    from wsipipe.pipeline.export import Exporting, export_many, list_masks
    from wsipipe_cli.batch import summarise

    formats = tuple(dict.fromkeys(name for given in to for name in given.lower().split(",") if name))
    how = Exporting(formats, class_name, simplify, slide, slide_mpp, not no_crop, reader)
    outcomes = export_many(list_masks(masks), output / "exports", how)
    summarise(outcomes, total=len(outcomes))
