"""Speed and memory of extraction: `python benchmarks/extraction.py SLIDE [--slide-mpp 1.0] [--mpp 1.0] [--json]`.

One row per kind of map (random weights). "Network" is the encoder alone on the very pixels that extraction fed it, kept
in memory, in turn with extraction in the same process; "share" is the network's time over extraction's, which is 1
where reading, stitching and writing cost nothing. CPU seconds are less disturbed by a busy machine than wall seconds.
"Rest" is where the others go in one run: CPU seconds of reading, of finding the tissue, and of everything else, as
shares of extraction's (with one torch thread: OMP_NUM_THREADS=1); "wait" is the share of its wall seconds in which the
thread that feeds the network waits for pixels. With `--device cuda` clocks are read when the GPU has done all, and the
lines above the table tell whether it decoded the tiles; "rest" then counts what the CPU does, launching included.

"Waste" is the network's arithmetic over that of the map's cells with tissue alone (halos, and glass), "tiles" what it
would be in tiles of 1024 px with halos. Dense maps are also set against one undivided pass over the rectangle round the
tissue, without a halo: "work" compares the arithmetic, "network" and "all" the CPU seconds of the network alone and of
the whole extraction. The pass is timed on a square of at most 2048 px, since its
memory grows with it, and scaled to the rectangle. Peak memory is that of a process of its own that extracts once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from peak import own_peak

from wsipipe import read_ahead
from wsipipe.config import Recipe
from wsipipe.geometry import CellGrid
from wsipipe.models.encoders import Encoder, build_encoder
from wsipipe.models.row_stream import RowStream
from wsipipe.numerics.tissue import Tissue
from wsipipe.pipeline import extract
from wsipipe.pipeline.device_source import DeviceSource
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.layouts import Block, DenseLayout
from wsipipe.pipeline.pixel_source import PixelSource
from wsipipe.slides import SlideEntry
from wsipipe.store.feature_map import FeatureMap

KINDS = ("patch", "dense")
ONE_PASS_PX = 2048

Result = TypeVar("Result")


class Recording:
    """What the network is fed while the context lasts, and its arithmetic in units of one map cell's."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._lock = threading.Lock()
        self.batches: list[torch.Tensor] = []
        self.strips: list[tuple[RowStream, int, list[torch.Tensor]]] = []
        self.spent = dict.fromkeys(("network", "reading", "tissue"), 0.0)
        self.waited = {"wait": 0.0}

    def __enter__(self) -> Self:
        encode, push = type(self._encoder).encode, RowStream.push

        def keep_batch(encoder: Encoder, batch: torch.Tensor) -> torch.Tensor:
            self.batches.append(batch.to(getattr(encoder, "device", batch.device)))
            return self._timed("network", encode)(encoder, batch)

        def keep_strip(stream: RowStream, strip: int, pixels: list[torch.Tensor]) -> torch.Tensor | None:
            self.strips.append((stream, strip, pixels))
            return self._timed("network", push)(stream, strip, pixels)

        self._patches = ExitStack()
        self._patches.enter_context(mock.patch.object(type(self._encoder), "encode", keep_batch))
        self._patches.enter_context(mock.patch.object(RowStream, "push", keep_strip))
        reading = ((source, "read", "reading") for source in (PixelSource, DeviceSource))
        for owner, name, part in (*reading, (extract, "tissue_for", "tissue")):
            timed = self._timed(part, getattr(owner, name))
            self._patches.enter_context(mock.patch.object(owner, name, timed))
        waiting = self._timed("wait", read_ahead._next, self.waited, time.perf_counter)
        self._patches.enter_context(mock.patch.object(read_ahead, "_next", waiting))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _timed(
        self,
        part: str,
        call: Callable[..., Any],
        spent: dict[str, float] | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> Callable[..., Any]:
        """Add the seconds of a call to a part; CPU seconds of its own thread, unless told otherwise."""
        total, lock = self.spent if spent is None else spent, self._lock

        def timed(*arguments: Any) -> Any:  # noqa: ANN401
            started = clock()
            try:
                return call(*arguments)
            finally:
                with lock:  # several threads read at once
                    total[part] += clock() - started

        return timed

    def network(self) -> None:
        """Feed the network the same again."""
        for batch in self.batches:
            self._encoder.encode(batch).cpu()
        for stream, strip, pixels in self.strips:
            stream.push(strip, pixels)

    @property
    def read_px(self) -> int:
        """Pixels that were read."""
        strips = (part for _, _, pixels in self.strips for part in pixels)
        return sum(batch[..., 0].numel() for batch in self.batches) + sum(part[:, 0].numel() for part in strips)

    def cells(self, stride_px: int) -> float:
        """Map cells whose arithmetic is that of what was computed."""
        streams = {id(stream): stream for stream, _, _ in self.strips}.values()
        streamed = sum(stream.macs() / stream.macs_per_output() for stream in streams)
        return streamed + sum(batch[..., 0].numel() for batch in self.batches) / stride_px**2


def main() -> None:
    options = parse()
    if options.once:
        work(options, options.once)
        sys.stdout.write(str(own_peak()))
        return
    rows = [measure(options, kind) for kind in options.kinds]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slide-mpp", type=float, help="um per level-0 px where the slide does not say")
    parser.add_argument("--mpp", type=float, default=1.0, help="resolution of the features")
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--stride", type=int, default=16, help="of the dense map")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--once", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


def recipe(options: argparse.Namespace, kind: str) -> Recipe:
    encoder = {"name": options.encoder, "kind": kind, "weights": "none", "stride_px": options.stride}
    return Recipe.model_validate({"tile": {"mpp": options.mpp}, "encoder": encoder})


def work(options: argparse.Namespace, kind: str, encoder: Encoder | None = None) -> tuple[NDArray[np.bool_], int, str]:
    """Extract into a new folder; return the cells with tissue, the px per cell side and the message."""
    entry = SlideEntry(options.slide.stem, options.slide, options.slide_mpp)
    with tempfile.TemporaryDirectory() as folder:
        outcome = extract_slide(entry, Path(folder), recipe(options, kind), device=options.device, encoder=encoder)
        with FeatureMap.open(outcome.outputs[0]) as features:
            return features.read_valid(slice(None), slice(None)), features.info.stride_px, outcome.message


def measure(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """One row: rates, their ratio, waste, one undivided pass, and peak memory."""
    encoder = build_encoder(recipe(options, kind).encoder, device=options.device)
    with Recording(encoder) as recording:
        (valid, stride, message), took, total = timed(lambda: work(options, kind, encoder), options.device)
    once = OnePass(encoder, valid, stride) if kind == "dense" else None
    runs: list[tuple[tuple[float, float], ...]] = []
    for _ in range(options.repeat):
        calls = [lambda: work(options, kind, encoder), recording.network, *([once.run] if once else [])]
        runs.append(tuple(timed(call, options.device)[1:] for call in calls))
    fed, cells = recording.read_px / 1e6, recording.cells(stride)
    row: dict[str, Any] = {"slide": options.slide.name, "encoder": options.encoder, "kind": kind, "mp": fed}
    row |= {"message": message, "wait": recording.waited["wait"] / took}
    for place, clock in enumerate(("wall", "cpu")):
        whole, bare = (min(run[part][place] for run in runs) for part in (0, 1))
        row[clock] = {"extract_mp_s": fed / whole, "network_mp_s": fed / bare, "share": bare / whole}
    shares = {part: spent / total for part, spent in recording.spent.items()}
    row["rest"] = {part: shares[part] for part in ("reading", "tissue")} | {"other": 1 - sum(shares.values())}
    row |= {"waste": cells / np.count_nonzero(valid), "peak_mb": peak(kind), "one_pass": None, "tiles": None}
    if once:
        whole, bare, part = (min(run[part][1] for run in runs) for part in (0, 1, 2))
        passed = part * once.share
        row["one_pass"] = {"work": cells / once.cells, "network": bare / passed, "all": whole / passed}
        row["tiles"] = tile_cells(valid, stride, encoder.halo_px) / np.count_nonzero(valid)
    return row


def tile_cells(valid: NDArray[np.bool_], stride_px: int, halo_px: int) -> float:
    """Count the cells, those in halos too, that tiles of 1024 px would compute."""
    grid = CellGrid(*valid.shape, float(stride_px))
    layout = DenseLayout(grid, Tissue(valid, grid), stride_px, halo_px)
    side, total = layout.block_cells, 0
    for top, left in itertools.product(*(range(0, length, side) for length in valid.shape)):
        part = valid[top : top + side, left : left + side]
        rows, cols = slice(top, top + part.shape[0]), slice(left, left + part.shape[1])
        regions = [piece.regions[0] for piece in layout.pieces(Block((0, 0), rows, cols, part))]
        total += sum(region.width * region.height for region in regions)
    return total / stride_px**2


class OnePass:
    """One pass of a dense encoder over the rectangle round the tissue, or over a square of its size at most."""

    def __init__(self, encoder: Encoder, valid: NDArray[np.bool_], stride_px: int) -> None:
        height, width = (np.ptp(axis) + 1 for axis in np.nonzero(valid))
        self.cells = int(height * width)
        sides = [min(int(side) * stride_px, ONE_PASS_PX) for side in (height, width)]
        self.share = self.cells * stride_px**2 / (sides[0] * sides[1])
        self._encoder = encoder
        self._pixels = torch.randint(
            0, 256, (1, *sides, 3), dtype=torch.uint8, device=getattr(encoder, "device", "cpu")
        )

    def run(self) -> None:
        """Do it."""
        self._encoder.encode(self._pixels).cpu()


def timed(call: Callable[[], Result], device: str) -> tuple[Result, float, float]:
    """Call, and tell the wall and CPU seconds, those of what it left to a GPU included."""
    wait_for(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    wait_for(device)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def wait_for(device: str) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak(kind: str) -> float:
    """Peak resident MB of a process that extracts once."""
    command = [sys.executable, *sys.argv, "--once", kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(rows: list[dict[str, Any]]) -> str:
    head = f"{'kind':6} {'MP':>7} {'waste':>6} {'tiles':>6}" + "".join(
        f"{clock + ': extract / network MP/s, share':>38}" for clock in ("wall", "cpu")
    )
    head += f"{'wait':>7}{'rest: read, tissue, other':>27}{'one pass: work, network, all':>30}{'peak MB':>9}"
    lines = [f"{rows[0]['slide']}, {rows[0]['encoder']}", *(f"{row['kind']}: {row['message']}" for row in rows), head]
    for row in rows:
        tiles = f"{row['tiles']:6.2f}" if row["tiles"] else f"{'-':>6}"
        line = f"{row['kind']:6} {row['mp']:7.1f} {row['waste']:6.2f} {tiles}"
        for clock in ("wall", "cpu"):
            rates = row[clock]
            line += f"{rates['extract_mp_s']:20.3f} / {rates['network_mp_s']:5.3f} {rates['share']:9.3f}"
        line += (
            f"{row['wait']:7.3f}{row['rest']['reading']:13.3f}{row['rest']['tissue']:7.3f}{row['rest']['other']:7.3f}"
        )
        once = row["one_pass"]
        line += f"{once['work']:17.2f}{once['network']:8.2f}{once['all']:5.2f}" if once else f"{'-':>30}"
        lines.append(line + f"{row['peak_mb']:9.0f}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
