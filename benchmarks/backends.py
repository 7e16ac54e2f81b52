"""torch against ONNX Runtime and OpenVINO on the CPU: `python benchmarks/backends.py [--threads 1 2] [--json]`.

ResNet34 (random weights) as an encoder: a dense map to layer3 of one tile of 512 x 512 px, and vectors of 16 patches of
256 x 256 px. torch runs what `extract` runs (batch norms folded, channels-last), the others an ONNX file of the same
folded network. All in turn in one process, in an order that changes; "ratio" is the median of torch's time over the
other's in the same turn, so above 1 the other is faster. One thread: CPU seconds; more: wall seconds. Needs onnx,
onnxscript, onnxruntime and openvino; what is missing is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsipipe.models.resnet import ResNetEncoder, build_resnet
from wsipipe.models.stem import Stem

Pixels = NDArray[np.uint8]
SHAPES = {"dense": (1, 512, 512, 3), "patch": (16, 256, 256, 3)}


class Plain(nn.Module):
    """A ResNet encoder without the bands of its stem: what an exporter sees best."""

    def __init__(self, encoder: ResNetEncoder) -> None:
        super().__init__()
        stem, *rest = encoder.body.children()
        assert isinstance(stem, Stem)
        self.stem, self.rest = stem, nn.Sequential(*rest)

    def forward(self, pixels: Tensor) -> Tensor:
        """As `ResNetEncoder.forward`."""
        stem = self.stem
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) * stem.gain + stem.shift
        features: Tensor = self.rest(stem.maxpool(torch.relu(stem.bn1(stem.conv1(x)))))
        return features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [row for kind in options.kinds for n in options.threads for row in measure(kind, n, options.repeat)]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def measure(kind: str, threads: int, repeat: int) -> list[dict[str, Any]]:
    """One row per backend."""
    torch.set_num_threads(threads)
    encoder = build_resnet("resnet34", kind="dense" if kind == "dense" else "patch", weights="none")
    pixels = np.random.default_rng(0).integers(0, 256, SHAPES[kind], np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        runs = backends(encoder, pixels, Path(folder) / "network.onnx", threads)
        expected = runs["torch"]()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        clock = time.process_time if threads == 1 else time.perf_counter
        for turn in range(repeat):
            names = list(runs)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                started = clock()
                runs[name]()
                seconds[name].append(clock() - started)
        return [
            {
                "kind": kind,
                "threads": threads,
                "backend": name,
                "mp_s": pixels[..., 0].size / 1e6 / median(times),
                "ratio": median(t / other for t, other in zip(seconds["torch"], times, strict=True)),
                "difference": float(np.abs(runs[name]() - expected).max() / np.abs(expected).max()),
            }
            for name, times in seconds.items()
        ]


def backends(
    encoder: ResNetEncoder, pixels: Pixels, path: Path, threads: int
) -> dict[str, Callable[[], NDArray[np.float32]]]:
    """Make ready the ways that are installed."""
    batch = torch.from_numpy(pixels)
    runs: dict[str, Callable[[], NDArray[np.float32]]] = {"torch": lambda: encoder.encode(batch).numpy()}
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        torch.onnx.export(Plain(encoder).eval(), (batch,), path, dynamo=True, verbose=False)
        if importlib.util.find_spec("onnxruntime"):
            runs["onnxruntime"] = with_onnxruntime(path, pixels, threads)
        if importlib.util.find_spec("openvino"):
            runs["openvino"] = with_openvino(path, pixels, threads)
    for run in runs.values():
        run()
    return runs


def with_onnxruntime(path: Path, pixels: Pixels, threads: int) -> Callable[[], NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would take the others' time
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: np.asarray(session.run(None, {name: pixels})[0])


def with_openvino(path: Path, pixels: Pixels, threads: int) -> Callable[[], NDArray[np.float32]]:
    import openvino

    core = openvino.Core()
    hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", hints)
    return lambda: np.asarray(compiled(pixels)[0])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'kind':6} {'threads':>7}  {'backend':12} {'MP/s':>7} {'ratio':>6} {'difference':>11}"]
    lines += [
        f"{row['kind']:6} {row['threads']:>7}  {row['backend']:12} {row['mp_s']:7.3f} {row['ratio']:6.3f} "
        f"{row['difference']:11.1e}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
