"""Tuning the encoder along with the network: on pixels, through a run that may be interrupted, to a mask."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch

from wsipipe.config import Recipe, parse_recipe, updated
from wsipipe.errors import CheckpointError, ConfigError
from wsipipe.models.encoders import build_encoder
from wsipipe.models.methods.base import Method
from wsipipe.models.tuned_encoder import encoder_digest, restore_encoder, trainable_encoder
from wsipipe.pipeline.batches import Loader
from wsipipe.pipeline.crossval_plan import Variant, make_plan
from wsipipe.pipeline.extract import feature_path
from wsipipe.pipeline.feature_plan import relevant_settings
from wsipipe.pipeline.manifest import read_manifest
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.preparation import Reading, prepare
from wsipipe.pipeline.samples import WindowCache
from wsipipe.pipeline.train import train
from wsipipe.pipeline.training_state import trained_settings
from wsipipe.pipeline.tuning import EncoderTuner
from wsipipe.progress import silent
from wsipipe.slides import SlideEntry
from wsipipe.store.checkpoint import Checkpoint, load_checkpoint, load_state
from wsipipe.store.feature_map import FeatureMap

CPU = torch.device("cpu")
PATCH = {
    "tile": {"mpp": 4.0, "patch_size_px": 32},
    "encoder": {"name": "resnet18", "kind": "patch", "weights": "none", "trainable": True},
    "network": {"width": 4, "depth": 1},
    "training": {"epochs": 3, "learning_rate": 0.003, "window": 16, "method": "cvm", "previews": 0, "batch_size": 2},
    "predict": {"window": 16, "overlap": 4},
}
DENSE = PATCH | {"encoder": PATCH["encoder"] | {"kind": "dense", "stride_px": 16}}
POINTS = ["300,300,Tumor", "600,400,Tumor", "500,200,Stroma", "800,500,Stroma"]


@pytest.fixture(scope="module")
def project(slide_path, tmp_path_factory):
    """Two slides, one to validate on; feature maps gather beside them."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("a", "b"):
        shutil.copy(slide_path, folder / f"{name}.svs")
        (folder / f"{name}.csv").write_text("\n".join(["x,y,label", *POINTS]))
    (folder / "manifest.csv").write_text("slide,points,split\na.svs,a.csv,train\nb.svs,b.csv,val")
    return folder


def prepared(project, recipe):
    rows = read_manifest(project / "manifest.csv")
    return prepare(rows, recipe, out=project, reading=Reading(device="cpu"), report=silent)


def go(project, run, *, report=silent, **training):
    recipe = updated(parse_recipe(PATCH), {"training": training})
    return train(project / "manifest.csv", recipe, project / run, out=project, device="cpu", report=report)


@pytest.fixture(scope="module")
def finished(project):
    go(project, "runs/whole")
    return project / "runs" / "whole"


def tuner(recipe):
    return EncoderTuner(recipe, device=CPU, half=False)


