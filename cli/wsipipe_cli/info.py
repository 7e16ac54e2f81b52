"""`wsipipe info`: what was understood of a slide, and how."""

from __future__ import annotations

from typing import Annotated, Any

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
    from wsipipe.errors import WsipipeError
    from wsipipe.pipeline.info import describe_slide
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


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=2, default=str))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = [_line(item) for item in value] if name in ("levels", "notes") else [_line(value)]
        typer.echo(f"{name:<{width}}  " + f"\n{'':<{width}}  ".join(lines or ["none"]))
    typer.echo("")


def _line(value: object) -> str:
    """One value for people: numbers rounded, levels and boxes as words."""
    if isinstance(value, dict):
        mpp = "" if value["mpp"] is None else f", {value['mpp']:.4g} um/px"
        size = f"{value['width']} x {value['height']} px, downsample {value['downsample']:.5g}{mpp}"
        return f"{size}, read by {value['reader']}"
    if isinstance(value, list):
        x, y, width, height = value
        return f"{width} x {height} px from ({x}, {y})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "unknown" if value is None else str(value)
