from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsipipe.config import CvmSettings, Recipe
from wsipipe.models.losses import partial_cross_entropy, weighted_kl
from wsipipe.models.methods.base import Batch, Scene
from wsipipe.models.methods.registry import build_method
from wsipipe.models.methods.variational import ContrastMapTeacher, CvmTeacher
from wsipipe.numerics.contrast import contrast_map
from wsipipe.numerics.variational import variational_segmentation


class Plain(nn.Module):
    """Decoder features are the input, logits its first channel."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * x[:, :1], x


def scene(*, in_target=((4, 4),), out_of_target=((4, 20),), invalid_rows=0) -> Scene:
    """Left half of one kind, right half of another, with some noise."""
    rng = np.random.default_rng(0)
    features = 0.1 * rng.random((24, 32, 3), np.float32)
    features[:, :14, 0] += 1
    features[:, 14:, 1] += 1
    valid = np.ones((24, 32), bool)
    if invalid_rows:
        valid[-invalid_rows:] = False
    inputs = torch.from_numpy(features).permute(2, 0, 1)[None]
    points = (np.array(item, np.int64).reshape(-1, 2) for item in (in_target, out_of_target))
    return Scene("a", inputs, valid, *points)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, 5, 6, generator=generator)
    labels = torch.randint(-1, 2, (2, 5, 6), generator=generator, dtype=torch.int8)
    target = torch.rand(2, 5, 6, generator=generator)
    target_valid = torch.rand(2, 5, 6, generator=generator) > 0.4
    truth = torch.randint(-1, 2, (2, 5, 6), generator=generator, dtype=torch.int8)
    return Batch(inputs, labels, torch.ones_like(target_valid), target, target_valid, truth)


def named(method: str):
    recipe = Recipe()
    training = recipe.training.model_copy(update={"method": method})
    return build_method(recipe.model_copy(update={"training": training}))


def test_partial_ce_learns_from_points_alone():
    data, method = batch(), named("partial_ce")
    losses = method.loss(Plain(), data)
    torch.testing.assert_close(losses.points, partial_cross_entropy(data.inputs[:, :1], data.labels))
    assert losses.second.item() == 0
    assert not method.has_teacher
    assert method.target("a") is None


def test_full_learns_from_every_cell_of_the_mask():
    data, method = batch(), named("full")
    losses = method.loss(Plain(), data)
    torch.testing.assert_close(losses.points, partial_cross_entropy(data.inputs[:, :1], data.truth))
    assert losses.second.item() == 0
    assert method.needs_masks


@pytest.mark.parametrize("method", ["cvm", "contrast_map"])
def test_teachers_add_the_weighted_divergence(method):
    data = batch()
    losses = named(method).loss(Plain(), data)
    torch.testing.assert_close(losses.points, partial_cross_entropy(data.inputs[:, :1], data.labels))
    torch.testing.assert_close(losses.second, weighted_kl(data.inputs[:, :1], data.target, data.target_valid))


@pytest.mark.parametrize("teacher", [CvmTeacher, ContrastMapTeacher])
def test_hard_labels_are_u_cut_at_a_half_and_not_weighted(teacher):
    data = batch()
    losses = teacher(CvmSettings(hard_labels=True)).loss(Plain(), data)
    torch.testing.assert_close(losses.points, partial_cross_entropy(data.inputs[:, :1], data.labels))
    labels = torch.where(data.target_valid, (data.target > 0.5).to(torch.int8), -1)
    torch.testing.assert_close(losses.second, partial_cross_entropy(data.inputs[:, :1], labels))


def test_cvm_target_is_the_variational_segmentation_of_the_decoder_features():
    teacher, data = CvmTeacher(CvmSettings(eta=0.5, prototype=1, lam_rel=2.0)), scene()
    teacher.refresh(Plain(), [data])
    features = data.inputs[0].permute(1, 2, 0).numpy()
    expected = variational_segmentation(
        features, data.in_target, data.out_of_target, eta=0.5, prototype=1, lam_rel=2.0, valid=data.valid
    )
    np.testing.assert_allclose(teacher.target("a"), expected.u)
    assert teacher.target("a")[:, :14].min() > 0.9
    assert teacher.target("a")[:, 14:].max() < 0.1


def test_contrast_target_is_the_stretched_mean_map():
    teacher = ContrastMapTeacher(CvmSettings())
    data = scene(in_target=((4, 4), (20, 2)), invalid_rows=3)
    teacher.refresh(Plain(), [data])
    features = data.inputs[0].permute(1, 2, 0).numpy()
    mean = contrast_map(features, data.in_target, data.out_of_target, valid=data.valid).mean(axis=0)
    u = teacher.target("a")
    assert (u[~data.valid] == 0).all()
    assert (u[data.valid].min(), u[data.valid].max()) == (0, 1)
    assert np.corrcoef(u[data.valid], mean[data.valid])[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("lacking", [{"in_target": ()}, {"out_of_target": ()}])
def test_windows_of_one_class_have_no_target(lacking):
    teacher = CvmTeacher(CvmSettings())
    teacher.refresh(Plain(), [scene(**lacking)])
    assert teacher.target("a") is None


@pytest.mark.parametrize("teacher", [CvmTeacher(CvmSettings()), ContrastMapTeacher(CvmSettings())])
def test_features_that_tell_nothing_give_no_target(teacher):
    data = scene()
    data.inputs[:] = 0.0  # every channel off, as may happen early in training; must not warn either
    teacher.refresh(Plain(), [data])
    assert teacher.target("a") is None


def test_refresh_forgets_what_was_said_before():
    teacher = CvmTeacher(CvmSettings())
    teacher.refresh(Plain(), [scene()])
    assert teacher.target("a") is not None
    teacher.refresh(Plain(), [])
    assert teacher.target("a") is None


def test_state_carries_targets_over():
    teacher, again = CvmTeacher(CvmSettings()), CvmTeacher(CvmSettings())
    teacher.refresh(Plain(), [scene()])
    again.load_state(teacher.state())
    np.testing.assert_array_equal(again.target("a"), teacher.target("a"))
    assert again.target("b") is None
