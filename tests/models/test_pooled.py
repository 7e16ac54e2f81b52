"""The method `cvm_plus`, and the contrast that goes with its model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsipipe.config import CvmPlusSettings, NetworkSettings
from wsipipe.models.filterbank import FilterBank
from wsipipe.models.losses import soft_cross_entropy
from wsipipe.models.methods.base import Batch, Scene
from wsipipe.models.methods.pooled import PooledCvmTeacher
from wsipipe.models.pooled_prior import PooledPrior, enlarged, prior_of, seen
from wsipipe.models.segmentation import SegmentationModel
from wsipipe.numerics.pooled_contrast import Moments, PooledContrast, Prototypes
from wsipipe.numerics.variational import solve_cvm


def scene(name: str, *, seed: int, points: bool = True) -> Scene:
    """Left half of one kind of features, right half of another."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.3, size=(20, 26, 6)).astype(np.float32)
    features[:, :13, :2] += 2
    features[:, 13:, 2:4] += 2
    inputs = torch.from_numpy(features).permute(2, 0, 1)[None]
    inside, outside = ([[4, 3]], [[10, 20]]) if points else ([], [])
    cells = (np.array(item, np.int64).reshape(-1, 2) for item in (inside, outside))
    return Scene(name, inputs, np.ones((20, 26), bool), *cells)


def picture(name: str) -> Scene:
    """Purple dots on the left half of a pink image, 31 x 45 px: no multiple of the stride."""
    rng = np.random.default_rng(0)
    rgb = np.broadcast_to(np.array([0.9, 0.6, 0.75], np.float32), (31, 45, 3)).copy()
    dots = rng.random((31, 22)) < 0.4
    rgb[:, :22][dots] = (0.35, 0.2, 0.6)
    inputs = torch.from_numpy(rgb).permute(2, 0, 1)[None]
    return Scene(name, inputs, np.ones((31, 45), bool), np.array([[15, 8]]), np.array([[15, 38]]))


def network(*, images: bool = False) -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel(3 if images else 6, NetworkSettings(width=4, depth=1), empty_cells=not images).eval()


def test_a_window_without_points_is_judged_by_those_of_others():
    teacher, model = PooledCvmTeacher(CvmPlusSettings()), network()
    teacher.prepare(model, [scene("a", seed=0), scene("b", seed=1, points=False)])
    target = teacher.target("b")
    assert target[:, :12].min() > 0.5 > target[:, 14:].max()


def test_target_is_eq_6_on_the_logistic_of_the_contrast_and_a_share_of_that():
    settings = CvmPlusSettings(soft=0.25, gain=2.0, own=3.0, reach=0.7, noise=0.1, prototype=1)
    teacher, scenes = PooledCvmTeacher(settings), [scene("a", seed=0), scene("b", seed=1)]
    teacher.prepare(network(), scenes)
    moments = Moments()
    features = [item.inputs[0].permute(1, 2, 0).numpy() for item in scenes]
    for values in features:
        moments.add(values.reshape(-1, 6))
    standard = moments.standard()
    vectors = np.concatenate([standard.apply(values[[4, 10], [3, 20]]) for values in features])
    points = Prototypes(vectors, np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1]))
    contrast = PooledContrast(points, reach=0.7, noise=0.1, own=3.0).of(standard.apply(features[1]), group=1)
    z = (1 / (1 + np.exp(-2.0 * contrast))).astype(np.float32)
    u = solve_cvm(z[None], lam_rel=settings.lam_rel, beta=settings.beta, tol=settings.tol).u[0]
    np.testing.assert_allclose(teacher.target("b"), 0.25 * z + 0.75 * u, atol=1e-5)


