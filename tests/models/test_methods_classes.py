"""Methods on several classes: one against the rest, joined to one target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wsipipe.config import CvmSettings, DirectVariationalSettings, parse_recipe
from wsipipe.errors import ConfigError
from wsipipe.models.losses_classes import class_cross_entropy, soft_class_cross_entropy, weighted_class_kl
from wsipipe.models.methods.base import Batch, Scene
from wsipipe.models.methods.direct_variational import DirectVariationalTeacher
from wsipipe.models.methods.registry import build_method
from wsipipe.models.methods.variational import ContrastMapTeacher, CvmTeacher
from wsipipe.models.segmentation import build_model, probabilities
from wsipipe.numerics.class_shares import class_shares
from wsipipe.numerics.variational import solve_cvm, variational_segmentation

CLASSES = ["Tumor", "Stroma", "Fat"]
NOWHERE = np.zeros((0, 2), np.int64)
POINTS = (((4, 3), (20, 6)), ((4, 15),), ((10, 28), (20, 30)))


class Plain(nn.Module):
    """Decoder features are the input, logits its channels times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.weight * x, x


def scene(points=POINTS, *, invalid_rows=0) -> Scene:
    """Three stripes of three kinds, with some noise."""
    features = 0.1 * np.random.default_rng(0).random((24, 36, 3), np.float32)
    for kind in range(3):
        features[:, 12 * kind : 12 * kind + 12, kind] += 1
    valid = np.ones((24, 36), bool)
    if invalid_rows:
        valid[-invalid_rows:] = False
    inputs = torch.from_numpy(features).permute(2, 0, 1)[None]
    classes = tuple(np.array(of, np.int64).reshape(-1, 2) for of in points)
    return Scene("a", inputs, valid, NOWHERE, NOWHERE, classes)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, 5, 6, generator=generator)
    labels, truth = (torch.randint(-1, 3, (2, 5, 6), generator=generator, dtype=torch.int8) for _ in range(2))
    target = torch.softmax(3 * torch.randn(2, 3, 5, 6, generator=generator), dim=1)
    chosen = torch.rand(2, 5, 6, generator=generator) > 0.4
    return Batch(inputs, labels, torch.ones_like(chosen), target, chosen, truth)


def recipe(method, **more):
    return parse_recipe({"training": {"method": method, "classes": CLASSES}, **more})


def test_each_class_sees_its_own_points_against_all_others():
    shown = list(scene().against_rest())
    assert [one.in_target.tolist() for one in shown] == [[list(cell) for cell in of] for of in POINTS]
    assert shown[1].out_of_target.tolist() == [[4, 3], [20, 6], [10, 28], [20, 30]]
    assert all(not one.classes and one.name == "a" for one in shown)


def test_cvm_target_is_the_share_of_each_class_segmented_against_the_rest():
    teacher, data = CvmTeacher(CvmSettings(prototype=1)), scene(invalid_rows=2)
    teacher.refresh(Plain(), [data])
    features = data.inputs[0].permute(1, 2, 0).numpy()
    u = [
        variational_segmentation(features, one.in_target, one.out_of_target, prototype=1, valid=data.valid).u
        for one in data.against_rest()
    ]
    target = teacher.target("a")
    np.testing.assert_allclose(target, class_shares(np.stack(u), data.valid), atol=1e-6)
    for kind in range(3):
        assert target[kind, :22, 12 * kind : 12 * kind + 12].min() > 0.9
    assert (target[:, ~data.valid] == 0).all()


