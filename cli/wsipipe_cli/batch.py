"""Run a command on many slides with progress, a summary and the right exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wsipipe.progress import Progress, Report

if TYPE_CHECKING:
    from wsipipe.pipeline.batch import SlideTask
    from wsipipe.pipeline.outcome import SlideOutcome


def run_slides(
    task: SlideTask,
    slides: Sequence[Path],
    *,
    slide_mpp: float | None,
    workers: int = 1,
    scheduler: str | None = None,
    fail_fast: bool = False,
    check: Callable[[Sequence[str]], None] | None = None,
) -> None:
    """Run `task` on every slide of the inputs, whose keys `check` may refuse; exit with 1 if any failed."""
    from wsipipe.pipeline.batch import run_batch
    from wsipipe.slides import list_slides

    # Workers of a cluster have a working folder of their own.
    entries = [replace(entry, path=entry.path.absolute()) for entry in list_slides(slides, slide_mpp=slide_mpp)]
    if check is not None:
        check([entry.key for entry in entries])
    with progress_bars(len(entries)) as report:
        outcomes = run_batch(task, entries, workers=workers, scheduler=scheduler, fail_fast=fail_fast, report=report)
    summarise(outcomes, total=len(entries))


def summarise(outcomes: Sequence[SlideOutcome], *, total: int) -> None:
    """Print a line per slide and a count; exit with 1 if any failed or was left out."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("slide", "status", "result"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        table.add_row(escape(outcome.key), _colored(outcome.status), _tell(outcome))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    left_out = total - len(outcomes)
    typer.echo(
        f"{counts['done']} done, {counts['skipped']} skipped as already done, {counts['failed']} failed"
        + (f", {left_out} not started" if left_out else "")
    )
    if counts["failed"] or left_out:
        raise typer.Exit(1)


@contextmanager
def progress_bars(slides: int | None = None) -> Iterator[Report]:
    """Bars on a terminal: one per slide at work and, for several slides, one over all; nothing in a pipe."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        overall = display.add_task("slides", total=slides) if slides is not None and slides > 1 else None
        yield _Bars(display, overall)


class _Bars:
    """Keeps one bar per item and stage."""

    def __init__(self, display: object, overall: object) -> None:
        self._display = display
        self._overall = overall
        self._tasks: dict[str, tuple[str, object]] = {}

    def __call__(self, progress: Progress, /) -> None:
        """Show a report; items that are through make room."""
        stage, task = self._tasks.get(progress.item, ("", None))
        if stage != progress.stage:
            if task is not None:
                self._display.remove_task(task)  # type: ignore[attr-defined]
            task = self._display.add_task(f"{progress.item}: {progress.stage}", total=progress.total)  # type: ignore[attr-defined]
            self._tasks[progress.item] = (progress.stage, task)
        if progress.done >= progress.total:
            self._display.remove_task(task)  # type: ignore[attr-defined]
            del self._tasks[progress.item]
        else:
            self._display.update(task, completed=progress.done, total=progress.total)  # type: ignore[attr-defined]


def _colored(status: str) -> str:
    color = {"done": "green", "skipped": "cyan", "failed": "red"}[status]
    return f"[{color}]{status}[/{color}]"


def _tell(outcome: SlideOutcome) -> str:
    from rich.markup import escape

    where = "" if outcome.status == "failed" or not outcome.outputs else f" -> {outcome.outputs[0]}"
    return escape(f"{outcome.message}{where}")
