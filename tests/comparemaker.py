"""Small images of two tissues with masks, for comparisons of methods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsipipe.config import Recipe, parse_recipe, updated

TINY = {
    "tile": {"mpp": None},
    "encoder": {"name": "none"},
    "network": {"width": 4, "depth": 1},
    "training": {"epochs": 2, "learning_rate": 0.03, "point_width": 3, "previews": 0, "window": 64},
    "predict": {"window": 64, "overlap": 16},
}


def tiny_recipe(**training) -> Recipe:
    return updated(parse_recipe(TINY), {"training": training})


def write_picture(folder: Path, name: str, seed: int, *, height: int = 40, width: int = 48) -> None:
    """An image and its mask (`masks/<name>.png`): two tissues with a slanted border, the left one in target."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:height, :width]
    mask = col + row // 4 < width // 2 + 4
    colours = np.where(mask[..., None], (150, 70, 160), (230, 170, 190))
    image = np.clip(colours + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "masks").mkdir(exist_ok=True)
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def write_cases(folder: Path, patients: dict[str, str]) -> Path:
    """Images by name with their patients, and a manifest of them."""
    lines = ["slide,mask,patient"]
    for seed, (name, patient) in enumerate(patients.items()):
        write_picture(folder, name, seed)
        lines.append(f"{name}.png,masks/{name}.png,{patient}")
    manifest = folder / "cases.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest
