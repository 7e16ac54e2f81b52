"""Speed and size of feature maps in HDF5, by compression: `python benchmarks/hdf5.py [--map MAP.h5] [--json]`.

Whole chunks of float16 vectors, as `wsipipe.store.feature_map` writes them, go to a file and come back, with each
compression in turn within one process. Rates are MB of float16 per second of CPU time, the best of the repeats; writing
includes closing the file. Without a map the values are those of a ReLU on noise: half of them zero, the rest with
random low bits, as in real maps. blosc is measured where `hdf5plugin` is installed.
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
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

SIDE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--map", type=Path, help="take the values of this feature map")
    parser.add_argument("--cells", type=int, default=256, help="side of the map in cells, a multiple of 64")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    values = stored(options.map) if options.map else noise(options.cells, options.dim)
    rows = measure(values, options.repeat)
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    print(f"{'x'.join(map(str, values.shape))} float16, {values.nbytes / 1e6:.0f} MB")
    print(f"{'':12} {'write MB/s':>11} {'read MB/s':>10} {'size':>6}")
    for row in rows:
        print(f"{row['codec']:12} {row['write_mb_s']:11.0f} {row['read_mb_s']:10.0f} {row['size']:6.2f}")


def noise(cells: int, dim: int) -> NDArray[np.float16]:
    rng = np.random.default_rng(0)
    return np.maximum(rng.normal(size=(cells, cells, dim)).astype(np.float16), np.float16(0))


def stored(path: Path) -> NDArray[np.float16]:
    """At most the first 512 x 512 cells of a map."""
    with h5py.File(path) as file:
        return np.asarray(file["feature_map"][:512, :512])


def codecs() -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {
        "none": {},
        "lzf": {"compression": "lzf"},
        "lzf shuffle": {"compression": "lzf", "shuffle": True},
        "gzip 1": {"compression": "gzip", "compression_opts": 1},
    }
    if importlib.util.find_spec("hdf5plugin"):
        import hdf5plugin

        known["blosc lz4"] = dict(hdf5plugin.Blosc(cname="lz4", shuffle=hdf5plugin.Blosc.SHUFFLE))
    return known


def measure(values: NDArray[np.float16], repeat: int) -> list[dict[str, Any]]:
    best = {name: [np.inf, np.inf, 0.0] for name in codecs()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.h5"
        for _ in range(repeat):
            for name, how in codecs().items():
                wrote, read = cpu(lambda how=how: write(path, values, how)), cpu(lambda: read_back(path))
                best[name] = [min(best[name][0], wrote), min(best[name][1], read), path.stat().st_size / values.nbytes]
    return [
        {"codec": name, "write_mb_s": values.nbytes / 1e6 / w, "read_mb_s": values.nbytes / 1e6 / r, "size": size}
        for name, (w, r, size) in best.items()
    ]


def write(path: Path, values: NDArray[np.float16], how: dict[str, Any]) -> None:
    chunks = (min(SIDE, values.shape[0]), min(SIDE, values.shape[1]), values.shape[2])
    with h5py.File(path, "w") as file:
        data = file.create_dataset("feature_map", values.shape, "f2", chunks=chunks, **how)
        for chunk in data.iter_chunks():
            data[chunk] = values[chunk]


def read_back(path: Path) -> None:
    with h5py.File(path) as file:
        for chunk in file["feature_map"].iter_chunks():
            file["feature_map"][chunk]


def cpu(call: Callable[[], None]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    main()