def test_it_learns_from_the_first_step_on_by_cross_entropy_to_the_soft_target():
    teacher, model = PooledCvmTeacher(CvmPlusSettings()), network()
    assert teacher.ready_at_once
    data = scene("a", seed=0)
    teacher.prepare(model, [data])
    target, valid = torch.from_numpy(teacher.target("a"))[None], torch.ones(1, 20, 26, dtype=torch.bool)
    batch = Batch(data.inputs, torch.full((1, 20, 26), -1), valid, target, valid, torch.full((1, 20, 26), -1))
    model.train()
    losses = teacher.loss(model, batch)
    # In training the network stands alone: the contrast must not take its work away.
    logits, _ = model.decode(model.encode(data.inputs), (20, 26))
    torch.testing.assert_close(losses.second, soft_cross_entropy(logits, target, valid))


def test_state_carries_targets_over():
    teacher, again = PooledCvmTeacher(CvmPlusSettings()), PooledCvmTeacher(CvmPlusSettings())
    teacher.prepare(network(), [scene("a", seed=0)])
    again.load_state(teacher.state())
    np.testing.assert_array_equal(again.target("a"), teacher.target("a"))


def test_images_are_seen_by_the_filter_bank_at_their_own_size():
    teacher, model = PooledCvmTeacher(CvmPlusSettings(stride=2)), network(images=True)
    data = picture("a")
    teacher.prepare(model, [data])
    target = teacher.target("a")
    assert target.shape == (31, 45)
    assert target[:, :18].mean() > 0.7 > 0.3 > target[:, 26:].mean()
    assert model.prior(data.inputs).shape == (1, 1, 31, 45)


@pytest.mark.parametrize("images", [False, True])
def test_prior_is_the_pooled_contrast_of_the_same_cells(images, monkeypatch):
    monkeypatch.setattr("wsipipe.models.pooled_prior.BAND", 100)
    data = picture("a") if images else scene("a", seed=0)
    stride = 2 if images else 0
    features = seen(data.inputs, stride)
    cells = features[0].permute(1, 2, 0).numpy()
    moments = Moments()
    moments.add(cells.reshape(-1, cells.shape[2]))
    standard = moments.standard()
    points = Prototypes(standard.apply(cells[[2, 5], [1, 12]]), np.array([1, 0]), np.zeros(2, np.int64))
    contrast = PooledContrast(points, reach=1.0, noise=0.2, own=1.0)
    prior = PooledPrior.of(contrast, standard, gain=1.5, stride=stride, student=0.2)
    expected = torch.from_numpy(1.5 * contrast.of(standard.apply(cells)))[None, None]
    torch.testing.assert_close(prior(data.inputs), enlarged(expected, stride, data.valid.shape), atol=1e-5, rtol=0)


def test_filter_bank_sees_whole_cells_of_the_image_and_its_repeated_edge():
    data = picture("a")
    pixels = (data.inputs[0].permute(1, 2, 0) * 255).round().to(torch.uint8)
    grown = torch.cat([pixels, pixels[-1:]])
    grown = torch.cat([grown, grown[:, -1:]], dim=1)
    torch.testing.assert_close(seen(data.inputs, 2), FilterBank(2).encode(grown[None]), rtol=0, atol=0)


def test_prior_counts_in_evaluation_alone_and_travels_with_the_weights():
    teacher, model, data = PooledCvmTeacher(CvmPlusSettings(student=0.2)), network(), scene("a", seed=0)
    alone = model(data.inputs)[0].detach()
    teacher.prepare(model, [data])
    torch.testing.assert_close(model(data.inputs)[0].detach(), 0.2 * alone + model.prior(data.inputs))
    other = network()
    other.load(model.state_dict())
    torch.testing.assert_close(other(data.inputs)[0], model(data.inputs)[0])
    model.train()
    torch.testing.assert_close(model(data.inputs)[0].detach(), alone)


def test_weights_without_a_prior_leave_none():
    model = network()
    PooledCvmTeacher(CvmPlusSettings()).prepare(model, [scene("a", seed=0)])
    model.load(network().state_dict())
    assert model.prior is None
    assert prior_of({"vectors": torch.zeros(3)}, "") is None
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.load(model.state_dict() | {"prior.vectors": torch.zeros(3, 9), "prior.weights": torch.zeros(2)})
