"""A slide of three kinds of tissue, points on them as QuPath writes them, and the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidemaker import write_slide

HEIGHT, WIDTH = 512, 640
COLORS = {"Tumor": (110, 60, 140), "Stroma": (215, 150, 190), "Fat": (225, 205, 130)}
MARKED = {
    "Tumor: high": ((250, 250), (210, 200), (300, 300)),
    "Stroma": ((100, 100), (90, 400), (250, 90), (360, 420)),
    "Fat cells": ((520, 150), (540, 400), (480, 260)),
}
QUPATH_COLORS = {"Tumor: high": [200, 0, 0], "Stroma": [150, 200, 150], "Fat cells": [0, 80, 255]}


def truth() -> NDArray[np.uint8]:
    """0 glass, 1 a disc of tumour in 2 stroma, 3 fat to the right."""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    field = (abs(rows - 256) < 216) & (abs(cols - 320) < 280)
    labels = np.where(cols < 440, 2, 3)
    labels[(rows - 250) ** 2 + (cols - 250) ** 2 < 110**2] = 1
    return np.where(field, labels, 0).astype(np.uint8)


def write_three_classes(folder: Path) -> Path:
    """Write slide.svs, slide.geojson, labels/slide.png and slide.csv, the manifest; the manifest comes back."""
    labels, rng = truth(), np.random.default_rng(0)
    palette = np.array([(243, 243, 243), *COLORS.values()], float)
    noise = rng.normal(0, 14, (HEIGHT, WIDTH, 1)) * (labels > 0)[..., None]
    picture = np.clip(palette[labels] + noise, 0, 255).astype(np.uint8)
    write_slide(folder / "slide.svs", picture, mpp=1.0, levels=2)
    (folder / "labels").mkdir()
    Image.fromarray(labels).save(folder / "labels" / "slide.png")
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": [list(xy) for xy in places]},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name, "color": QUPATH_COLORS[name]},
            },
        }
        for name, places in MARKED.items()
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    (folder / "slide.geojson").write_text(text)
    manifest = folder / "slides.csv"
    manifest.write_text("slide,points,mask\nslide.svs,slide.geojson,labels/slide.png\n")
    return manifest
