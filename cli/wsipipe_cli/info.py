"""`wsipipe info`: what was understood of a slide, and how."""

from __future__ import annotations

from typing import Annotated

import typer

from wsipipe_cli.options import Reader, SlideMpp, Slides

NAME = "info"


def command(
    slides: Slides,
    reader: Reader = "auto",
    slide_mpp: SlideMpp = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print size, levels, resolution and its source, vendor, bounds and tissue of slides."""
    from wsipipe.pipeline.info import describe_slide

    from wsipipe.errors import WsipipeError
    from wsipipe.slides import list_slides

    failed = False
    for entry in list_slides(slides, slide_mpp=slide_mpp):
        try:
            _show(describe_slide(entry.path, mpp=entry.mpp, reader=reader), as_json)
        except WsipipeError as error:
            typer.secho(f"error: {error}", fg="red", err=True)
            failed = True
    if failed:
        raise typer.Exit(1)


def _show(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=2, default=str))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        typer.echo(f"{name:<{width}}  {lines[0] if lines else ''}")
        for line in lines[1:]:
            typer.echo(f"{'':<{width}}  {line}")
    typer.echo("")