@pytest.mark.parametrize("settings", [PATCH, DENSE])
def test_windows_made_from_pixels_are_those_of_the_stored_map(project, settings, monkeypatch):
    monkeypatch.setattr("wsipipe.pipeline.tuning._CORE_PX", 128)
    recipe = updated(parse_recipe(settings), {"training": {"window": 20}})
    (sample,) = prepared(project, recipe).train
    data = WindowCache().get(sample)
    valid = data.valid.copy()
    valid[: len(valid) // 2, 3:6] = False
    made = tuner(recipe).look(sample, valid)
    assert valid.any()
    assert not made[:, ~valid].any()
    stored = data.inputs() * valid
    # Maps are stored in float16.
    np.testing.assert_allclose(made.numpy(), stored, rtol=1e-3, atol=1e-4 * np.abs(stored).max())


def test_batches_are_those_of_the_stored_map_turned_alike(project):
    recipe = parse_recipe(PATCH)
    data = prepared(project, recipe)
    samples = [*data.train, *data.validation]
    plain, tuned = (Loader(WindowCache(), CPU, recipe.training, some) for some in (None, tuner(recipe)))
    for seed in range(4):
        one, other = (loader.batch(samples, Method(), np.random.default_rng(seed)) for loader in (plain, tuned))
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.inputs, other.inputs.detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(plain.scene(samples[0]).inputs, tuned.scene(samples[0]).inputs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("stages", "tuned"), [(1, ("body.4",)), (2, ("body.3", "body.4")), (None, ("body",))])
def test_gradients_of_a_batch_reach_the_stages_that_are_tuned(project, stages, tuned):
    settings = PATCH | {"encoder": PATCH["encoder"] | {"tuned_stages": stages}}
    recipe = parse_recipe(settings)
    samples, training = prepared(project, recipe).train, tuner(recipe)
    batch = Loader(WindowCache(), CPU, recipe.training, training).batch(samples, Method(), np.random.default_rng(0))
    batch.inputs.square().mean().backward()
    training.backpropagate()
    for name, parameter in training._module.named_parameters():
        wanted = name.startswith(tuned)
        assert parameter.requires_grad == wanted
        assert (parameter.grad is not None and bool(parameter.grad.any())) == wanted, name


def test_mixed_precision_is_close_and_gives_gradients(project):
    recipe = parse_recipe(PATCH)
    (sample,) = prepared(project, recipe).train
    valid = WindowCache().get(sample).valid
    half = EncoderTuner(recipe, device=CPU, half=True)
    rough, exact = half.encode(sample, valid), half.look(sample, valid)
    assert rough.dtype == exact.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 1e-2 * exact.abs().max()
    rough.square().mean().backward()
    half.backpropagate()
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.any() for parameter in half.parameters)


def test_the_checkpoint_holds_the_tuned_encoder(finished):
    checkpoint = load_checkpoint(finished / "checkpoint.safetensors")
    encoder = restore_encoder(checkpoint, device="cpu")
    start = build_encoder(checkpoint.recipe.encoder)
    changed = {
        name
        for (name, now), before in zip(encoder.state_dict().items(), start.state_dict().values(), strict=True)
        if not torch.equal(now, before)
    }
    assert changed == {name for name in start.state_dict() if name.startswith("body.4.")}
    told = checkpoint.provenance
    assert told["weights_digest"] == encoder.weights_digest == encoder_digest(encoder)
    assert told["weights_digest"].startswith("tuned-")
    assert told["tuned_from"] == start.weights_digest


def test_prediction_extracts_with_the_tuned_encoder(project, finished):
    entry = SlideEntry("a", project / "a.svs", None)
    outcome = predict_slide(entry, model=finished, out=project, device="cpu")
    assert outcome.status == "done"
    checkpoint = load_checkpoint(finished / "checkpoint.safetensors")
    digest = checkpoint.provenance["weights_digest"]
    untuned = feature_path(project, checkpoint.recipe, "a")
    tuned = feature_path(project, updated(checkpoint.recipe, {"encoder": {"weights": digest}}), "a")
    assert tuned.parent != untuned.parent
    with FeatureMap.open(tuned) as ours, FeatureMap.open(untuned) as theirs:
        assert ours.info.weights_digest == digest
        whole = slice(0, ours.grid.rows), slice(0, ours.grid.cols)
        assert not np.allclose(ours.read(*whole), theirs.read(*whole), rtol=1e-2)
    assert predict_slide(entry, model=finished, out=project, device="cpu").status == "skipped"


def test_weights_that_the_tuning_began_with_need_not_be_at_hand(finished):
    checkpoint = load_checkpoint(finished / "checkpoint.safetensors")
    moved = updated(checkpoint.recipe, {"encoder": {"weights": "/nowhere/weights.pt"}})
    encoder = restore_encoder(Checkpoint(checkpoint.tensors, moved, checkpoint.provenance), device="cpu")
    assert encoder.weights_digest == checkpoint.provenance["weights_digest"]


