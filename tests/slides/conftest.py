"""Slides as Aperio's scanners lay them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image


@pytest.fixture(scope="session")
def aperio_slide(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write an image, its thumbnail and its levels, lossless; tiffslide finds levels only behind a thumbnail."""

    def write(image: NDArray[np.uint8], *, downsample: float, levels: int = 2) -> Path:
        path = tmp_path_factory.mktemp("aperio") / "slide.svs"
        height, width = image.shape[:2]
        size = f"{width}x{height}"
        header = f"Aperio Image Library v1.0\n{size} [0,0 {size}] "
        tiled = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None}
        with tifffile.TiffWriter(path) as writer:
            writer.write(image, description=f"{header}RAW|AppMag = 20|MPP = 0.5", **tiled)
            writer.write(image[::8, ::8], photometric="rgb", metadata=None, description=f"{header}-> thumb")
            for level in range(1, levels):
                small = (int(width / downsample**level), int(height / downsample**level))
                data = np.asarray(Image.fromarray(image).resize(small, Image.Resampling.BOX))
                writer.write(data, description=f"{header}-> {small[0]}x{small[1]}", **tiled)
        return path

    return write