def test_contrast_maps_alone_point_the_same_way():
    teacher, data = ContrastMapTeacher(CvmSettings()), scene()
    teacher.refresh(Plain(), [data])
    target = teacher.target("a")
    np.testing.assert_allclose(target.sum(axis=0), 1, rtol=1e-5)
    assert (target.argmax(axis=0) == np.arange(36) // 12).all()


def test_direct_variational_segments_the_probability_of_each_class():
    settings = DirectVariationalSettings()
    teacher, model, data = DirectVariationalTeacher(settings), Plain(), scene()
    teacher.refresh(model, [data])
    with torch.no_grad():
        z = probabilities(model(data.inputs)[0])[0].numpy()
    u = solve_cvm(z, lam_rel=settings.lam_rel, beta=settings.beta, tol=settings.tol, valid=data.valid).u
    np.testing.assert_allclose(teacher.target("a"), class_shares(u), atol=1e-6)
    assert (teacher.target("a").argmax(axis=0) == np.arange(36) // 12).all()


@pytest.mark.parametrize("teacher", [CvmTeacher, ContrastMapTeacher])
def test_windows_of_one_class_have_no_target_and_a_class_without_points_is_not_claimed(teacher):
    told = teacher(CvmSettings())
    told.refresh(Plain(), [scene((POINTS[0], (), ()))])
    assert told.target("a") is None
    told.refresh(Plain(), [scene((POINTS[0], POINTS[1], ()))])
    target = told.target("a")
    assert (target[2] <= target[:2].max(axis=0)).all()
    assert (target[:2].argmax(axis=0)[:, :24] == np.arange(24) // 12).all()


def test_targets_survive_an_interruption():
    teacher, other = CvmTeacher(CvmSettings()), CvmTeacher(CvmSettings())
    teacher.refresh(Plain(), [scene()])
    other.load_state(teacher.state())
    np.testing.assert_array_equal(other.target("a"), teacher.target("a"))


@pytest.mark.parametrize("method", ["cvm", "contrast_map", "direct_variational"])
def test_teachers_add_the_weighted_divergence_over_the_classes(method):
    data, model = batch(), Plain()
    losses = build_method(recipe(method)).loss(model, data)
    logits = model(data.inputs)[0]
    torch.testing.assert_close(losses.points, class_cross_entropy(logits, data.labels))
    torch.testing.assert_close(losses.second, weighted_class_kl(logits, data.target, data.target_valid))


def test_hard_labels_are_the_classes_with_more_than_half():
    data, model = batch(), Plain()
    losses = CvmTeacher(CvmSettings(hard_labels=True)).loss(model, data)
    hard = (data.target > 0.5).float()
    assert 0 < hard.sum() < data.target_valid.numel()
    expected = soft_class_cross_entropy(model(data.inputs)[0], hard, data.target_valid)
    torch.testing.assert_close(losses.second, expected)


@pytest.mark.parametrize(("method", "learnt"), [("partial_ce", "labels"), ("full", "truth")])
def test_points_and_masks_are_learnt_by_the_cross_entropy_over_the_classes(method, learnt):
    data, model = batch(), Plain()
    losses = build_method(recipe(method)).loss(model, data)
    torch.testing.assert_close(losses.points, class_cross_entropy(model(data.inputs)[0], getattr(data, learnt)))
    assert losses.second.item() == 0


@pytest.mark.parametrize("method", ["mixmatch", "mean_teacher", "crf", "dual_branch", "cosine", "cvm_plus"])
def test_other_methods_refuse_and_name_those_that_can(method):
    with pytest.raises(ConfigError, match=rf"{method} learns target and rest alone.*partial_ce, full, .*, cvm"):
        recipe(method)


def test_what_is_of_two_classes_by_its_nature_is_refused():
    with pytest.raises(ConfigError, match="direct_variational as an energy learns target and rest alone"):
        recipe("direct_variational", direct_variational={"form": "energy"})
    with pytest.raises(ConfigError, match=r"predict\.refine segments target from rest"):
        recipe("cvm", predict={"refine": True})


def test_the_network_has_a_logit_for_each_class_and_one_without_classes():
    torch.manual_seed(0)
    several = build_model(3, recipe("cvm", network={"width": 4, "depth": 1}))
    one = build_model(3, parse_recipe({"network": {"width": 4, "depth": 1}}))
    x = torch.rand(2, 3, 9, 11)
    assert several(x)[0].shape == (2, 3, 9, 11)
    assert one(x)[0].shape == (2, 1, 9, 11)
    torch.testing.assert_close(probabilities(several(x)[0]).sum(dim=1), torch.ones(2, 9, 11))
    torch.testing.assert_close(probabilities(one(x)[0]), torch.sigmoid(one(x)[0]))
