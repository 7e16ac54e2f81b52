"""`wsipipe doctor`: look for what is missing from the installation."""

from __future__ import annotations

from pathlib import Path

import typer

from wsipipe_cli.options import DEFAULT_OUTPUT, Output

NAME = "doctor"

_COLORS = {"ok": "green", "note": "yellow", "bad": "red"}


def command(output: Output = DEFAULT_OUTPUT) -> None:
    """Check versions, readers, weights, devices and disk; exit with 1 if something needed is missing."""
    from wsipipe.pipeline.doctor import examine

    findings = examine(Path(output))
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = typer.style(f"{finding.state:<4}", fg=_COLORS[finding.state])
        typer.echo(f"{mark}  {finding.subject:<{width}}  {finding.message}")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)
