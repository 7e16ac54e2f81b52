"""Prediction: windows make no seams, images and feature maps both work, misfits are refused, work is recognised."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch

from wsipipe.config import Recipe, parse_recipe, updated
from wsipipe.errors import CheckpointError
from wsipipe.geometry import CellGrid
from wsipipe.models.segmentation import SegmentationModel, build_model
from wsipipe.pipeline.extract import extract_slide
from wsipipe.pipeline.predict import predict_bands, predict_slide, probability
from wsipipe.pipeline.suggestion_looks import map_beside
from wsipipe.slides import list_slides
from wsipipe.store.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from wsipipe.store.feature_map import FeatureMap

SMALL = {"network": {"width": 4, "depth": 2}, "predict": {"window": 64, "overlap": 16}}


class MemoryMap:
    """A map in memory, for predicting on."""

    def __init__(self, features, valid=None):
        self._features = features
        self._valid = np.ones(features.shape[:2], bool) if valid is None else valid
        self.grid = CellGrid(*features.shape[:2], 16.0)

    def read_stored(self, rows, cols):
        return self._features[rows, cols]

    def read_valid(self, rows, cols):
        return self._valid[rows, cols]


def model(recipe: Recipe, channels: int) -> SegmentationModel:
    torch.manual_seed(0)
    return build_model(channels, recipe).eval()


def checkpoint_for(tmp_path, recipe, channels, **facts):
    network = model(recipe, channels)
    path = tmp_path / "run" / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(network.state_dict(), recipe, {"in_channels": channels} | facts))
    return path.parent


def test_one_window_is_the_network_itself():
    recipe = parse_recipe(SMALL)
    features = np.random.default_rng(0).normal(size=(40, 50, 6)).astype(np.float32)
    network = model(recipe, 6)
    bands = list(predict_bands(network, MemoryMap(features), recipe))
    values = np.concatenate([band for band, _ in bands])
    np.testing.assert_allclose(values, probability(network, features), rtol=1e-5)


def test_four_views_are_the_mean_over_mirrored_windows():
    recipe = parse_recipe(SMALL | {"predict": {"views": 4}})
    features = np.random.default_rng(0).normal(size=(40, 52, 6)).astype(np.float32)
    network = model(recipe, 6)
    flips = [(), (1,), (0,), (0, 1)]
    single = [np.flip(probability(network, np.flip(features, axes).copy()), axes) for axes in flips]
    values = np.concatenate([band for band, _ in predict_bands(network, MemoryMap(features), recipe)])
    np.testing.assert_allclose(values, np.mean(single, axis=0), atol=1e-6)
    assert np.abs(values - single[0]).max() > 1e-3


def test_a_pointwise_network_shows_no_windows():
    """What does not depend on neighbours must not depend on the windows either."""

    class Pointwise(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x[:, :1] * self.weight, x

    features = np.random.default_rng(0).normal(size=(100, 70, 3)).astype(np.float32)
    recipe = parse_recipe({"predict": {"window": 32, "overlap": 8}})
    values = np.concatenate([band for band, _ in predict_bands(Pointwise(), MemoryMap(features), recipe)])
    np.testing.assert_allclose(values, 1 / (1 + np.exp(-features[..., 0])), rtol=1e-5)


def test_windows_without_tissue_never_reach_the_network():
    class Refuses(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

    nothing = MemoryMap(np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), bool))
    bands = list(predict_bands(Refuses(), nothing, parse_recipe({"predict": {"window": 32, "overlap": 8}})))
    assert sum(len(band) for band, _ in bands) == 64
    assert not any(band.any() or valid.any() for band, valid in bands)


@pytest.fixture
def recipe():
    return parse_recipe(
        SMALL | {"tile": {"mpp": 1.0}, "encoder": {"name": "filterbank", "kind": "dense", "stride_px": 8}}
    )


@pytest.fixture
def run(tmp_path, slide_path, recipe):
    """A run folder whose (untrained) model fits the slide's features, and the slide."""
    entry = list_slides([slide_path])[0]
    with FeatureMap.open(extract_slide(entry, tmp_path, recipe).outputs[0]) as features:
        info = features.info
    facts = {name: getattr(info, name) for name in ("encoder", "kind", "mpp", "stride_px", "weights_digest")}
    return checkpoint_for(tmp_path, recipe, info.dim, **facts), entry


