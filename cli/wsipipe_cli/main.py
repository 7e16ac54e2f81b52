"""Entry point: one Typer application, one module per command, nothing heavy imported for `--help`."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from wsipipe._version import __version__
from wsipipe.errors import WsipipeError
from wsipipe_cli import (
    ablate,
    convert,
    crossval,
    cvm,
    demo,
    doctor,
    evaluate,
    export,
    extract,
    info,
    points,
    predict,
    segment,
    tile,
    train,
)

_INTERRUPTED = 130  # as of shells: 128 and the number of the signal

app = typer.Typer(
    name="wsipipe",
    help="From a few points clicked on a pathology slide to a mask of the whole slide.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Rich takes [words] in brackets for markup and leaves them out; to load it takes as long as all else together.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (info, tile, extract, convert, train, predict, segment, cvm, crossval, evaluate, export, demo, doctor):
    app.command(_module.NAME)(_module.command)
for _group in (points, ablate):
    app.add_typer(_group.app, name=_group.NAME)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wsipipe {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """From a few points clicked on a pathology slide to a mask of the whole slide."""


def run() -> None:
    """Run the command line; what the user can mend ends in one line and exit code 1."""
    warnings.showwarning = _show_warning
    # What tifffile says of a damaged file, the error says better.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        app()
    except WsipipeError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer ends so, without a word
            _interrupted()
        raise


def _interrupted() -> NoReturn:
    typer.secho("interrupted; run the same command again to go on", fg="yellow", err=True)
    sys.exit(_INTERRUPTED)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """One line for a user: warnings of libraries about themselves are none of theirs."""
    if issubclass(category, UserWarning):
        typer.secho(f"warning: {message}", fg="yellow", err=True)
