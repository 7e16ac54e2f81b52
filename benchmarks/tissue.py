"""Time of tissue detection and patch coordinates: `python benchmarks/tissue.py SLIDE... [--slide-mpp 0.5] [--json]`.

One row per slide: reading the overview, finding the mask on it, and laying patches of 256 px at 0.5 um per px (or at
`--mpp`) over it; wall and CPU seconds, the least of `--repeat` runs after one that does not count.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wsipipe.config import TileSettings
from wsipipe.geometry import CellGrid
from wsipipe.numerics.tissue import Tissue, tissue_mask
from wsipipe.pipeline.tile import kept_cells, patch_corners, patch_grid
from wsipipe.pipeline.tissue import detection_mpp
from wsipipe.slides import open_slide, read_overview, require_mpp

STAGES = ("overview", "mask", "coords")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--slide-mpp", type=float, help="um per level-0 px where the slide does not say")
    parser.add_argument("--mpp", type=float, default=0.5, help="resolution of the patches")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    settings = TileSettings(mpp=options.mpp)
    rows = [measure(path, options.slide_mpp, settings, options.repeat) for path in options.slides]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n" if options.json else table(rows))


def measure(path: Path, slide_mpp: float | None, settings: TileSettings, repeat: int) -> dict[str, Any]:
    """Seconds of each stage on one slide."""
    with open_slide(path, mpp=slide_mpp) as slide:
        own = require_mpp(slide)
        mpp = detection_mpp(slide.dimensions, own, settings.tissue)
        rgb, overview = best(lambda: read_overview(slide, mpp), repeat)
        width, height = slide.dimensions
    mask, masking = best(lambda: tissue_mask(rgb, mpp=mpp, settings=settings.tissue), repeat)
    tissue = Tissue(mask, CellGrid(*mask.shape, cell_px=mpp / own))
    scale = settings.mpp / own if settings.mpp else 1.0

    def lay() -> np.ndarray[Any, np.dtype[np.int64]]:
        grid = patch_grid(width, height, scale, settings)
        return patch_corners(
            np.argwhere(kept_cells(tissue, grid, settings, slide_size=(width, height))), scale, settings
        )

    coords, laying = best(lay, repeat)
    times = dict(zip(STAGES, (overview, masking, laying), strict=True))
    size = {"slide": path.name, "width": width, "height": height, "overview_mp": mask.size / 1e6}
    return size | {"tissue": float(mask.mean()), "patches": len(coords), "seconds": times}


def best(work: Callable[[], Any], repeat: int) -> tuple[Any, dict[str, float]]:
    """Give the result, and the least wall and CPU seconds of `repeat` runs after a first."""
    result = work()
    runs = []
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        runs.append((time.perf_counter() - wall, time.process_time() - cpu))
    return result, {"wall": min(run[0] for run in runs), "cpu": min(run[1] for run in runs)}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as text, seconds as wall / CPU."""
    head = f"{'slide':28} {'px':>13} {'overview MP':>11} {'tissue':>7} {'patches':>8}"
    lines = [head + "".join(f"{stage + ' s, wall/CPU':>24}" for stage in STAGES)]
    for row in rows:
        size = f"{row['width']}x{row['height']}"
        line = f"{row['slide'][:28]:28} {size:>13} {row['overview_mp']:11.2f} {row['tissue']:7.1%} {row['patches']:8d}"
        times = (row["seconds"][stage] for stage in STAGES)
        lines.append(line + "".join(f"{seconds['wall']:15.3f} / {seconds['cpu']:6.3f}" for seconds in times))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
