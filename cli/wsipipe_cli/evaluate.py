"""`wsipipe evaluate`: predicted masks against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsipipe_cli.options import DEFAULT_OUTPUT, Negative, Output, Positive, Scheduler, Workers

NAME = "evaluate"


def command(
    predictions: Annotated[Path, typer.Argument(help="Predicted mask, or folder of them: masks/ of a project.")],
    references: Annotated[
        Path, typer.Argument(help="Reference mask or polygons, or folder of them, named like the slides.")
    ],
    output: Output = DEFAULT_OUTPUT,
    positive: Positive = None,
    negative: Negative = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
) -> None:
    """Dice, accuracy, precision, recall, Cohen's kappa and AUC per slide and pooled: evaluation.md, .csv and .json."""
    from wsipipe.annotations.classes import choose_classes
    from wsipipe.pipeline.evaluate import evaluate, write_evaluation
    from wsipipe.pipeline.evaluation_pairs import find_pairs
    from wsipipe_cli.batch import progress_bars

    found = find_pairs(predictions.absolute(), references.absolute())
    classes = choose_classes(positive or (), negative or ())
    with progress_bars() as report:
        evaluation = evaluate(found, classes=classes, workers=workers, scheduler=scheduler, report=report)
    files = write_evaluation(output.absolute(), evaluation)
    if files:
        typer.echo(files[0].read_text(encoding="utf-8"))
        typer.echo("\n".join(f"-> {path}" for path in files))
    for outcome in evaluation.failed:
        typer.secho(f"{outcome.key}: failed, {outcome.message}", fg="red", err=True)
    if evaluation.failed:
        raise typer.Exit(1)