def test_an_interrupted_run_ends_like_one_that_was_not(project, finished):
    def stop(progress):
        if progress.stage == "train" and progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(project, "runs/parts", report=stop)
    go(project, "runs/parts")
    parts = project / "runs" / "parts"
    assert (parts / "checkpoint.safetensors").read_bytes() == (finished / "checkpoint.safetensors").read_bytes()
    ours, theirs = (load_state(run / "state.pt") for run in (parts, finished))
    assert all(torch.equal(value, theirs["encoder"][name]) for name, value in ours["encoder"].items())
    assert ours["memory"]["best_pce"] == theirs["memory"]["best_pce"]


def test_tuning_learns_more_than_the_network_alone(project, finished):
    fixed = updated(parse_recipe(PATCH), {"encoder": {"trainable": False}})
    train(project / "manifest.csv", fixed, project / "runs" / "fixed", out=project, device="cpu")
    losses = []
    for run in (finished, project / "runs" / "fixed"):
        with (run / "metrics.csv").open() as file:
            losses.append(float(list(csv.DictReader(file))[-1]["loss_points"]))
    assert losses[0] < losses[1]


@pytest.mark.parametrize("method", ["mixmatch", "mean_teacher"])
def test_other_methods_tune_too(project, method):
    result = go(project, f"runs/{method}", method=method, epochs=1)
    tensors = load_checkpoint(result.run / "checkpoint.safetensors").tensors
    start = build_encoder(parse_recipe(PATCH).encoder).state_dict()
    assert any(not torch.equal(value, tensors[f"encoder.{name}"]) for name, value in start.items())


@pytest.mark.parametrize("name", ["none", "filterbank"])
def test_what_has_no_weights_cannot_be_tuned(name):
    with pytest.raises(ConfigError, match=f"'{name}' has no weights that could be tuned"):
        parse_recipe({"encoder": {"name": name, "kind": "dense", "trainable": True}})


def test_more_stages_than_there_are_are_refused():
    settings = Recipe().encoder.model_copy(update={"weights": "none", "name": "resnet18", "tuned_stages": 6})
    with pytest.raises(ConfigError, match="tuned_stages is 6, resnet18 has 5 stages"):
        trainable_encoder(settings, device="cpu")


def test_tuned_weights_that_do_not_fit_are_refused(finished):
    checkpoint = load_checkpoint(finished / "checkpoint.safetensors")
    tensors = {name: value for name, value in checkpoint.tensors.items() if name != "encoder.body.4.0.conv1.weight"}
    with pytest.raises(CheckpointError, match="tuned weights do not fit the encoder resnet18"):
        restore_encoder(Checkpoint(tensors, checkpoint.recipe, checkpoint.provenance), device="cpu")


def test_a_comparison_refuses_an_encoder_that_changes(project):
    variant = Variant("tuned", {"encoder": {"trainable": True}})
    fixed = updated(parse_recipe(PATCH), {"encoder": {"trainable": False}})
    for recipe, variants in ((parse_recipe(PATCH), []), (fixed, [variant])):
        options = {"folds": 2, "out": project, "reading": Reading(), "force": False, "report": silent}
        with pytest.raises(ConfigError, match="needs an encoder that stays the same"):
            make_plan([], recipe, project / "runs" / "compared", variants, **options)


def test_a_run_begun_before_encoders_could_be_tuned_goes_on():
    fixed = updated(parse_recipe(PATCH), {"encoder": {"trainable": False}})
    assert not {"encoder.trainable", "encoder.tuned_stages"} & trained_settings(fixed).keys()
    assert trained_settings(parse_recipe(PATCH))["encoder.tuned_stages"] == 1


def test_maps_of_the_same_weights_are_shared_whether_tuned_on_or_not():
    fixed, tuned = parse_recipe(PATCH | {"encoder": PATCH["encoder"] | {"trainable": False}}), parse_recipe(PATCH)
    assert relevant_settings(fixed) == relevant_settings(tuned)