def test_a_slide_is_predicted_and_recognised(tmp_path, run):
    folder, entry = run
    first = predict_slide(entry, model=folder, out=tmp_path)
    assert first.status == "done"
    assert all(path.is_file() for path in first.outputs)
    assert predict_slide(entry, model=folder, out=tmp_path).status == "skipped"
    assert predict_slide(entry, model=folder, out=tmp_path, threshold=0.3).status == "done"
    assert predict_slide(entry, model=folder, out=tmp_path, threshold=0.3, force=True).status == "done"
    report = json.loads((tmp_path / "masks" / "tissue.report.json").read_text())
    assert report["threshold"] == 0.3
    (features,) = (tmp_path / "features").rglob("tissue.h5")
    assert map_beside(tmp_path / "masks" / "tissue.probability.tif", "tissue", report) == features
    mask = tifffile.imread(tmp_path / "masks" / "tissue.mask.tif") > 0
    np.testing.assert_array_equal(mask, tifffile.imread(tmp_path / "masks" / "tissue.probability.tif") >= 0.3 * 255)


def test_features_are_extracted_where_missing(tmp_path, run):
    folder, entry = run
    elsewhere = tmp_path / "elsewhere"
    assert predict_slide(entry, model=folder, out=elsewhere).status == "done"
    assert list((elsewhere / "features").rglob("tissue.h5"))
    a, b = (predict_slide(entry, model=folder, out=o, force=True).outputs[2] for o in (tmp_path, elsewhere))
    np.testing.assert_array_equal(tifffile.imread(a), tifffile.imread(b))


@pytest.mark.parametrize(
    ("fact", "value", "told"),
    [
        ("mpp", 0.25, "mpp 0.25"),
        ("stride_px", 32, "32"),
        ("weights_digest", "x", "weights"),
        ("encoder", "resnet34", "resnet34"),
    ],
)
def test_a_model_of_other_features_is_refused(tmp_path, run, recipe, fact, value, told):
    _, entry = run
    with FeatureMap.open(extract_slide(entry, tmp_path, recipe).outputs[0]) as features:
        info = features.info
    facts = {name: getattr(info, name) for name in ("encoder", "kind", "mpp", "stride_px", "weights_digest")}
    other = checkpoint_for(tmp_path / "other", recipe, info.dim, **facts | {fact: value})
    with pytest.raises(CheckpointError, match=told):
        predict_slide(entry, model=other, out=tmp_path)
    assert not (tmp_path / "masks").exists()


def test_a_refined_slide_has_a_shorter_border(tmp_path, run):
    folder, entry = run
    checkpoint = load_checkpoint(folder / "checkpoint.safetensors")
    refined = Checkpoint(
        checkpoint.tensors, updated(checkpoint.recipe, {"predict": {"refine": True}}), checkpoint.provenance
    )
    save_checkpoint(tmp_path / "refined" / "checkpoint.safetensors", refined)
    borders = []
    for model in (folder, tmp_path / "refined"):
        outcome = predict_slide(entry, model=model, out=tmp_path)
        assert outcome.status == "done"
        mask = tifffile.imread(outcome.outputs[0]) > 0
        borders.append(int((mask[:, 1:] != mask[:, :-1]).sum() + (mask[1:] != mask[:-1]).sum()))
    assert 0 < borders[1] < borders[0]


def test_an_image_goes_to_the_network_as_it_is(tmp_path, slide_path):
    recipe = parse_recipe(SMALL | {"tile": {"mpp": 2.0}, "encoder": {"name": "none"}})
    folder = checkpoint_for(tmp_path, recipe, 3)
    outcome = predict_slide(list_slides([slide_path])[0], model=folder, out=tmp_path)
    raster = tifffile.imread(outcome.outputs[2])
    assert raster.shape == (384, 512)
    assert raster.std() > 0


def test_what_is_no_checkpoint_is_refused(tmp_path, slide_path):
    with pytest.raises(CheckpointError, match="checkpoint"):
        predict_slide(list_slides([slide_path])[0], model=slide_path, out=tmp_path)


def test_features_as_stored_give_the_same_to_the_last_bit():
    recipe = parse_recipe(SMALL)
    network = model(recipe, 16)
    stored = np.random.default_rng(3).normal(size=(70, 33, 16)).astype(np.float16)
    stored[10:20] = 0
    np.testing.assert_array_equal(probability(network, stored), probability(network, stored.astype(np.float32)))
