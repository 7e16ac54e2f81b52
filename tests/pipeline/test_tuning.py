"""Tuning the encoder along with the network: on pixels, through a run that may be interrupted, to a mask."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch

from wsipipe.annotations.masks import read_mask
from wsipipe.config import Recipe, parse_recipe, updated
from wsipipe.errors import CheckpointError, ConfigError
from wsipipe.models.encoders import build_encoder
from wsipipe.models.map_pieces import arranged
from wsipipe.models.methods.base import Method
from wsipipe.models.tuned_encoder import encoder_digest, restore_encoder, trainable_encoder
from wsipipe.pipeline.batches import Loader
from wsipipe.pipeline.crossval_plan import Variant, make_plan
from wsipipe.pipeline.extract import feature_path
from wsipipe.pipeline.feature_plan import relevant_settings
from wsipipe.pipeline.manifest import read_manifest
from wsipipe.pipeline.point_predictions import predict_points
from wsipipe.pipeline.predict import predict_slide
from wsipipe.pipeline.preparation import Reading, prepare
from wsipipe.pipeline.samples import WindowCache, truth_of
from wsipipe.pipeline.train import train
from wsipipe.pipeline.trainer import Trainer, feature_statistics
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
WHOLE = PATCH | {"encoder": PATCH["encoder"] | {"tuned_stages": None}}
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


@pytest.fixture
def norms_held(monkeypatch):
    """No window holds enough patches for batch norms to normalise by: features are those of prediction."""
    monkeypatch.setattr("wsipipe.pipeline.tuning._FEWEST", 10**6)


def norms_of(module):
    return [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]


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


@pytest.mark.usefixtures("norms_held")
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


@pytest.mark.usefixtures("norms_held")
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


@pytest.mark.parametrize("settings", [PATCH, DENSE])
def test_gradients_through_batch_norms_are_those_of_ordinary_back_propagation(project, settings):
    recipe = updated(parse_recipe(settings), {"encoder": {"tuned_stages": 2}})
    (sample,) = prepared(project, recipe).train
    valid = WindowCache().get(sample).valid
    ours, plain = tuner(recipe), tuner(recipe)
    ours.encode(sample, valid).square().mean().backward()
    ours.backpropagate()
    stages = [part for part in plain._module.body if norms_of(part)]
    for norm in norms_of(torch.nn.ModuleList(stages[-2:])):
        norm.train()
    source = plain._source(sample, valid)
    total = valid.size * plain.encoder.dim
    for index in range(len(source)):
        piece = source[index]
        features = arranged(plain._module(piece.pixels), piece)
        rows, cols = (piece.corners[:, axis, None] + torch.arange(features.shape[2 + axis]) for axis in (0, 1))
        counted = features * torch.from_numpy(valid)[rows[:, :, None], cols[:, None, :]][:, None]
        (counted.square().sum() / total).backward()
    for (name, mine), theirs in zip(ours._module.named_parameters(), plain._module.parameters(), strict=True):
        if theirs.grad is not None:
            assert (mine.grad - theirs.grad).abs().max() <= 1e-4 * theirs.grad.abs().max() + 1e-9, name
    for (name, mine), theirs in zip(ours._module.named_buffers(), plain._module.buffers(), strict=True):
        assert torch.equal(mine, theirs), name  # running statistics are updated once
    assert any(int(norm.num_batches_tracked) == len(source) for norm in norms_of(ours._module))
    assert not any(part.training for part in ours._module.modules())


def test_norms_settle_on_what_the_windows_hold(project):
    recipe = parse_recipe(WHOLE)
    (sample,) = prepared(project, recipe).train
    valid, training = WindowCache().get(sample).valid, tuner(recipe)
    training.settle([(sample, valid)])
    seen = []
    norm = norms_of(training._module)[0]
    hook = norm.register_forward_hook(lambda _, __, out: seen.append(out.clone()))  # a ReLU follows in place
    training.look(sample, valid)
    hook.remove()
    channels = torch.cat([out.movedim(1, 3).flatten(0, 2) for out in seen])
    torch.testing.assert_close(channels.mean(dim=0), torch.zeros(64), rtol=0, atol=1e-2)
    torch.testing.assert_close(channels.std(dim=0), torch.ones(64), rtol=0.1, atol=0)


def test_encoders_of_other_libraries_are_tuned_the_same_way(project):
    """Batch norms of timm, too, are learnt with, settled, saved and restored."""
    settings = {"name": "timm:test_resnet", "kind": "patch", "weights": "none", "trainable": True, "tuned_stages": None}
    recipe = parse_recipe(PATCH | {"encoder": settings})
    data = prepared(project, recipe)
    (sample,) = data.train
    valid, training = WindowCache().get(sample).valid, tuner(recipe)
    training.encode(sample, valid).square().mean().backward()
    training.backpropagate()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in training.parameters)
    before = training.look(sample, valid)
    training.settle([(sample, valid)])
    settled = training.look(sample, valid)
    assert not torch.allclose(settled, before, rtol=0.1)
    facts = dict(data.facts) | {"weights_digest": training.digest}
    restored = restore_encoder(Checkpoint(training.tensors(), recipe, facts), device="cpu")
    piece = training._source(sample, valid)[0]
    at = tuple(piece.corners.T)
    torch.testing.assert_close(restored.encode(piece.pixels), settled.movedim(0, 2)[at], rtol=1e-4, atol=1e-4)


def test_windows_with_few_patches_leave_the_norms_alone(project):
    recipe = parse_recipe(PATCH)
    (sample,) = prepared(project, recipe).train
    valid, training = np.zeros(sample.shape, bool), tuner(recipe)
    valid[0, 0] = True
    before = {name: value.clone() for name, value in training.state().items()}
    training.settle([(sample, valid)])
    assert torch.equal(training.encode(sample, valid), training.look(sample, valid))
    assert all(torch.equal(value, before[name]) for name, value in training.state().items())


def test_features_keep_their_scale_while_all_stages_are_tuned_from_random_weights(project):
    """Without norms, features were hundreds of deviations away from what the network standardises by."""
    settings = {"encoder": {"rate_ratio": 1.0}, "training": {"method": "partial_ce"}}
    recipe = updated(parse_recipe(WHOLE), settings)
    trainer = Trainer(prepared(project, recipe), recipe, device=CPU, item="", report=silent)
    for _ in range(3):
        trainer.run_epoch()
    mean, deviation = feature_statistics(trainer.data.train, trainer.loader)
    assert ((mean - trainer.model.mean) / trainer.model.std).abs().median() < 1
    assert 0.3 < (deviation / trainer.model.std).median() < 3


def test_the_checkpoint_holds_the_tuned_encoder(finished):
    checkpoint = load_checkpoint(finished / "checkpoint.safetensors")
    encoder = restore_encoder(checkpoint, device="cpu")
    start = build_encoder(checkpoint.recipe.encoder)
    assert norms_of(start)
    changed = {
        name
        for name, before in start.state_dict().items()
        if not torch.equal(checkpoint.tensors[f"encoder.{name}"], before)
    }
    assert changed == {name for name in start.state_dict() if name.startswith("body.4.")}
    told = checkpoint.provenance
    start.load_state_dict({name: checkpoint.tensors[f"encoder.{name}"] for name in start.state_dict()})
    assert told["weights_digest"] == encoder.weights_digest == encoder_digest(start)
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


def test_a_restored_encoder_is_folded_and_gives_the_same(project, finished):
    checkpoint = load_checkpoint(finished / "checkpoint.safetensors")
    folded, plain = restore_encoder(checkpoint, device="cpu"), build_encoder(checkpoint.recipe.encoder)
    plain.load_state_dict({name: checkpoint.tensors[f"encoder.{name}"] for name in plain.state_dict()})
    assert norms_of(plain)
    assert not norms_of(folded)
    pixels = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = plain.encode(pixels)
    assert (folded.encode(pixels) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("kind", ["patch", "dense"])
def test_prediction_gives_the_mask_of_the_validation(project, kind):
    settings = {"encoder": {"kind": kind}, "predict": {"window": 64}}
    settings |= {"training": {"window": 64, "epochs": 1, "method": "partial_ce"}}
    recipe, run = updated(parse_recipe(WHOLE), settings), project / "runs" / f"same-{kind}"
    train(project / "manifest.csv", recipe, run, out=project, device="cpu")
    data = prepared(project, recipe)
    trainer = Trainer(data, recipe, device=CPU, item="", report=silent)
    trainer.load_state(load_state(run / "state.pt"))
    (sample,) = data.validation
    assert sample.shape == sample.source.grid.shape
    entry, out = SlideEntry("b", project / "b.svs", None), project / f"same-{kind}"
    cells = np.argwhere(trainer.loader.cache.get(sample).valid)
    logits = trainer.logits(sample).numpy()[tuple(cells.T)]
    xy = (cells[:, ::-1] + 0.5) * sample.source.grid.cell_px + sample.source.grid.origin
    told = predict_points(entry, xy, model=run, out=out, device="cpu")
    # Maps are stored in float16.
    np.testing.assert_allclose(told, 1 / (1 + np.exp(-logits)), rtol=0, atol=5e-3)
    written = predict_slide(entry, model=run, out=out, device="cpu").outputs[0]
    mask = truth_of(read_mask(written), sample.source, sample.rows, sample.cols)[tuple(cells.T)]
    assert mask.any()
    if kind == "patch":  # dense cells reach beyond the tissue, to which a mask is cut
        sure = np.abs(logits) > 0.02
        np.testing.assert_array_equal(mask[sure], logits[sure] > 0)


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
