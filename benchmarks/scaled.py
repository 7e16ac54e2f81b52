"""Coarse reading without a level near the target: decoded smaller, then resampled, against decoded whole.

    python benchmarks/mosaic.py SECTION.jpg mosaic.svs
    python benchmarks/scaled.py mosaic.svs

Reads the fullest block of level 0 at targets that shrink it by several ratios, in both ways within every repeat. Times
are of the processor; differences are in steps of 255, over the block. With --overview, the whole slide at the coarsest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from reading import Tiles

from wsipipe.geometry import Region
from wsipipe.slides import MppView, SlideReader
from wsipipe.slides.direct_reader import DirectReader
from wsipipe.slides.openslide_reader import OpenSlideReader

BLOCK_PX = 4096


class FinestLevel(OpenSlideReader):
    """A slide that has lost its coarser levels."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.level_dimensions, self.level_downsamples = self.level_dimensions[:1], self.level_downsamples[:1]


class WholeReader(DirectReader):
    """Decodes every pixel."""

    def factors(self, level: int) -> tuple[int, ...]:
        """See `ScaledReader`."""
        return ()


def read(reader: SlideReader, ratio: float, block: Region) -> tuple[float, NDArray[np.uint8]]:
    """Seconds of the processor, and the pixels."""
    view = MppView(reader, None, scale=ratio)
    x, y, width, height = (int(each / ratio) for each in (block.x, block.y, block.width, block.height))
    start = time.process_time()
    pixels = view.read(Region(x, y, width, height))
    return time.process_time() - start, pixels


def line(path: Path, ratio: float, block: Region, repeats: int) -> str:
    smaller, whole = [], []
    for _ in range(repeats):
        for kind, times in ((DirectReader, smaller), (WholeReader, whole)):
            with kind(FinestLevel(path), check=False) as reader:
                reader.read_region(Region(0, 0, 1, 1))
                times.append(read(reader, ratio, block))
    off = np.abs(smaller[0][1].astype(int) - whole[0][1])
    faster = statistics.median(slow / fast for (fast, _), (slow, _) in zip(smaller, whole, strict=True))
    rates = [
        block.width * block.height / statistics.median(each for each, _ in times) / 1e6 for times in (whole, smaller)
    ]
    return f"| {ratio:g} | {rates[0]:.0f} | {rates[1]:.0f} | {faster:.2f} | {off.mean():.2f} | {off.max()} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[4, 8, 12, 16, 32, 64])
    parser.add_argument("--overview", action="store_true", help="the whole slide, at the last ratio")
    parser.add_argument("--repeats", type=int, default=5)
    wanted = parser.parse_args()
    print("| level px per px | whole, MP/s | smaller, MP/s | times | mean difference | largest |")
    print("|---|---|---|---|---|---|")
    block = Tiles(wanted.slide).fullest_block(BLOCK_PX)
    read(WholeReader(FinestLevel(wanted.slide), check=False), 16, Region(block.x, block.y, 256, 256))  # imports
    for ratio in wanted.ratios:
        print(line(wanted.slide, ratio, block, wanted.repeats), flush=True)
    if wanted.overview:
        with OpenSlideReader(wanted.slide) as reader:
            everything = Region(0, 0, *reader.dimensions)
        print("whole slide:", line(wanted.slide, wanted.ratios[-1], everything, wanted.repeats))


if __name__ == "__main__":
    main()
