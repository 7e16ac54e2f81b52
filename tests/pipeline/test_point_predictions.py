"""A model's probability at points is that of its prediction of the whole map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsipipe.config import parse_recipe
from wsipipe.errors import CheckpointError
from wsipipe.models.segmentation import build_model
from wsipipe.pipeline import point_predictions
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.point_predictions import predict_points
from wsipipe.pipeline.predict import predict_bands
from wsipipe.slides import list_slides
from wsipipe.store.checkpoint import Checkpoint, save_checkpoint
from wsipipe.store.feature_map import FeatureMap

RECIPE = parse_recipe(
    {
        "network": {"width": 4, "depth": 2},
        "predict": {"window": 64, "overlap": 16},
        "tile": {"mpp": 1.0},
        "encoder": {"name": "filterbank", "kind": "dense", "stride_px": 8},
    }
)


def test_points_get_what_the_whole_map_has_there(tmp_path, slide_path):
    (entry,) = list_slides([slide_path])
    with FeatureMap.open(extract_slide(entry, tmp_path, RECIPE).outputs[0]) as features:
        info = features.info
        torch.manual_seed(0)
        network = build_model(info.dim, RECIPE).eval()
        bands = list(predict_bands(network, features, RECIPE))
    facts = {name: getattr(info, name) for name in ("encoder", "kind", "mpp", "stride_px", "weights_digest")}
    checkpoint = Checkpoint(network.state_dict(), RECIPE, {"in_channels": info.dim} | facts)
    save_checkpoint(tmp_path / "run" / "checkpoint.safetensors", checkpoint)
    xy = np.array([(500.0, 300.0), (200.5, 600.25), (5.0, 5.0), (-40.0, 10.0), (99999.0, 10.0)])
    found = predict_points(entry, xy, model=tmp_path / "run", out=tmp_path)
    whole = np.concatenate([values for values, _ in bands])
    cells = info.grid.cells_of(xy[:2])
    assert found[:2].tolist() == pytest.approx(whole[tuple(cells.T)].tolist(), rel=1e-6)
    assert np.isnan(found[2:]).all(), "glass, and places off the slide"
    assert not (tmp_path / "masks").exists()


def test_points_in_the_margin_of_a_map_get_its_edge(tmp_path, slide_path, monkeypatch):
    """Overlapping patches are centred on their cells, so that their map begins within the slide."""
    (entry,) = list_slides([slide_path])
    path = extract_slide(entry, tmp_path, RECIPE).outputs[0]
    with FeatureMap.open(path) as features:
        info = features.info
    # Rows and columns without glass, laid where a map of patches begins.
    moved = replace(info, grid=replace(info.grid, origin=(-100.0, 40.0)))
    monkeypatch.setattr(point_predictions, "open_map", lambda *args, **options: FeatureMap(path, moved))
    torch.manual_seed(0)
    network = build_model(info.dim, RECIPE).eval()
    facts = {name: getattr(info, name) for name in ("encoder", "kind", "mpp", "stride_px", "weights_digest")}
    checkpoint = Checkpoint(network.state_dict(), RECIPE, {"in_channels": info.dim} | facts)
    save_checkpoint(tmp_path / "run" / "checkpoint.safetensors", checkpoint)
    monkeypatch.setattr(FeatureMap, "read_valid", lambda self, rows, cols: np.ones(self.shape[:2], bool)[rows, cols])
    with FeatureMap(path, moved) as features:
        whole = np.concatenate([values for values, _ in predict_bands(network, features, RECIPE)])
    xy = np.array([(500.0, 3.0), (1023.0, 400.0), (500.0, -1.0)])
    found = predict_points(entry, xy, model=tmp_path / "run", out=tmp_path)
    cells = np.array([(0, 600 // 16), (360 // 16, info.grid.cols - 1)])
    assert found[:2].tolist() == pytest.approx(whole[tuple(cells.T)].tolist(), rel=1e-6)
    assert np.isnan(found[2]), "off the slide"


def test_a_model_that_is_none_is_told(tmp_path, slide_path):
    (entry,) = list_slides([slide_path])
    with pytest.raises(CheckpointError, match="no-run"):
        predict_points(entry, np.zeros((1, 2)), model=tmp_path / "no-run", out=tmp_path)
