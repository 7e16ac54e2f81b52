"""`wsipipe demo`: try it all on a slide that comes with the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsipipe_cli.options import Device

NAME = "demo"


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the demo; may exist.")] = Path(
        "wsipipe-demo"
    ),
    device: Device = "auto",
) -> None:
    """Make a small slide of real tissue, mark points, tile, extract, train, predict and compare with the truth."""
    from wsipipe.pipeline.demo import run_demo
    from wsipipe_cli.batch import progress_bars

    with progress_bars() as report:
        for line in run_demo(output, device=device, report=report):
            typer.echo(line)
