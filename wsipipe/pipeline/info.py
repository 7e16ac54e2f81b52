"""What was understood of a slide, and how."""

from __future__ import annotations

import itertools
from pathlib import Path

from wsipipe.config import TissueSettings
from wsipipe.errors import TissueError
from wsipipe.geometry import Region
from wsipipe.pipeline.stored_maps import describe_stored, is_stored_map
from wsipipe.pipeline.tissue import find_tissue
from wsipipe.slides import SlideReader, open_slide, slide_files, slide_identity

# More level-0 px than this without a pyramid make every coarse read slow.
_LARGE_PX = 50_000_000
# From one level to the next, beyond which reads between them are slow.
_WIDE_STEP = 8.5
# Smallest side, in px, of a level on which colours are looked at.
_LOOK_PX = 64


def describe_slide(path: str | Path, *, mpp: float | None = None, reader: str = "auto") -> dict[str, object]:
    """Tell what a slide is, for people and for scripts.

    Parameters
    ----------
    path : path-like
        The slide.
    mpp : float, optional
        um per level-0 px, instead of what the file says.
    reader : str
        As for `open_slide`.

    Returns
    -------
    dict
        In this order: file; bytes; vendor; reader; width, height (level-0 px); levels (list of width, height,
        downsample, mpp, reader); mpp (um per level-0 px or None); mpp_source; objective_power (None where not told);
        bounds (x, y, width, height of the scanned area in level-0 px); identity; tissue_fraction (of the whole slide)
        and tissue_mm2, None where they cannot be told; notes (list of str). Holds only JSON types. Of a feature map or
        tile file of ours (.h5), see `describe_stored`.

    Raises
    ------
    SlideError
        The slide cannot be opened or read.
    ResolutionError
        `mpp` is absurd; that the slide has none is a note, not an error.
    StoreError
        A file of ours is damaged.
    """
    path = Path(path)
    if is_stored_map(path):
        return describe_stored(path)
    with open_slide(path, mpp=mpp, reader=reader) as slide:
        tissue, notes = _tissue(slide)
        return {
            "file": str(path),
            "bytes": sum(file.stat().st_size for file in slide_files(path)),
            "vendor": slide.vendor,
            "reader": slide.backend,
            "width": slide.dimensions[0],
            "height": slide.dimensions[1],
            "levels": _levels(slide),
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source,
            "objective_power": _objective_power(slide),
            "bounds": [slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height],
            "identity": slide_identity(path),
            **tissue,
            "notes": [*_notes(slide), *_colour_notes(slide), *notes],
        }


def _levels(slide: SlideReader) -> list[dict[str, float | int | str | None]]:
    return [
        {
            "width": width,
            "height": height,
            "downsample": downsample,
            "mpp": None if slide.mpp is None else slide.mpp * downsample,
            "reader": slide.level_backend(level),
        }
        for level, ((width, height), downsample) in enumerate(
            zip(slide.level_dimensions, slide.level_downsamples, strict=True)
        )
    ]


def _objective_power(slide: SlideReader) -> float | None:
    for key in ("openslide.objective-power", "tiffslide.objective-power", "aperio.AppMag"):
        try:
            return float(slide.properties[key])
        except (KeyError, ValueError):
            continue
    return None


def _tissue(slide: SlideReader) -> tuple[dict[str, float | None], list[str]]:
    """Tissue fraction and area, and why there are none."""
    unknown: dict[str, float | None] = {"tissue_fraction": None, "tissue_mm2": None}
    if slide.mpp is None:
        return unknown, ["no resolution: give it with --slide-mpp; tissue cannot be looked for without"]
    try:
        tissue = find_tissue(slide, TissueSettings())
    except TissueError as error:
        return unknown, [f"no tissue found: {error.problem}"]
    area_px = tissue.area_px(*slide.dimensions)
    fraction = area_px / (slide.dimensions[0] * slide.dimensions[1])
    return {"tissue_fraction": fraction, "tissue_mm2": area_px * slide.mpp**2 * 1e-6}, []


def _colour_notes(slide: SlideReader) -> list[str]:
    """Warn of YCbCr samples that a wrong photometric tag calls RGB: glass is then (bright, 128, 128)."""
    level = max(range(len(slide.level_dimensions)), key=lambda i: (min(slide.level_dimensions[i]) >= _LOOK_PX, i))
    width, height = slide.level_dimensions[level]
    look = Region(0, 0, min(width, _LOOK_PX * 8), min(height, _LOOK_PX * 8))
    rgb = slide.read_region(look, level).astype(int)
    odd = (rgb[..., 0] > 180) & (abs(rgb[..., 1] - 128) < 12) & (abs(rgb[..., 2] - 128) < 12)
    if odd.mean() < 0.2:
        return []
    return ["colours look like YCbCr taken for RGB: the photometric tag of the file is wrong"]


def _notes(slide: SlideReader) -> list[str]:
    notes: list[str] = []
    width, height = slide.dimensions
    steps = [*slide.level_downsamples, max(width, height) / 512]
    if len(slide.level_downsamples) == 1 and width * height > _LARGE_PX:
        notes.append("no pyramid: coarse reads are slow")
    elif len(slide.level_downsamples) > 1 and max(b / a for a, b in itertools.pairwise(steps)) > _WIDE_STEP:
        notes.append("levels far apart: reads between them are slow")
    if (slide.bounds.width, slide.bounds.height) != slide.dimensions:
        notes.append("scanned area smaller than the slide: QuPath may show only that, points are shifted then")
    return notes
