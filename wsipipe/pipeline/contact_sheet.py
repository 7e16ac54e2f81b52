"""A contact sheet of the patches under points: a wrong click is seen at a glance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsipipe.annotations.classes import class_color
from wsipipe.pipeline.sources import region_picture
from wsipipe.slides import SlideReader

MAX_PATCHES = 400
"""Of one sheet: more are not looked at, and the doubtful ones come first."""

_COLUMNS, _PATCH_PX, _FRAME_PX, _GAP_PX, _LINE_PX, _HEAD_PX = 8, 168, 5, 10, 15, 30
_DOUBT = (214, 0, 80)
_RING_PX = 9


@dataclass(frozen=True)
class Patch:
    """One point on the sheet.

    Parameters
    ----------
    x, y : float
        In level-0 px.
    class_name : str
        Class of the point; "" where it has none.
    side : str
        What the class stands for: "in target" or "out of target".
    caption : str
        Line under the patch.
    doubts : tuple of str
        What speaks against the point; framed and told in red.
    """

    x: float
    y: float
    class_name: str
    side: str
    caption: str
    doubts: tuple[str, ...] = ()


def draw_contact_sheet(
    slide: SlideReader, patches: Sequence[Patch], *, patch_px: float, title: str
) -> NDArray[np.uint8]:
    """Draw the surroundings of points, sorted and framed by class, doubtful ones first in theirs.

    Parameters
    ----------
    slide : SlideReader
        Read at about the resolution of the sheet.
    patches : sequence of Patch
        At least one; of more than `MAX_PATCHES`, the doubtful ones go before the others.
    patch_px : float
        Side of what is shown of the slide, in level-0 px.
    title : str
        First line.

    Returns
    -------
    (h, w, 3) uint8 array
    """
    shown = sorted(patches, key=lambda patch: not patch.doubts)[:MAX_PATCHES]
    groups = _by_class(shown)
    step = _PATCH_PX + _GAP_PX, _PATCH_PX + 2 * _LINE_PX + _GAP_PX
    rows = sum(-(-len(group) // _COLUMNS) for group in groups)
    size = _COLUMNS * step[0] + _GAP_PX, _HEAD_PX * (1 + len(groups)) + rows * step[1] + _GAP_PX
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    left_out = f"; {len(patches) - len(shown)} more are not shown" if len(patches) > len(shown) else ""
    draw.text((_GAP_PX, 7), title + left_out, "black", font=_font(16))
    top = _HEAD_PX
    for group in groups:
        first = group[0]
        text = f"{first.class_name or 'no class'}: {len(group)} points, {first.side}"
        draw.rectangle((0, top, size[0], top + _HEAD_PX - 6), fill=class_color(first.class_name))
        draw.text((_GAP_PX, top + 3), text, "white", font=_font(15), stroke_width=2, stroke_fill="black")
        for number, patch in enumerate(group):
            row, col = divmod(number, _COLUMNS)
            corner = _GAP_PX + col * step[0], top + _HEAD_PX + row * step[1]
            _draw_patch(sheet, corner, patch, _picture(slide, patch, patch_px))
        top += _HEAD_PX + -(-len(group) // _COLUMNS) * step[1]
    return np.asarray(sheet)


def _by_class(patches: Sequence[Patch]) -> list[list[Patch]]:
    """Classes in target first; within one, doubtful points first, else the order of the file."""
    ordered = sorted(patches, key=_class_of)
    return [list(group) for _, group in groupby(ordered, key=_class_of)]


def _class_of(patch: Patch) -> tuple[str, str]:
    return patch.side, patch.class_name


def _picture(slide: SlideReader, patch: Patch, patch_px: float) -> Image.Image:
    inner = _PATCH_PX - 2 * _FRAME_PX
    width, height = slide.dimensions
    if not (0 <= patch.x < width and 0 <= patch.y < height):
        return Image.new("RGB", (inner, inner), (120, 120, 120))
    box = patch.x - patch_px / 2, patch.y - patch_px / 2, patch_px, patch_px
    picture = Image.fromarray(region_picture(slide, box, long_side_px=inner))
    return picture.resize((inner, inner), Image.Resampling.BICUBIC)


def _draw_patch(sheet: Image.Image, corner: tuple[int, int], patch: Patch, picture: Image.Image) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = corner
    box = x, y, x + _PATCH_PX - 1, y + _PATCH_PX - 1
    draw.rectangle(box, fill=class_color(patch.class_name))
    sheet.paste(picture, (x + _FRAME_PX, y + _FRAME_PX))
    for radius, color, width in ((_RING_PX + 1, "white", 3), (_RING_PX, class_color(patch.class_name), 1)):
        middle = x + _PATCH_PX // 2, y + _PATCH_PX // 2
        draw.ellipse(tuple(_around(middle, radius)), outline=color, width=width)
    if patch.doubts:
        draw.rectangle((x - 4, y - 4, x + _PATCH_PX + 3, y + _PATCH_PX + 3), outline=_DOUBT, width=4)
    draw.text((x, y + _PATCH_PX + 3), patch.caption, "black", font=_font(12))
    draw.text((x, y + _PATCH_PX + 3 + _LINE_PX), ", ".join(patch.doubts), _DOUBT, font=_font(12))


def _around(middle: tuple[int, int], radius: int) -> Iterator[int]:
    yield from (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
