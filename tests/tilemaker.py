"""TIFF files whose tiles tests encode themselves, one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

APERIO = "Aperio Image Library v1.0\n{0}x{1} [0,0 {0}x{1}] JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"

Change = Callable[[int, bytes], bytes]
"""From index and bytes of a tile to what is written for it; nothing leaves the tile out."""


def jpeg(tile: NDArray[np.uint8], space: str, subsampling: str = "444") -> bytes:
    """JPEG stream of a tile whose samples are stored as "rgb", "ycbcr" or "gray"."""
    given = "gray" if space == "gray" else "rgb"
    samples = tile[..., 1] if space == "gray" else tile
    options = {} if space != "ycbcr" else {"subsampling": subsampling}
    return imagecodecs.jpeg8_encode(
        np.ascontiguousarray(samples), level=90, colorspace=given, outcolorspace=space, **options
    )


def tiles_of(image: NDArray[np.uint8], width: int, height: int) -> list[NDArray[np.uint8]]:
    """Tiles row by row; those at the edges are filled up with the last px."""
    rows, cols = -image.shape[0] % height, -image.shape[1] % width
    full = np.pad(image, ((0, rows), (0, cols), (0, 0)), mode="edge")
    return [
        full[y : y + height, x : x + width]
        for y in range(0, full.shape[0], height)
        for x in range(0, full.shape[1], width)
    ]


def write_tiles(
    path: Path,
    levels: list[NDArray[np.uint8]],
    *,
    size: tuple[int, int] = (64, 64),
    space: str = "ycbcr",
    subsampling: str = "420",
    tables: bytes | None = None,
    vendor: str = "aperio",
    bigtiff: bool = False,
    change: Change = lambda index, data: data,
) -> Path:
    """Write JPEG tiles of (width, height) `size`; `change` is applied to the tiles of every level."""
    photometric = {"rgb": "rgb", "ycbcr": "ycbcr", "gray": "minisblack"}[space]
    ratios = {"subsampling": {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling]} if space == "ycbcr" else {}
    # Without this, tifffile tags JPEG tiles of three samples as YCbCr.
    kept = {"compressionargs": {"outcolorspace": "rgb"}} if space == "rgb" else {}
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        for number, image in enumerate(levels):
            described = vendor == "aperio" and not number
            described_as = {"description": APERIO.format(image.shape[1], image.shape[0])} if described else {}
            encoded = [jpeg(tile, space, subsampling) for tile in tiles_of(image, *size)]
            writer.write(
                iter([change(index, data) for index, data in enumerate(encoded)]),
                shape=image.shape[:2] if space == "gray" else image.shape,
                dtype="uint8",
                tile=size[::-1],
                compression="jpeg",
                photometric=photometric,
                jpegtables=tables,
                subfiletype=int(number > 0),
                metadata=None,
                **ratios,
                **kept,
                **described_as,
            )
    return path
