"""The demo's slide: real tissue that scikit-image ships, with its glands outlined by hand.

The tissue is colon, stained brown (DAB, FHL2) and blue (haematoxylin) (`skimage.data.immunohistochemistry`, 512 x 512
px); in target is the epithelium. The outlines below were drawn by looking at the picture. The slide mirrors the
picture into a mosaic on glass, so that it has several fields, tissue edges and a pyramid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import skimage.data
from numpy.typing import NDArray
from shapely.geometry import Polygon

from wsipipe.annotations.points import PointSet
from wsipipe.annotations.sampling import sample_points
from wsipipe.geometry import CellGrid
from wsipipe.numerics.polygons import rasterize
from wsipipe.store.images import write_png
from wsipipe.store.raster import as_mask, write_slide_pyramid
from wsipipe.store.tables import write_csv

Pixel = TypeVar("Pixel", np.uint8, np.bool_)

MPP = 0.5
"""um per px that the demo slide claims; the picture's own is not published."""
_SIDE = 512
_MOSAIC = (3, 4)
_GLASS = 244
_MARGIN = 192

# fmt: off
_GLANDS = (
    ((0, 0), (54, 0), (62, 16), (74, 20), (88, 10), (110, 5), (136, 5), (138, 28), (152, 48), (150, 66), (160, 74),
     (172, 64), (185, 78), (176, 52), (160, 28), (156, 5), (160, 0), (278, 0), (290, 22), (300, 52), (318, 88),
     (342, 138), (356, 178), (362, 188), (372, 192), (380, 188), (376, 168), (352, 126), (336, 98), (318, 72),
     (302, 34), (288, 0), (425, 0), (436, 40), (450, 66), (459, 110), (458, 150), (447, 196), (450, 226), (440, 256),
     (424, 292), (412, 297), (396, 284), (364, 270), (344, 252), (318, 222), (298, 190), (284, 160), (276, 156),
     (264, 196), (247, 232), (222, 252), (190, 260), (160, 248), (128, 228), (96, 214), (72, 214), (98, 244),
     (122, 282), (146, 330), (153, 366), (156, 410), (158, 460), (160, 512), (38, 512), (42, 430), (46, 372),
     (48, 336), (26, 308), (10, 280), (0, 272)),
    ((288, 306), (300, 318), (340, 320), (362, 332), (374, 362), (384, 392), (382, 440), (374, 474), (352, 500),
     (328, 508), (306, 506), (290, 484), (270, 448), (258, 412), (252, 380), (254, 350), (268, 320)),
)
# fmt: on


@dataclass(frozen=True)
class DemoSlide:
    """Files of the demo slide: the pyramid, its points and its reference mask (one px per level-0 px)."""

    slide: Path
    points: Path
    mask: Path


def make_demo_slide(folder: Path, *, pairs: int = 12, seed: int = 0) -> DemoSlide:
    """Write slide, points and reference mask.

    Parameters
    ----------
    folder : Path
        Where they go; made if need be.
    pairs : int
        In-target and out-of-target points, drawn uniformly inside the outlines and outside of them on the tissue.
    """
    files = DemoSlide(folder / "demo.svs", folder / "demo.points.csv", folder / "demo.truth.png")
    picture, mask = skimage.data.immunohistochemistry(), gland_mask()
    rows, cols = (n * _SIDE + 2 * _MARGIN for n in _MOSAIC)
    write_slide_pyramid(files.slide, _bands(picture), width=cols, height=rows, mpp=MPP)
    truth = np.pad(_mosaic(mask), _MARGIN)
    write_png(files.mask, as_mask(truth))
    on_tissue = np.pad(np.ones_like(_mosaic(mask)), _MARGIN)
    _write_points(files.points, sample_points(truth, pairs=pairs, seed=seed, valid=on_tissue))
    return files


def gland_mask() -> NDArray[np.bool_]:
    """Epithelium in `skimage.data.immunohistochemistry()`, (512, 512)."""
    return rasterize([Polygon(gland) for gland in _GLANDS], CellGrid(_SIDE, _SIDE, 1.0))


def _mosaic(tile: NDArray[Pixel]) -> NDArray[Pixel]:
    """Mirror a square into the mosaic, so that neighbours meet without a seam."""
    rows = [np.concatenate([_mirrored(tile, i, j) for j in range(_MOSAIC[1])], axis=1) for i in range(_MOSAIC[0])]
    return np.concatenate(rows, axis=0)


def _mirrored(tile: NDArray[Pixel], i: int, j: int) -> NDArray[Pixel]:
    return np.asarray(tile[:: -1 if i % 2 else 1, :: -1 if j % 2 else 1])


def _bands(picture: NDArray[np.uint8], rows: int = 512) -> Iterator[NDArray[np.uint8]]:
    margins = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))
    whole = np.pad(_mosaic(picture), margins, constant_values=_GLASS)
    return (whole[start : start + rows] for start in range(0, len(whole), rows))


def _write_points(path: Path, points: PointSet) -> None:
    names = ("Stroma", "Tumor")
    rows = [
        {"x": f"{x:.1f}", "y": f"{y:.1f}", "label": names[label]}
        for (x, y), label in zip(points.xy, points.label, strict=True)
    ]
    write_csv(path, rows)
