"""Speed and memory of extraction: `python benchmarks/extraction.py SLIDE [--slide-mpp 1.0] [--mpp 1.0] [--json]`.

One row per kind of map (random weights). "Network" is the encoder alone on the very tiles that extraction fed it, kept
in memory, in turn with extraction in the same process; "share" is the network's time over extraction's, which is 1
where reading, stitching and writing cost nothing. CPU seconds are less disturbed by a busy machine than wall seconds.
"Waste" is how many pixels went through the network per pixel of map with tissue (halos, and glass inside tiles). Peak
memory is that of a process of its own that extracts once.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wsipipe.config import Recipe
from wsipipe.models.encoders import Encoder, build_encoder
from wsipipe.pipeline.extract import extract_slide
from wsipipe.slides import SlideEntry
from wsipipe.store.feature_map import FeatureMap

KINDS = ("patch", "dense")


class Recording:
    """An encoder that keeps what it is fed."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.kind, self.dim = encoder.name, encoder.kind, encoder.dim
        self.stride_px, self.halo_px = encoder.stride_px, encoder.halo_px
        self.weights_digest = encoder.weights_digest
        self._encoder = encoder
        self.batches: list[torch.Tensor] = []

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        """Encode and keep."""
        self.batches.append(batch)
        return self._encoder.encode(batch)


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


def work(options: argparse.Namespace, kind: str, encoder: Encoder | None = None) -> tuple[int, int]:
    """Extract into a new folder; return (cells with tissue, px per cell side)."""
    entry = SlideEntry(options.slide.stem, options.slide, options.slide_mpp)
    with tempfile.TemporaryDirectory() as folder:
        outcome = extract_slide(entry, Path(folder), recipe(options, kind), device=options.device, encoder=encoder)
        with FeatureMap.open(outcome.outputs[0]) as features:
            cells = int(features.read_valid(slice(None), slice(None)).sum())
            return cells, features.info.stride_px


def measure(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """One row: rates, their ratio, waste and peak memory."""
    encoder = build_encoder(recipe(options, kind).encoder, device=options.device)
    recording = Recording(encoder)
    cells, stride = work(options, kind, recording)
    batches = recording.batches
    fed = sum(batch[..., 0].numel() for batch in batches) / 1e6
    runs = [
        (seconds(lambda: work(options, kind, encoder)), seconds(lambda: network(encoder, batches)))
        for _ in range(options.repeat)
    ]
    row: dict[str, Any] = {"slide": options.slide.name, "encoder": options.encoder, "kind": kind, "mp": fed}
    for place, clock in enumerate(("wall", "cpu")):
        whole, bare = (min(run[part][place] for run in runs) for part in (0, 1))
        row[clock] = {"extract_mp_s": fed / whole, "network_mp_s": fed / bare, "share": bare / whole}
    return row | {"waste": fed * 1e6 / (cells * stride**2), "peak_mb": peak(kind)}


def network(encoder: Encoder, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        encoder.encode(batch).cpu()


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak(kind: str) -> float:
    """Peak resident MB of a process that extracts once."""
    command = [sys.executable, *sys.argv, "--once", kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def own_peak() -> float:
    """Peak resident MB of this process.

    Linux hands the parent's peak on through fork and exec in `ru_maxrss`; VmHWM begins anew.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = (line.split() for line in status.read_text(encoding="ascii").splitlines())
        return next(int(words[1]) for words in lines if words[0] == "VmHWM:") / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(rows: list[dict[str, Any]]) -> str:
    head = f"{'kind':6} {'MP':>7} {'waste':>6}" + "".join(
        f"{clock + ': extract / network MP/s, share':>38}" for clock in ("wall", "cpu")
    )
    lines = [f"{rows[0]['slide']}, {rows[0]['encoder']}", head + f"{'peak MB':>9}"]
    for row in rows:
        line = f"{row['kind']:6} {row['mp']:7.1f} {row['waste']:6.2f}"
        for clock in ("wall", "cpu"):
            rates = row[clock]
            line += f"{rates['extract_mp_s']:20.3f} / {rates['network_mp_s']:5.3f} {rates['share']:9.3f}"
        lines.append(line + f"{row['peak_mb']:9.0f}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
