"""Options that several commands share, so that one word means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Slides = Annotated[
    list[Path], typer.Argument(help="Slides, folders of slides, or a CSV with a `wsi` and optional `mpp` column.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Project folder that holds everything wsipipe writes.")]
Reader = Annotated[str, typer.Option(help="auto, direct, openslide, tiffslide or image.")]
SlideMpp = Annotated[
    float | None, typer.Option("--slide-mpp", help="um per level-0 px, for slides that do not say or are wrong.")
]
Mpp = Annotated[float | None, typer.Option("--mpp", help="Target resolution, um per px.")]
Mag = Annotated[float | None, typer.Option("--mag", help="Target magnification; the same as --mpp 10/MAG.")]
Workers = Annotated[int, typer.Option(min=1, help="Slides worked on at once, each in a process of its own.")]
Scheduler = Annotated[str | None, typer.Option(help="Dask scheduler to use instead: tcp://host:port.")]
FailFast = Annotated[
    bool, typer.Option("--fail-fast/--skip-errors", help="Stop at the first bad slide, or go on with the others.")
]
Force = Annotated[bool, typer.Option("--force", help="Do it again even where it is finished.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="YAML with settings, or a bundled recipe: slide, camelyon16, ...")
]
Positive = Annotated[
    list[str] | None, typer.Option("--positive", help="Class that is in target; give it once per class. [Tumor, ...]")
]
Negative = Annotated[
    list[str] | None, typer.Option("--negative", help="Class that is out of target. [Stroma, Other, Ignore*, ...]")
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="What runs a resnet on the CPU: torch, onnx (ONNX Runtime), or auto: onnx if it is there. [torch]"
    ),
]
Stain = Annotated[
    str | None,
    typer.Option(help="Bring the stain of every slide to one look first: macenko, reinhard or none. [none]"),
]
StainReference = Annotated[
    str | None, typer.Option(help="Picture of stained tissue whose look that is, instead of the published one.")
]
NoCrop = Annotated[
    bool, typer.Option("--no-crop", help="GeoJSON in the frame of the whole slide, not of its bounds as in QuPath.")
]

DEFAULT_OUTPUT = Path("wsipipe-out")


def target_mpp(mpp: float | None, mag: float | None) -> float | None:
    """Resolution from `--mpp` or `--mag`; None where neither is given.

    Raises
    ------
    typer.BadParameter
        Both are given, or the magnification is not positive.
    """
    if mpp is not None and mag is not None:
        raise typer.BadParameter("give --mpp or --mag, not both")
    if mag is None:
        return mpp
    if mag <= 0:
        raise typer.BadParameter(f"--mag {mag} must be positive")
    return 10.0 / mag
