"""Tiles decoded on a device against the CPU's: `python benchmarks/device_decoding.py SLIDE [--device cuda]`.

Differences in grey values over the fullest half of the tiles of level 0: of the device's decoder; of one that does not
interpolate colours between their samples (libjpeg-turbo told so); of one that takes the colours for others.
`wsipipe.pipeline.device_source` allows `MOST_MEAN` and `MOST` in a tile: "mean" and "largest" are those of the worst
tile, or for the last row, which has to be found out, of the best.

Rates in megapixels per second of 16 regions of 256 px at a time, shifted against the tiles, of tiles that are not kept:
fetching the streams alone (what the CPU has to do), reading through the device, and reading on the CPU. One thread;
medians of interleaved repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from wsipipe.geometry import Region
from wsipipe.models.devices import pick_device, pinned
from wsipipe.models.jpeg_decoding import decode_jpegs
from wsipipe.pipeline.device_source import DeviceSource
from wsipipe.pipeline.pixel_source import PixelSource
from wsipipe.slides import MppView, open_slide
from wsipipe.slides.direct_reader import DirectReader
from wsipipe.slides.encoded_tiles import EncodedTiles, encoded_tiles
from wsipipe.slides.jpeg_stream import without_colour_markers

SIDE, BATCH, SHIFT = 256, 16, 37
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"


def fullest(reader: DirectReader, tiles: EncodedTiles, most: int) -> list[bytes]:
    """Streams drawn from the half of the tiles that holds the most bytes."""
    counts = reader.tile_file.stored(0).counts
    half = np.argsort(counts, axis=None)[counts.size // 2 :]
    chosen = np.random.default_rng(0).permutation(half)[:most]
    keys = [divmod(int(index), counts.shape[1]) for index in chosen]
    return [stream for key in keys if (stream := tiles.stream(key)) is not None]


def otherwise(stream: bytes) -> bytes:
    """Stream whose marker says YCbCr for RGB, or the other way round."""
    transform = stream[stream.find(_ADOBE) + len(_ADOBE)]
    bare = without_colour_markers(stream)
    return bare[:2] + _ADOBE + bytes([1 - transform]) + bare[2:]


def differences(streams: list[bytes], device: torch.device) -> Iterator[tuple[str, float, int]]:
    exact = [simplejpeg.decode_jpeg(stream, "RGB") for stream in streams]
    other: dict[str, tuple[list[NDArray[np.uint8]], Callable[..., object]]] = {
        f"decoded on {device}": ([image.cpu().numpy() for image in decode_jpegs(streams, device)], max),
        "not interpolated": ([simplejpeg.decode_jpeg(stream, "RGB", fastupsample=True) for stream in streams], max),
        "other colours": ([simplejpeg.decode_jpeg(otherwise(stream), "RGB") for stream in streams], min),
    }
    for name, (images, worst) in other.items():
        apart = [np.abs(one.astype(np.int16) - two) for one, two in zip(images, exact, strict=True)]
        yield name, cast(float, worst(a.mean() for a in apart)), cast(int, worst(a.max() for a in apart))


def pieces(view: MppView, most: int) -> list[tuple[Region, ...]]:
    places = [
        Region(x, y, SIDE, SIDE)
        for y in range(SHIFT, view.height - SIDE, SIDE)
        for x in range(SHIFT, view.width - SIDE, SIDE)
    ]
    return [tuple(places[at : at + BATCH]) for at in range(0, len(places) - BATCH + 1, BATCH)][:most]


def seconds(call: Callable[[tuple[Region, ...]], object], work: list[tuple[Region, ...]]) -> float:
    started = time.perf_counter()
    for regions in work:
        call(regions)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def one_repeat(
    view: MppView, tiles: EncodedTiles, device: torch.device, work: list[tuple[Region, ...]]
) -> dict[str, float]:
    """Seconds of every way; sources are new each time, and keep nothing of the last."""

    def fetch(regions: tuple[Region, ...]) -> list[bytes | None]:
        keys = dict.fromkeys(part.key for region in regions for part in tiles.parts(region))
        return [tiles.stream(key) for key in keys]

    found = {"streams": seconds(fetch, work)}
    with PixelSource(view) as plain:
        found["CPU"] = seconds(lambda regions: pinned(plain.read(regions), device).to(device), work)
    own = encoded_tiles(open_slide(view.reader.path), view.level)
    assert own is not None
    with DeviceSource(view, own, device) as source:
        found["device"] = seconds(source.read, work)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiles", type=int, default=200, help="most tiles that are compared")
    parser.add_argument("--pieces", type=int, default=20, help="most pieces of 16 regions that are read")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torchvision")
    device = pick_device(options.device)
    with open_slide(options.slide, reader="direct") as reader:
        tiles = encoded_tiles(reader, 0)
        if tiles is None:
            parser.error(f"{options.slide}: level 0 is not stored as JPEG tiles")
        streams = fullest(cast(DirectReader, reader), tiles, options.tiles)
        print(f"{len(streams)} tiles\n\n| | mean | largest |\n|---|---|---|")
        for name, mean, largest in differences(streams, device):
            print(f"| {name} | {mean:.2f} | {largest} |")
        view = MppView(reader, None)
        work = pieces(view, options.pieces)
        pixels = len(work) * BATCH * SIDE**2 / 1e6
        runs = [one_repeat(view, tiles, device, work) for _ in range(options.repeats)]
        print("\n| | MP/s | times reading on the CPU |\n|---|---|---|")
        for name in runs[0]:
            rate = pixels / statistics.median(run[name] for run in runs)
            print(f"| {name} | {rate:.0f} | {statistics.median(run['CPU'] / run[name] for run in runs):.2f} |")


if __name__ == "__main__":
    main()
