"""From a mask on disk to polygons in files: time and peak memory of every step.

    python benchmarks/polygons.py [--shape ROWS COLS] [--sigma PX] [--json]

The mask is synthetic (smoothed noise, a quarter of it inside); by default 12 megapixels with 100,000 components. Every
step runs in a process of its own, after the steps that it needs; its CPU time is its own, its peak memory that of all
of these above a process with everything imported. `library` is the usual way, rasterio's shapes turned into shapely
polygons, from a mask in memory. The script fails where the outlines, drawn again, are not the mask, or where the
library's polygons have another area.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import scipy.ndimage
import shapely
from numpy.typing import NDArray
from peak import own_peak
from shapely.geometry import Polygon, shape

from wsipipe.annotations.shapes import OutlinedRegion
from wsipipe.geometry import CellGrid
from wsipipe.numerics.polygons import outline_mask, rasterize
from wsipipe.numerics.region_means import region_means
from wsipipe.numerics.simplification import simplify_outlines
from wsipipe.store.asap import write_asap
from wsipipe.store.geojson import write_geojson
from wsipipe.store.geopackage import write_geopackage
from wsipipe.store.geoparquet import write_geoparquet
from wsipipe.store.raster import as_mask, iter_bands, raster_info, write_pyramid

Row = dict[str, Any]
CELL_PX, BAND_ROWS = 8.0, 512


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=2, default=[3000, 4096], metavar=("ROWS", "COLS"))
    parser.add_argument("--sigma", type=float, default=1.4, help="of the smoothing: larger, fewer components")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case = json.loads(options.one)
        sys.stdout.write(json.dumps(make(case) if case["step"] == "make" else measure(case)) + "\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        # A child's peak starts at its parent's: this process stays small.
        run({"step": "make", "shape": options.shape, "sigma": options.sigma, "folder": folder})
        rows = [run({"step": step, "folder": folder}) for step in STEPS]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))
    return 0


def run(case: Row) -> Row:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(case)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout))


def make(case: Row) -> Row:
    """Write the mask."""
    rows, cols = case["shape"]
    noise = np.random.default_rng(0).normal(size=(rows, cols)).astype(np.float32)
    smooth = scipy.ndimage.gaussian_filter(noise, case["sigma"])
    inside = smooth > np.quantile(smooth[::8, ::8], 0.75)
    path, grid = Path(case["folder"]) / "mask.tif", CellGrid(rows, cols, CELL_PX)
    bands = (as_mask(inside[start : start + BAND_ROWS]) for start in range(0, rows, BAND_ROWS))
    write_pyramid(path, bands, grid=grid, mpp=2.0)
    return case


@dataclass
class Work:
    """What the steps hand on."""

    folder: Path
    grid: CellGrid
    polygons: list[Polygon] = field(default_factory=list)
    size: int = 0

    def bands(self) -> Iterator[NDArray[np.uint8]]:
        """Read the mask."""
        return iter_bands(self.folder / "mask.tif", BAND_ROWS)

    def regions(self) -> list[OutlinedRegion]:
        """Give what the writers take."""
        return [OutlinedRegion(polygon, "Tumor", measurements={"Area px^2": polygon.area}) for polygon in self.polygons]


def outlines(work: Work) -> None:
    work.polygons = outline_mask(work.bands(), work.grid)


def means(work: Work) -> None:
    region_means((band, band) for band in work.bands())


def library(work: Work) -> None:
    mask = np.concatenate(list(work.bands()))
    found = rasterio.features.shapes(mask, mask=mask > 0, connectivity=4)
    work.polygons = [shape(geometry) for geometry, _ in found]


def simplified(work: Work) -> None:
    work.polygons = simplify_outlines(work.polygons, CELL_PX)


def writer(write: Callable[[Path, list[OutlinedRegion]], None]) -> Callable[[Work], None]:
    def step(work: Work) -> None:
        path = work.folder / f"written{os.getpid()}"
        write(path, work.regions())
        work.size = path.stat().st_size

    return step


STEPS: dict[str, tuple[Callable[[Work], None], ...]] = {
    "outlines": (outlines,),
    "library": (library,),
    "means": (means,),
    "simplified, 1 px": (outlines, simplified),
    "geojson": (outlines, writer(write_geojson)),
    "asap": (outlines, writer(write_asap)),
    "gpkg": (outlines, writer(write_geopackage)),
    "parquet": (outlines, writer(write_geoparquet)),
    "simplified, geojson": (outlines, simplified, writer(write_geojson)),
}


def measure(case: Row) -> Row:
    """Run the steps; the last one counts."""
    work = Work(Path(case["folder"]), raster_info(Path(case["folder"]) / "mask.tif").grid)
    small = CellGrid(64, 64, 1.0)
    outline_mask(np.eye(64, dtype=bool), small)
    write_geoparquet(work.folder / "small", [OutlinedRegion(shapely.box(0, 0, 1, 1))])  # loads pyarrow
    base = own_peak()
    for step in STEPS[case["step"]]:
        started = time.process_time()
        step(work)
        seconds = time.process_time() - started
    told = {"seconds": seconds, "peak_mb": own_peak() - base, "file_mb": work.size / 1e6}
    check(case["step"], work)
    told |= {"polygons": len(work.polygons), "corners": int(shapely.get_num_coordinates(work.polygons).sum())}
    return case | told | {"pixels": work.grid.rows * work.grid.cols}


def check(step: str, work: Work) -> None:
    mask = np.concatenate(list(work.bands())) > 0
    if step == "outlines" and not np.array_equal(rasterize(work.polygons, work.grid), mask):
        raise SystemExit("the outlines, drawn again, are not the mask")
    if step == "library" and shapely.area(work.polygons).sum() != mask.sum():
        raise SystemExit("the library's polygons have another area")


def table(rows: list[Row]) -> str:
    first = rows[0]
    head = f"{first['pixels'] / 1e6:.1f} megapixels, {first['polygons']} components, {first['corners']} corners\n\n"
    lines = ["| step | CPU time, s | peak memory, MB | corners | file, MB |", "|---|---|---|---|---|"]
    for row in rows:
        corners = row["corners"] or ""
        size = f"{row['file_mb']:.0f}" if row["file_mb"] else ""
        lines.append(f"| {row['step']} | {row['seconds']:.1f} | {row['peak_mb']:.0f} | {corners} | {size} |")
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
