"""How near reading comes to the decoder's limit: regions per reader against bare decoding of the same tiles.

    python benchmarks/mosaic.py SECTION.jpg mosaic.svs
    python benchmarks/reading.py mosaic.svs

Every repeat decodes the tiles that the regions touch, each once, in a bare loop over their bytes in memory, then reads
the regions with every reader; shares are medians over the repeats of time of the bare loop over time of the reader.
The bare loop drops every tile at once and so decodes into the same memory again and again; readers make a new array for
every region, but for "reused", which reads all of a thread into one.
Regions lie side by side in the block of the slide that holds the most bytes; readers start with caches full of other
tiles, as in the midst of a slide. Rates and shares go by processor time, which other work on the machine disturbs less;
the speed-up by threads goes by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from wsipipe.geometry import Region
from wsipipe.slides import SlideReader, open_slide
from wsipipe.slides.jpeg_stream import JpegStream

REUSED = ", reused"
READERS = ("openslide", "tiffslide", "direct", "direct" + REUSED)
SHIFT = (101, 37)
# More tiles of 256 px than any of the readers' caches holds.
ELSEWHERE = 400


@dataclass(frozen=True)
class Row:
    """One line of the table; rates in megapixels of the regions per second of processor time."""

    reader: str
    side_px: int
    aligned: bool
    threads: int
    rate: float
    share_of_decoding: float
    times_openslide: float
    speed_up: float


class Seconds(NamedTuple):
    """Time that a piece of work took."""

    processor: float
    wall: float


Runs = dict[int, list[dict[str, Seconds]]]
"""For each number of threads, for each repeat, the time of the bare loop ("bare") and of every reader."""


class Tiles:
    """Level 0 of a tiled JPEG slide as streams in memory."""

    def __init__(self, path: Path) -> None:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            self.side = page.tilewidth
            self.rows, self.cols = page.imagelength // self.side, page.imagewidth // self.side
            across = -(-page.imagewidth // self.side)
            self._counts = np.reshape(page.databytecounts, (-1, across))
            self._offsets = np.reshape(page.dataoffsets, (-1, across))
            stream = JpegStream(page.jpegtables or b"", ycbcr=page.photometric == 6)
        self._complete, self._data = stream.complete, path.read_bytes()

    def fullest_block(self, side_px: int) -> Region:
        """Square block of whole tiles, room for the shift beside it, that holds the most bytes."""
        n = side_px // self.side
        sums = np.pad(self._counts, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        held = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]
        row, col = np.unravel_index(held[: self.rows - n, : self.cols - n].argmax(), (self.rows - n, self.cols - n))
        return Region(int(col) * self.side, int(row) * self.side, side_px, side_px)

    def outside(self, block: Region) -> list[Region]:
        """One px in each of `ELSEWHERE` tiles that a block does not touch."""
        rows, cols = np.mgrid[: self.rows, : self.cols]
        inside = (rows + 1 >= block.y // self.side) & (rows <= block.y_end // self.side)
        inside &= (cols + 1 >= block.x // self.side) & (cols <= block.x_end // self.side)
        places = np.argwhere(~inside & (self._counts[: self.rows, : self.cols] > 0))[:ELSEWHERE]
        return [Region(col * self.side, row * self.side, 1, 1) for row, col in places.tolist()]

    def touched(self, block: Region) -> list[bytes]:
        """Streams of the tiles that a block touches."""
        rows = range(block.y // self.side, -(-block.y_end // self.side))
        cols = range(block.x // self.side, -(-block.x_end // self.side))
        places = [(int(self._offsets[row, col]), int(self._counts[row, col])) for row in rows for col in cols]
        return [self._complete(self._data[start : start + count]) for start, count in places]


def regions_of(block: Region, side: int) -> list[Region]:
    return [
        Region(x, y, side, side) for y in range(block.y, block.y_end, side) for x in range(block.x, block.x_end, side)
    ]


def timed(work: Callable[[list[object]], None], items: list[object], threads: int) -> Seconds:
    """Time for contiguous shares of the items, one share a thread."""
    share = -(-len(items) // threads)
    shares = [items[start : start + share] for start in range(0, len(items), share)]
    with ThreadPoolExecutor(threads) as pool:
        processor, wall = time.process_time(), time.perf_counter()
        list(pool.map(work, shares))
        return Seconds(time.process_time() - processor, time.perf_counter() - wall)


def decode(streams: list[bytes]) -> None:
    for stream in streams:
        simplejpeg.decode_jpeg(stream, "RGB")


def read_with(reader: SlideReader, *, reused: bool) -> Callable[[list[Region]], None]:
    def read(regions: list[Region]) -> None:
        out = np.zeros((regions[0].height, regions[0].width, 3), np.uint8) if reused else None
        for region in regions:
            reader.read_region(region, 0, out)

    return read


def one_repeat(
    path: Path, regions: list[Region], tiles: Tiles, moved: Region, readers: Sequence[str], threads: int
) -> dict[str, Seconds]:
    """Time of the bare loop ("bare") and of every reader."""
    elsewhere = tiles.outside(moved)
    seconds = {"bare": timed(decode, tiles.touched(moved), threads)}
    for name in readers:
        with open_slide(path, reader=name.removesuffix(REUSED)) as reader:
            for place in elsewhere:
                reader.read_region(place)
            seconds[name] = timed(read_with(reader, reused=name.endswith(REUSED)), regions, threads)
    return seconds


def measure(path: Path, tiles: Tiles, wanted: argparse.Namespace) -> Iterator[Row]:
    for side in wanted.sides:
        block = tiles.fullest_block(max(wanted.block, side))
        for aligned in (True, False):
            moved = block if aligned else replace(block, x=block.x + SHIFT[0], y=block.y + SHIFT[1])
            regions = regions_of(moved, side)
            runs: Runs = {n: [] for n in wanted.threads if n <= len(regions)}
            for _ in range(wanted.repeats):
                for threads in runs:
                    runs[threads].append(one_repeat(path, regions, tiles, moved, wanted.readers, threads))
            yield from rows_of(runs, side, aligned=aligned, pixels=block.width * block.height)


def rows_of(runs: Runs, side: int, *, aligned: bool, pixels: int) -> Iterator[Row]:
    first = runs[min(runs)]
    for threads, repeats in runs.items():
        for name in repeats[0]:
            bare, openslide = (
                statistics.median(run[other].processor / run[name].processor for run in repeats)
                if other in repeats[0]
                else math.nan
                for other in ("bare", "openslide")
            )
            faster = statistics.median(
                one[name].wall / many[name].wall for one, many in zip(first, repeats, strict=True)
            )
            rate = pixels / statistics.median(run[name].processor for run in repeats) / 1e6
            yield Row(name, side, aligned, threads, rate, bare, openslide, faster)


def largest_difference(path: Path, block: Region) -> dict[str, int]:
    """Largest difference of each reader's pixels to OpenSlide's, over a block cut across the tiles."""
    moved = replace(block, x=block.x + SHIFT[0], y=block.y + SHIFT[1])
    pixels: dict[str, NDArray[np.int16]] = {}
    for name in ("openslide", "tiffslide", "direct"):
        with open_slide(path, reader=name) as reader:
            pixels[name] = reader.read_region(moved).astype(np.int16)
    return {name: int(np.abs(found - pixels["openslide"]).max()) for name, found in pixels.items()}


def show(row: Row) -> str:
    grid = "aligned" if row.aligned else "misaligned"
    return (
        f"| {row.side_px} px, {grid} | {row.threads} | {row.reader} | {row.rate:.0f} | {row.share_of_decoding:.2f} | "
        f"{row.times_openslide:.1f} | {row.speed_up:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--block", type=int, default=8192, help="least side of the square that is read, px")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    tiles = Tiles(wanted.slide)
    block = tiles.fullest_block(wanted.block)
    bits = 8 * sum(map(len, tiles.touched(block))) / (block.width * block.height)
    differences = largest_difference(wanted.slide, tiles.fullest_block(2048))
    print(f"{bits:.2f} bits per px; largest difference to OpenSlide: {differences}; {os.cpu_count()} cores\n")
    print("| regions | threads | reader | MP/s | share of decoding | times OpenSlide | speed-up by threads |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for row in measure(wanted.slide, tiles, wanted):
        rows.append(asdict(row))
        print(show(row), flush=True)
    if wanted.json:
        told = {"bits_per_px": bits, "largest_difference": differences, "repeats": wanted.repeats, "rows": rows}
        wanted.json.write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
