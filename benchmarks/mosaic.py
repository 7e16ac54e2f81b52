"""Make a large slide out of a picture of a section, for measuring on.

    python benchmarks/mosaic.py SECTION.jpg mosaic.svs --width 40960 --height 30720 --mpp 0.67

The section is repeated, every other copy mirrored, so that copies meet without a step.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.geometry import Region
from wsipipe.slides import open_slide
from wsipipe.store.raster import write_slide_pyramid

BAND_ROWS = 512


def mirrored(length: int, count: int) -> NDArray[np.int64]:
    """Count `count` indices up to `length` - 1 and back to 0, again and again."""
    position = np.arange(count) % (2 * length)
    return np.minimum(position, 2 * length - 1 - position)


def bands(section: NDArray[np.uint8], width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """Rows of the mosaic, `BAND_ROWS` at a time."""
    rows, cols = mirrored(section.shape[0], height), mirrored(section.shape[1], width)
    for start in range(0, height, BAND_ROWS):
        yield section[rows[start : start + BAND_ROWS]][:, cols]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", type=Path)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--width", type=int, default=40960)
    parser.add_argument("--height", type=int, default=30720)
    parser.add_argument("--mpp", type=float, default=0.67)
    wanted = parser.parse_args()
    with open_slide(wanted.section) as reader:
        section = reader.read_region(Region(0, 0, *reader.dimensions))
    made = bands(section, wanted.width, wanted.height)
    write_slide_pyramid(wanted.slide, made, width=wanted.width, height=wanted.height, mpp=wanted.mpp, quality=80)
    print(f"{wanted.slide}: {wanted.width} x {wanted.height} px, {wanted.slide.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
