"""`wsipipe points`: points from masks, and points looked over before they are used."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsipipe_cli.options import (
    DEFAULT_OUTPUT,
    Device,
    Negative,
    NoCrop,
    Output,
    Positive,
    Reader,
    RecipeFile,
    SlideMpp,
    Slides,
)

if TYPE_CHECKING:
    from wsipipe.pipeline.point_audit import SlideAudit

NAME = "points"

app = typer.Typer(rich_markup_mode=None, help="Sample, audit and suggest points.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Sample, audit and suggest points."""


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
    force: Annotated[bool, typer.Option("--force", help="Replace points and manifests that others made.")] = False,
) -> None:
    """Draw points at random inside and outside of masks: points/ of the project folder, manifests filled in beside."""
    from wsipipe.pipeline.point_sampling import Drawing, sample_many
    from wsipipe_cli.batch import summarise

    drawing = Drawing(pairs, seed, margin, form, not no_crop, downsample, reader, force)
    outcomes = sample_many(inputs, output / "points", drawing)
    summarise(outcomes, total=len(outcomes))


@app.command("audit")
def audit(
    slides: Slides,
    points: Annotated[
        Path,
        typer.Option(
            "--points", "-p", help="Points of the slide; for several slides a folder of files named like the slides."
        ),
    ],
    output: Output = DEFAULT_OUTPUT,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Run folder of `wsipipe train` that judges the points, too.")
    ] = None,
    agreement: Annotated[
        bool, typer.Option("--agreement/--no-agreement", help="Judge each point by the others, which takes features.")
    ] = True,
    patch_um: Annotated[float, typer.Option(min=1, help="Side of a patch on the contact sheet, um.")] = 128,
    recipe: RecipeFile = None,
    weights: Annotated[
        str | None, typer.Option(help="Encoder weights of --model, where the file named in it has moved.")
    ] = None,
    slide_mpp: SlideMpp = None,
    positive: Positive = None,
    negative: Negative = None,
    no_crop: NoCrop = False,
    reader: Reader = "auto",
    device: Device = "auto",
) -> None:
    """Check points and draw the tissue under each: audit/ of the project folder; exit 1 where a file is unusable."""
    from wsipipe.annotations.classes import choose_classes
    from wsipipe.pipeline.marked_points import check_one_file_each
    from wsipipe.pipeline.point_audit import Auditing, audit_many
    from wsipipe.slides import list_slides
    from wsipipe_cli.batch import progress_bars
    from wsipipe_cli.recipes import recipe_from, weights_from

    entries = list_slides(slides, slide_mpp=slide_mpp)
    check_one_file_each(points, [entry.key for entry in entries])
    how = Auditing(
        recipe=recipe_from(recipe, {}),
        classes=choose_classes(positive or (), negative or ()),
        agreement=agreement,
        model=model,
        weights=weights_from(weights),
        crop=not no_crop,
        patch_um=patch_um,
        reader=reader,
        device=device,
    )
    with progress_bars(len(entries)) as report:
        audits = audit_many(entries, points, output, how, report=report)
    _print_audits(audits)
    typer.echo(f"-> {output / 'audit' / 'audit.json'}")
    if not all(audit.usable for audit in audits):
        raise typer.Exit(1)


@app.command("suggest")
def suggest(
    rasters: Annotated[
        list[Path], typer.Argument(help="*.probability.tif of `segment` or `predict`, or folders: masks/ of a project.")
    ],
    output: Output = DEFAULT_OUTPUT,
    count: Annotated[int, typer.Option(min=1, help="Places for each slide.")] = 10,
    spacing: Annotated[float, typer.Option(min=1, help="Smallest distance between places and from points, um.")] = 200,
    points: Annotated[
        Path | None,
        typer.Option("--points", "-p", help="Points there are, file or folder; those that `segment` used are known."),
    ] = None,
    no_crop: NoCrop = False,
) -> None:
    """Suggest where another point would say most, as QuPath points of class Suggested: points/ of the project."""
    from wsipipe.pipeline.point_suggestion import Suggesting, list_probabilities, suggest_many
    from wsipipe_cli.batch import summarise

    how = Suggesting(count, spacing, points, not no_crop)
    outcomes = suggest_many(list_probabilities(rasters), output / "points", how)
    summarise(outcomes, total=len(outcomes))


def _print_audits(audits: Sequence[SlideAudit]) -> None:
    """Print a line per slide, one per finding, and one per doubtful point."""
    _table(("slide", "points", "in target", "out of target", "classes", "contact sheet"), map(_slide_row, audits))
    found = [
        (
            audit.key,
            finding.severity,
            finding.kind,
            f"{finding.message}{f' ({finding.remedy})' if finding.remedy else ''}",
        )
        for audit in audits
        for finding in audit.findings
    ]
    doubted = [
        (audit.key, f"#{point.number}", point.class_name, f"({point.x:.0f}, {point.y:.0f})", _shown(point.others),
         _shown(point.model), ", ".join(point.doubts))
        for audit in audits
        for point in audit.points
        if point.doubts
    ]  # fmt: skip
    if found:
        _table(("slide", "severity", "finding", "what"), found)
    if doubted:
        _table(("slide", "point", "class", "place", "others", "model", "doubts"), doubted)
    typer.echo(f"{sum(audit.usable for audit in audits)} usable, {sum(not audit.usable for audit in audits)} not")


def _slide_row(audit: SlideAudit) -> tuple[str, ...]:
    inside = sum(point.in_target for point in audit.points)
    classes = ", ".join(f"{name or 'no class'} {count}" for name, count in audit.counts.items())
    counts = (len(audit.points), inside, len(audit.points) - inside)
    return audit.key, *map(str, counts), classes, "" if audit.sheet is None else str(audit.sheet)


def _shown(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.2f}"


def _table(headings: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
