"""Micrometres per pixel of a slide: where formats write it, in which order it is believed, and when it is not.

Order: the user's override, what OpenSlide (or tiffslide) derived, the vendors' own keys, the TIFF resolution, OME's
PhysicalSize. A value is believed where it lies between `FINEST_MPP` and `COARSEST_MPP`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from wsipipe.errors import ResolutionError
from wsipipe.slides.base import SlideReader

FINEST_MPP, COARSEST_MPP = 0.02, 64.0
REMEDY = "give the resolution with --slide-mpp, or a column mpp in the CSV"

# Resolutions that programs write when they know none, dots per inch.
_PRINT_DPI = (72, 96, 100, 150, 200, 300, 400, 600, 1200)
_UM_PER_UNIT = {
    "inch": 25400.0, "2": 25400.0, "centimeter": 1e4, "3": 1e4, "millimeter": 1e3, "micrometer": 1.0,
}  # fmt: skip
_UM_PER_LENGTH = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


@dataclass(frozen=True)
class Resolution:
    """um per level-0 px and where it comes from, or None and why there is none."""

    mpp: float | None
    source: str


@dataclass(frozen=True)
class _Claim:
    """A resolution that some key states; `printed` where a dpi default may hide behind it."""

    source: str
    x: float
    y: float
    printed: bool = False


def find_resolution(properties: Mapping[str, str], *, override: float | None, path: Path | None = None) -> Resolution:
    """Find the um per level-0 px of a slide.

    Parameters
    ----------
    properties : mapping of str to str
        Metadata of the slide as its library names it.
    override : float or None
        The user's word in um per px; it wins.
    path : Path, optional
        The slide, for messages.

    Returns
    -------
    Resolution
        With None where no key holds a believable value; the source then says what was found.

    Raises
    ------
    ResolutionError
        The override is absurd.
    """
    found = _believable(properties)
    if override is None:
        return found
    if not FINEST_MPP <= override <= COARSEST_MPP:
        raise ResolutionError(
            f"a resolution of {override} um per px is absurd: {FINEST_MPP} to {COARSEST_MPP:g} makes sense",
            path=path,
            remedy="correct --slide-mpp or the mpp column; 20x is about 0.5, 40x about 0.25",
        )
    told = "" if found.mpp is None else f" (the file says {found.mpp:.4g}: {found.source})"
    return Resolution(float(override), f"override{told}")


def require_mpp(reader: SlideReader) -> float:
    """Get the um per level-0 px of a slide that must have it.

    Raises
    ------
    ResolutionError
        Neither the file nor the user says; the message names the flag that helps.
    """
    if reader.mpp is None:
        raise ResolutionError(f"has no known resolution: {reader.mpp_source}", path=reader.path, remedy=REMEDY)
    return reader.mpp


def _believable(properties: Mapping[str, str]) -> Resolution:
    doubts: list[str] = []
    for claim in _claims(properties):
        doubt = _doubt(claim)
        if doubt is None:
            return Resolution((claim.x + claim.y) / 2, "; ".join([_describe(claim), *doubts]))
        doubts.append(f"{claim.source} not believed: {doubt}")
    return Resolution(None, "; ".join(doubts) or "the file does not say")


def _doubt(claim: _Claim) -> str | None:
    """Why a claim cannot be right, or None."""
    coarse, fine = max(claim.x, claim.y), min(claim.x, claim.y)
    if not (fine >= FINEST_MPP and coarse <= COARSEST_MPP):
        return f"{claim.x:.4g} um per px is absurd"
    if coarse > 1.1 * fine:
        return f"x {claim.x:.4g} and y {claim.y:.4g} um per px contradict each other"
    if claim.printed and any(abs(25400 / claim.x - dpi) < 0.5 for dpi in _PRINT_DPI):
        return f"{25400 / claim.x:.0f} dpi is a printing default"
    return None


def _describe(claim: _Claim) -> str:
    if max(claim.x, claim.y) <= 1.01 * min(claim.x, claim.y):
        return claim.source
    return f"{claim.source} (mean of x {claim.x:.4g} and y {claim.y:.4g})"


def _claims(properties: Mapping[str, str]) -> Iterator[_Claim]:
    generic = properties.get("openslide.vendor", properties.get("tiffslide.vendor", "generic-tiff")) == "generic-tiff"
    for library in ("openslide", "tiffslide"):
        yield from _pair(properties, f"{library}.mpp-x", f"{library}.mpp-y", printed=generic)
    yield from _vendor_claims(properties)
    yield from _tiff_claims(properties)
    yield from _description_claims(properties.get("tiff.ImageDescription") or properties.get("openslide.comment") or "")


def _vendor_claims(properties: Mapping[str, str]) -> Iterator[_Claim]:
    section = "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_"
    spacing = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing"
    yield from _pair(properties, "aperio.MPP", "aperio.MPP")
    yield from _pair(properties, "hamamatsu.mpp-x", "hamamatsu.mpp-y")
    yield from _pair(properties, f"{section}X", f"{section}Y")
    yield from _pair(properties, "ventana.ScanRes", "ventana.ScanRes")
    yield from _pair(properties, f"{spacing}[1]", f"{spacing}[0]", scale=1e3)
    rows, _, columns = properties.get("philips.DICOM_PIXEL_SPACING", "").replace('"', "").partition(" ")
    yield from _claim("philips.DICOM_PIXEL_SPACING", columns, rows, convert=lambda mm: mm * 1e3)


def _tiff_claims(properties: Mapping[str, str]) -> Iterator[_Claim]:
    unit = _UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", "").lower())
    x, y = properties.get("tiff.XResolution", ""), properties.get("tiff.YResolution", "")
    if unit is not None:
        yield from _claim("tiff.XResolution", x, y, convert=lambda per_unit: unit / per_unit, printed=True)
    x, y = properties.get("image.dpi-x", ""), properties.get("image.dpi-y", "")
    yield from _claim("image.dpi-x", x, y, convert=lambda dpi: _UM_PER_UNIT["inch"] / dpi, printed=True)


def _description_claims(description: str) -> Iterator[_Claim]:
    """OME-XML (PhysicalSizeX and its unit, um by default) in a TIFF ImageDescription."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", description)
    if pixels is None:
        return
    attributes: dict[str, str] = dict(re.findall(r'(PhysicalSize[XY](?:Unit)?)\s*=\s*"([^"]*)"', pixels.group()))
    unit = _UM_PER_LENGTH.get(attributes.get("PhysicalSizeXUnit", "µm"))
    x = attributes.get("PhysicalSizeX", "")
    if unit is not None:
        yield from _claim("OME PhysicalSizeX", x, attributes.get("PhysicalSizeY", x), convert=lambda size: size * unit)


def _pair(
    properties: Mapping[str, str], x_key: str, y_key: str, *, scale: float = 1.0, printed: bool = False
) -> Iterator[_Claim]:
    x, y = properties.get(x_key, ""), properties.get(y_key, "")
    yield from _claim(x_key, x or y, y or x, convert=lambda value: value * scale, printed=printed)


def _claim(
    source: str, x: str, y: str, *, convert: Callable[[float], float], printed: bool = False
) -> Iterator[_Claim]:
    values = _number(x), _number(y)
    if values[0] > 0 and values[1] > 0:
        yield _Claim(source, convert(values[0]), convert(values[1]), printed)


def _number(text: str) -> float:
    """Value of a decimal or a fraction; 0, which means unknown, where the text is neither."""
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError):
        return 0.0
