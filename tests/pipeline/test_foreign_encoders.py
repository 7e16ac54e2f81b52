"""Encoders of timm and of users through tile, extract, train and predict."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tifffile
import torch

from wsipipe.config import parse_recipe
from wsipipe.errors import CheckpointError
from wsipipe.geometry import Region
from wsipipe.models.encoders import build_encoder
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.tile import tile_slide
from wsipipe.pipeline.train import train
from wsipipe.slides import MppView, list_slides, open_slide
from wsipipe.store.feature_map import FeatureMap

POINTS = "x,y,label\n300,300,Tumor\n400,500,Tumor\n700,300,Stroma\n800,500,Stroma\n"
ALL = slice(None)


def recipe(kind, *, encoder="timm:test_vit", mpp=1.0, patch=64, stride=16):
    return parse_recipe(
        {
            "tile": {"mpp": mpp, "patch_size_px": patch, "min_tissue": 0.3},
            "encoder": {"name": encoder, "kind": kind, "weights": "none", "stride_px": stride},
            "network": {"width": 4, "depth": 1},
            "training": {
                "epochs": 2,
                "learning_rate": 0.01,
                "point_width": 1,
                "previews": 1,
                "validation_fraction": 0.5,
            },
            "predict": {"window": 32, "overlap": 8},
        }
    )


def through(slide, points, settings, out, *, slide_mpp=None, **options):
    """A slide from its pixels to its mask."""
    (entry,) = list_slides([slide], slide_mpp=slide_mpp)
    tile_slide(entry, out, settings.tile)
    (out / "manifest.csv").write_text(f"slide,points,mpp\n{slide},{points},{slide_mpp or ''}\n")
    train(out / "manifest.csv", settings, out / "run", out=out, device="cpu")
    return predict_slide(entry, model=out / "run", out=out, device="cpu", **options)


@pytest.mark.parametrize("kind", ["patch", "dense"])
def test_a_vision_transformer_goes_all_the_way(tmp_path, slide_path, kind):
    (tmp_path / "points.csv").write_text(POINTS)
    outcome = through(slide_path, tmp_path / "points.csv", recipe(kind), tmp_path)
    assert outcome.status == "done"
    (path,) = (tmp_path / "features").rglob("tissue.h5")
    assert path.parent.name == f"timm_test_vit-none-{kind}-{'64px' if kind == 'patch' else 'stride16'}-1mpp"
    with FeatureMap.open(path) as features:
        assert features.info.encoder == "timm:test_vit"
        assert features.info.weights_digest == "random-5ba0352f5df2644d"
        assert features.info.dim == 64
    assert tifffile.imread(outcome.outputs[2]).max() > 0
    (entry,) = list_slides([slide_path])
    assert predict_slide(entry, model=tmp_path / "run", out=tmp_path).status == "skipped"


@pytest.mark.parametrize("core_px", [200, 1024])
def test_a_dense_map_holds_what_its_windows_say(tmp_path, slide_path, core_px):
    settings = recipe("dense")
    (entry,) = list_slides([slide_path])
    encoder = build_encoder(settings.encoder)
    outcome = extract_slide(entry, tmp_path, settings, device="cpu", encoder=encoder, core_px=core_px)
    with FeatureMap.open(outcome.outputs[0]) as features, open_slide(slide_path) as slide:
        values, valid = features.read(ALL, ALL), features.read_valid(ALL, ALL)
        view, side = MppView(slide, 1.0), encoder.window_px // 16
        assert features.shape == (24, 32, 64)
        for row, col in ((0, 0), (10, 10), (20, 30)):  # the last two reach past the slide
            pixels = torch.from_numpy(view.read(Region(col // side * 160, row // side * 160, 160, 160)))
            expected = encoder.encode(pixels[None])[0, :, row % side, col % side].numpy()
            if valid[row, col]:
                np.testing.assert_allclose(values[row, col], expected, rtol=2e-3, atol=2e-3)
        assert valid[10, 10]
        assert not values[~valid].any()


MODULE = """
from torch import nn

def make():
    net = nn.Sequential(nn.AvgPool2d(16), nn.Conv2d(3, 3, 1))
    nn.init.dirac_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    return net
"""


def test_code_of_users_runs_only_where_they_name_it(tmp_path, slide_path, monkeypatch):
    (tmp_path / "mine_for_predict.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "points.csv").write_text(POINTS)
    name = "python:mine_for_predict.make"
    settings = recipe("dense", encoder=name)
    try:
        outcome = through(slide_path, tmp_path / "points.csv", settings, tmp_path, encoder=name)
        assert outcome.status == "done"
        (entry,) = list_slides([slide_path])
        with pytest.raises(CheckpointError, match=rf"code of somebody's own, '{name}'.*--encoder {name}"):
            predict_slide(entry, model=tmp_path / "run", out=tmp_path)
        with pytest.raises(CheckpointError, match=r"was trained with the encoder 'python:.*not 'resnet34'"):
            predict_slide(entry, model=tmp_path / "run", out=tmp_path, encoder="resnet34")
    finally:
        sys.modules.pop("mine_for_predict", None)


@pytest.mark.shared
def test_a_vision_transformer_on_a_real_slide(tmp_path, shared):
    slide = shared / "slides" / "TCGA-CR-7395.svs"
    points = shared / "annotations" / "points_TCGA-CR-7395.geojson"
    settings = recipe("patch", mpp=4.0, patch=32)
    outcome = through(slide, points, settings, tmp_path, slide_mpp=1.0)
    report = json.loads(outcome.outputs[-1].read_text())
    assert outcome.status == "done"
    assert report["mpp"] == 1.0
    assert report["tissue_mm2"] > 1
