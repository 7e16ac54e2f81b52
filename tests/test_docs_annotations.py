"""Every command that docs/annotations.md shows runs, in the order in which it is shown."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from slidemaker import write_slide
from wsipipe.config import parse_recipe
from wsipipe.models.segmentation import build_model
from wsipipe.pipeline.export import FORMATS
from wsipipe.pipeline.extract import extract_slide
from wsipipe.slides import list_slides
from wsipipe.store.checkpoint import Checkpoint, save_checkpoint
from wsipipe.store.feature_map import FeatureMap
from wsipipe_cli.main import app

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "annotations.md"
MARKED = {"Tumor": ((320, 256), (280, 230), (350, 300)), "Stroma": ((100, 100), (520, 150), (150, 410), (320, 90))}


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with the files that the guide speaks of."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:512, :640]
    disc = (rows - 256) ** 2 + (cols - 320) ** 2 < 110**2
    field = (abs(rows - 256) < 200) & (abs(cols - 320) < 260)
    color = np.where(disc[..., None], (110, 60, 140), np.where(field[..., None], (215, 150, 190), (243, 243, 243)))
    noise = rng.normal(0, 18, (512, 640, 1)) * field[..., None]
    slide = write_slide(tmp_path / "slide.svs", np.clip(color + noise, 0, 255).astype(np.uint8), levels=2)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "MultiPoint", "coordinates": [list(xy) for xy in places]},
            "properties": {"objectType": "annotation", "classification": {"name": name}},
        }
        for name, places in MARKED.items()
    ]
    (tmp_path / "slide.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    names = {"Tumor": "Gland 1", "Stroma": "Fat"}
    lines = [f"{x},{y},{names[name]}" for name, places in MARKED.items() for x, y in places]
    (tmp_path / "glands.csv").write_text("x,y,label\n" + "\n".join(lines))
    (tmp_path / "labels").mkdir()
    Image.fromarray(disc[::4, ::4].astype(np.uint8)).save(tmp_path / "labels" / "slide.png")
    corners = "".join(
        f'<Coordinate Order="{i}" X="{320 + 110 * np.cos(a):.2f}" Y="{256 + 110 * np.sin(a):.2f}"/>'
        for i, a in enumerate(np.linspace(0, 2 * np.pi, 60, endpoint=False))
    )
    (tmp_path / "drawn.xml").write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumor" Color="#ff0000">'
        f"<Coordinates>{corners}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    model_of(slide, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_of(slide, folder):
    """A model that fits the slide, not trained."""
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


def test_the_commands_of_the_guide_run(desk):
    shown = commands()
    assert len(shown) >= 8
    for line in shown:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "wsipipe"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception}"
    exports = {file.name for file in (desk / "wsipipe-out" / "exports").iterdir()}
    assert exports == {"slide.xml", "slide.gpkg", "slide.geojson.gz", "slide.geojson"}
    (judged,) = json.loads((desk / "wsipipe-out" / "audit" / "audit.json").read_text())["slides"]
    assert {"others", "model"} <= judged["points"][0].keys()
    assert all(point["model"] is not None for point in judged["points"])
    (row,) = json.loads((desk / "wsipipe-out" / "evaluation.json").read_text())["rows"]
    assert row["slide"] == "slide"
    assert row["dice"] > 0


def test_the_guide_names_every_format():
    text = GUIDE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in FORMATS)
