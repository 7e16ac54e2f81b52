"""`wsipipe convert`: feature lists of other projects to feature maps, and back."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsipipe_cli.options import DEFAULT_OUTPUT, FailFast, Force, Output, Reader, Scheduler, SlideMpp, Workers

if TYPE_CHECKING:
    from wsipipe.store.feature_lists import Layout

NAME = "convert"


def command(
    files: Annotated[
        list[Path], typer.Argument(help="Feature lists (.h5) or folders of them; with --to, feature maps.")
    ],
    output: Output = DEFAULT_OUTPUT,
    to: Annotated[
        str | None, typer.Option("--to", help="Write lists from feature maps: trident, clam or stamp.")
    ] = None,
    slide: Annotated[
        Path | None, typer.Option(help="The slide, or a folder that holds it: its size, resolution and identity.")
    ] = None,
    slide_mpp: SlideMpp = None,
    slide_size: Annotated[
        str | None, typer.Option("--slide-size", help="WIDTHxHEIGHT in level-0 px, where no slide is at hand.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="um per px that the patches count as; may be off by a tenth.")
    ] = None,
    patch_size: Annotated[int | None, typer.Option(help="Side of a patch in px of that size.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Overlap of neighbouring patches, in the same px.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="What computed the features, where the list does not say.")
    ] = None,
    snap: Annotated[
        bool, typer.Option("--snap", help="Put patches that lie on no common grid on the nearest cell.")
    ] = False,
    reader: Reader = "auto",
    workers: Workers = 1,
    scheduler: Scheduler = None,
    fail_fast: FailFast = False,
    force: Force = False,
) -> None:
    """Turn feature lists of TRIDENT, CLAM and STAMP into feature maps for train and predict, or maps into lists."""
    from wsipipe.pipeline.batch import SlideTask, run_batch
    from wsipipe.pipeline.convert import ListOptions, export_map, import_list
    from wsipipe.pipeline.list_geometry import Told
    from wsipipe.pipeline.stored_maps import list_maps
    from wsipipe_cli.batch import progress_bars, summarise

    task: SlideTask
    if to is None:
        told = Told(_size(slide_size), slide_mpp, mpp, patch_size, overlap, snap)
        options = ListOptions(told, None if slide is None else slide.absolute(), encoder, reader)
        task = functools.partial(import_list, out=output.absolute(), options=options, force=force)
    else:
        task = functools.partial(export_map, out=output.absolute(), layout=_layout(to), slide_mpp=slide_mpp)
    entries = list_maps(files)
    with progress_bars(len(entries)) as report:
        outcomes = run_batch(task, entries, workers=workers, scheduler=scheduler, fail_fast=fail_fast, report=report)
    summarise(outcomes, total=len(entries))


def _layout(word: str) -> Layout:
    from wsipipe.store.feature_lists import LAYOUTS

    for layout in LAYOUTS:
        if layout == word:
            return layout
    raise typer.BadParameter(f"--to {word}: use {', '.join(LAYOUTS)}")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"--slide-size {text}: use WIDTHxHEIGHT, like 40000x30000")
    return int(width), int(height)
