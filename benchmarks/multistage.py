"""End-to-end tuning by multi-stage back-propagation against ordinary back-propagation: memory, time, gradients.

    python benchmarks/multistage.py [--encoder resnet18 resnet34] [--patches 64 256 1024] [--repeat 2] [--json]

One step: patches of 64 px through a ResNet with batch norm in training mode, a U-Net on the map of their features, a
cross-entropy over all cells, gradients of everything. Patches are cut from one synthetic picture when they are asked
for, both ways in the same batches of 16. Every case runs in a process of its own. Memory is the peak (RSS) above that
before the first step: map, gradients of the weights, graph, whatever the libraries hold. Time is CPU time, the least of
the repeated steps; on a busy machine the ratio of two neighbouring cases counts, not the time. The script fails where
gradients differ by more than 1e-5 of the largest of their tensor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peak import own_peak
from torch import Tensor, nn
from torch.nn import functional as F

from wsipipe.config import NetworkSettings
from wsipipe.models.map_pieces import MapPiece
from wsipipe.models.multistage import multistage_backward
from wsipipe.models.resnet import build_resnet
from wsipipe.models.segmentation import SegmentationModel

Row = dict[str, Any]
PATCH_PX, BATCH, TOLERANCE = 64, 16, 1e-5
HEAD = "encoder   patches  ordinary MB  stages MB  ordinary s  stages s  time ratio  difference"


@dataclass(frozen=True)
class Patches:
    """Patches of a square map, cut from a picture when they are asked for."""

    picture: Tensor
    side: int

    def __len__(self) -> int:
        return -(-(self.side**2) // BATCH)

    def __getitem__(self, index: int) -> MapPiece:
        cells = torch.arange(index * BATCH, min((index + 1) * BATCH, self.side**2))
        corners = torch.stack([cells // self.side, cells % self.side], dim=1)
        places = (corners * 37 % (len(self.picture) - PATCH_PX)).tolist()
        cut = [self.picture[y : y + PATCH_PX, x : x + PATCH_PX] for y, x in places]
        return MapPiece(torch.stack(cut), corners)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="+", default=["resnet18", "resnet34"])
    parser.add_argument("--patches", type=int, nargs="+", default=[64, 256, 1024], help="square numbers")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case = json.loads(options.one)
        sys.stdout.write(json.dumps(difference(case) if "files" in case else measure(case)) + "\n")
        return 0
    cases = [{"encoder": encoder, "patches": count} for encoder in options.encoder for count in options.patches]
    differences = []
    sys.stdout.write("" if options.json else f"{HEAD}\n")
    for case in cases:
        row = compared(case | {"repeat": options.repeat})
        differences.append(row["difference"])
        sys.stdout.write((json.dumps(row) if options.json else line(row)) + "\n")
        sys.stdout.flush()
    return int(max(differences) > TOLERANCE)


def compared(case: Row) -> Row:
    """Both ways, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        files = {way: str(Path(folder) / f"{way}.pt") for way in ("stages", "ordinary")}
        found = {way: run(case | {"way": way, "file": file}) for way, file in files.items()}
        # In a process of its own, too: a child's peak starts at its parent's, so this process stays small.
        return case | found | run({"files": list(files.values())})


def run(case: Row) -> Row:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(case)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return dict(json.loads(done.stdout))


def measure(case: Row) -> Row:
    """Make steps of one way; gradients of the last one go to a file."""
    torch.manual_seed(0)
    encoder = build_resnet(case["encoder"], kind="patch", weights="none", fold=False).requires_grad_().train()
    head = SegmentationModel(encoder.dim, NetworkSettings(width=16, depth=2), empty_cells=True)
    work: Callable[..., None] = {"stages": in_stages, "ordinary": ordinarily}[case["way"]]
    picture = torch.randint(0, 256, (1024, 1024, 3), dtype=torch.uint8)
    side = round(case["patches"] ** 0.5)
    base, seconds = own_peak(), []
    for _ in range(case["repeat"]):
        encoder.zero_grad()
        head.zero_grad()
        began = time.process_time()
        work(encoder, head, Patches(picture, side))
        seconds.append(time.process_time() - began)
    torch.save([parameter.grad for module in (encoder, head) for parameter in module.parameters()], case["file"])
    return {"peak_mb": own_peak() - base, "cpu_s": min(seconds)}


def in_stages(encoder: nn.Module, head: nn.Module, patches: Patches) -> None:
    multistage_backward(encoder, patches, lambda x: loss_of(head, x), shape=(patches.side, patches.side))


def ordinarily(encoder: nn.Module, head: nn.Module, patches: Patches) -> None:
    features = torch.cat([encoder(patches[index].pixels) for index in range(len(patches))])
    loss_of(head, features.T.unflatten(1, (patches.side, patches.side))[None]).backward()


def loss_of(head: nn.Module, features: Tensor) -> Tensor:
    logits = head(features)[0]
    wanted = (torch.arange(logits.numel()).view_as(logits) % 3 == 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, wanted)


def difference(case: Row) -> Row:
    """Largest difference of a gradient, as a share of the largest value of its tensor."""
    pairs = zip(*(torch.load(file) for file in case["files"]), strict=True)
    return {"difference": max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)}


def line(row: Row) -> str:
    ordinary, stages = row["ordinary"], row["stages"]
    return (
        f"{row['encoder']:<8}  {row['patches']:>7}  {ordinary['peak_mb']:>11.0f}  {stages['peak_mb']:>9.0f}  "
        f"{ordinary['cpu_s']:>10.1f}  {stages['cpu_s']:>8.1f}  {stages['cpu_s'] / ordinary['cpu_s']:>10.2f}  "
        f"{row['difference']:>10.1e}"
    )


if __name__ == "__main__":
    sys.exit(main())
