"""Slides that tests make: pyramidal TIFFs of real or synthetic tissue, with the metadata a test asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage.data
import tifffile
from numpy.typing import NDArray
from PIL import Image


def tissue_picture(width: int = 1024, height: int = 768, *, margin: int = 96) -> NDArray[np.uint8]:
    """Real immunohistochemistry tissue, mirrored to size, on white glass with an outer margin."""
    patch = skimage.data.immunohistochemistry()[16:496, 16:496]
    inner_h, inner_w = height - 2 * margin, width - 2 * margin
    reps = (-(-inner_h // 480), -(-inner_w // 480))
    rows = [
        np.concatenate([np.flip(patch, axis) if axis is not None else patch for axis in _flips(i, reps[1])], axis=1)
        for i in range(reps[0])
    ]
    picture = np.full((height, width, 3), 244, np.uint8)
    picture[margin : height - margin, margin : width - margin] = np.concatenate(rows, axis=0)[:inner_h, :inner_w]
    return picture


def _flips(row: int, cols: int) -> list[int | tuple[int, int] | None]:
    return [(0, 1) if row % 2 and col % 2 else 0 if row % 2 else 1 if col % 2 else None for col in range(cols)]


def write_slide(
    path: Path,
    image: NDArray[np.uint8],
    *,
    mpp: float | None = 0.5,
    levels: int = 3,
    tile: int = 256,
    vendor: str = "aperio",
    compression: str | None = "jpeg",
    downsample: float = 2.0,
) -> Path:
    """Write an Aperio-like or generic tiled pyramid that OpenSlide and tiffslide open.

    Parameters
    ----------
    vendor
        "aperio" puts mpp into the ImageDescription; "generic" into the TIFF resolution.
    downsample
        Between neighbouring levels; need not be whole.
    """
    options = {"tile": (tile, tile), "photometric": "rgb", "compression": compression}
    if compression == "jpeg":
        options["compressionargs"] = {"level": 90}
    with tifffile.TiffWriter(path, bigtiff=False) as writer:
        for level in range(levels):
            factor = downsample**level
            size = (max(1, int(image.shape[1] / factor)), max(1, int(image.shape[0] / factor)))
            data = image if level == 0 else np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
            writer.write(
                data, metadata=None, subfiletype=int(level > 0), **_describe(image, mpp, vendor, factor), **options
            )
    return path


def _describe(image: NDArray[np.uint8], mpp: float | None, vendor: str, factor: float) -> dict[str, object]:
    if vendor == "aperio":
        size = f"{image.shape[1]}x{image.shape[0]}"
        resolution = "" if mpp is None else f"|AppMag = 20|MPP = {mpp}"
        return {"description": f"Aperio Image Library v1.0\n{size} [0,0 {size}] JPEG/RGB Q=90{resolution}"}
    if mpp is None:
        return {}
    return {"resolution": (1e4 / (mpp * factor), 1e4 / (mpp * factor)), "resolutionunit": "CENTIMETER"}
