"""Manifest of the GlaS images for `wsipipe crossval`: `python benchmarks/glas_manifest.py --data DIR glas.csv`.

DIR holds images.csv (name, image, mask, patient), images and masks (0: no gland); 0.62 um per px.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

MPP = 0.62


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images.csv, images and masks")
    parser.add_argument("manifest", type=Path, help="CSV to write")
    options = parser.parse_args()
    write_manifest(options.data, options.manifest)


def write_manifest(data: Path, manifest: Path) -> None:
    """List images, masks and patients of the folder `data`."""
    with (data / "images.csv").open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    with manifest.open("w", newline="", encoding="utf-8") as target:
        writer = csv.writer(target)
        writer.writerow(["slide", "mask", "patient", "mpp"])
        for row in rows:
            paths = (str((data / row[column]).resolve()) for column in ("image", "mask"))
            writer.writerow([*paths, row["patient"], MPP])


if __name__ == "__main__":
    main()
