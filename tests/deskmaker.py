"""The files that the guides in docs speak of: one slide with everything that was drawn on it."""

from __future__ import annotations

import json

import numpy as np
import torch
from PIL import Image

from slidemaker import write_slide
from wsipipe.config import parse_recipe
from wsipipe.models.segmentation import build_model
from wsipipe.pipeline.extract import extract_slide
from wsipipe.slides import list_slides
from wsipipe.store.checkpoint import Checkpoint, save_checkpoint
from wsipipe.store.feature_map import FeatureMap

MARKED = {"Tumor": ((320, 256), (280, 230), (350, 300)), "Stroma": ((100, 100), (520, 150), (150, 410), (320, 90))}


def lay_desk(folder):
    """Write slide, points, outlines, labels and a model into a folder."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:512, :640]
    disc = (rows - 256) ** 2 + (cols - 320) ** 2 < 110**2
    field = (abs(rows - 256) < 200) & (abs(cols - 320) < 260)
    color = np.where(disc[..., None], (110, 60, 140), np.where(field[..., None], (215, 150, 190), (243, 243, 243)))
    noise = rng.normal(0, 18, (512, 640, 1)) * field[..., None]
    slide = write_slide(folder / "slide.svs", np.clip(color + noise, 0, 255).astype(np.uint8), levels=2)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": [list(xy) for xy in places]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, places in MARKED.items()
    ]
    (folder / "slide.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    names = {"Tumor": "Gland 1", "Stroma": "Fat"}
    lines = [f"{x},{y},{names[name]}" for name, places in MARKED.items() for x, y in places]
    (folder / "glands.csv").write_text("x,y,label\n" + "\n".join(lines))
    (folder / "labels").mkdir()
    Image.fromarray(disc[::4, ::4].astype(np.uint8)).save(folder / "labels" / "slide.png")
    corners = "".join(
        f'<Coordinate Order="{i}" X="{320 + 110 * np.cos(a):.2f}" Y="{256 + 110 * np.sin(a):.2f}"/>'
        for i, a in enumerate(np.linspace(0, 2 * np.pi, 60, endpoint=False))
    )
    (folder / "drawn.xml").write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumor" Color="#ff0000">'
        f"<Coordinates>{corners}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    dots = "".join(
        f'<Annotation Name="{name} {i}" Type="Dot" PartOfGroup="{name}" Color="#ff0000">'
        f'<Coordinates><Coordinate Order="0" X="{x}" Y="{y}"/></Coordinates></Annotation>'
        for name, places in MARKED.items()
        for i, (x, y) in enumerate(places)
    )
    (folder / "slide.xml").write_text(f"<ASAP_Annotations><Annotations>{dots}</Annotations></ASAP_Annotations>")
    model_of(slide, folder)


def model_of(slide, folder):
    """Write a model that fits the slide, not trained."""
    recipe = parse_recipe(
        {
            "network": {"width": 4, "depth": 2},
            "tile": {"mpp": 1.0},
            "encoder": {"name": "filterbank", "kind": "dense", "stride_px": 16},
        }
    )
    (entry,) = list_slides([slide])
    with FeatureMap.open(extract_slide(entry, folder / "elsewhere", recipe).outputs[0]) as features:
        info = features.info
    torch.manual_seed(0)
    facts = {name: getattr(info, name) for name in ("encoder", "kind", "mpp", "stride_px", "weights_digest")}
    weights = build_model(info.dim, recipe).state_dict()
    checkpoint = Checkpoint(weights, recipe, {"in_channels": info.dim} | facts)
    save_checkpoint(folder / "runs" / "first" / "checkpoint.safetensors", checkpoint)
