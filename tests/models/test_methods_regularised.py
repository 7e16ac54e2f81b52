from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wsipipe.config import EncoderSettings, MethodName, NetworkSettings, Recipe, updated
from wsipipe.models.losses import dice_loss, partial_cross_entropy, squared_error
from wsipipe.models.losses_potts import potts_energy
from wsipipe.models.losses_variational import variational_energy
from wsipipe.models.methods.base import Batch, Scene
from wsipipe.models.methods.cosine import pseudo_labels
from wsipipe.models.methods.direct_variational import DirectVariationalTeacher
from wsipipe.models.methods.dual_branch import mixed_label
from wsipipe.models.methods.guide import guide_image
from wsipipe.models.methods.mixmatch import Examples, mix, sharpened
from wsipipe.models.methods.ramps import linear_rampup, sigmoid_rampup
from wsipipe.models.methods.registry import build_method
from wsipipe.models.methods.views import View, draw_rotation, draw_view
from wsipipe.models.segmentation import build_model
from wsipipe.numerics.variational import solve_cvm

METHODS: tuple[MethodName, ...] = ("mixmatch", "mean_teacher", "crf", "dual_branch", "cosine", "direct_variational")
NETWORK = NetworkSettings(width=4, depth=1)
IMAGES = Recipe(network=NETWORK, encoder=EncoderSettings(name="none"))
MAPS = Recipe(network=NETWORK)


def recipe_of(method: str, base: Recipe = IMAGES, **settings) -> Recipe:
    return updated(base, {"training": {"method": method}, **({method: settings} if settings else {})})


def started(method: str, base: Recipe = IMAGES, channels: int = 3, **settings):
    """A method with its network, both as the trainer begins with them."""
    torch.manual_seed(0)
    recipe = recipe_of(method, base, **settings)
    model, learner = build_model(channels, recipe), build_method(recipe)
    model.set_statistics(torch.full((channels,), 0.4), torch.full((channels,), 0.3))
    beside = list(learner.attach(model))
    return learner, model, beside


def batch(channels: int = 3, count: int = 2, size: tuple[int, int] = (9, 12), *, empty: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(count, channels, *size, generator=generator)
    labels = torch.full((count, *size), -1, dtype=torch.int8)
    labels[:, 1, 2], labels[:, 6, 7], labels[0, 3, 3] = 1, 0, 1
    valid = torch.ones(count, *size, dtype=torch.bool)
    if empty:
        valid[:, -3:] = False
        inputs = inputs * valid[:, None]
        labels[~valid] = -1
    none = torch.zeros(count, *size)
    return Batch(inputs, labels, valid, none, none > 0, torch.full_like(labels, -1), progress=0.5)


def trained(learner, model, beside, data: Batch, steps: int = 2) -> list[float]:
    optimizer = torch.optim.Adam([*model.parameters(), *beside], lr=0.01)
    model.train()
    told = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses = learner.loss(model, data)
        (losses.points + losses.second).backward()
        optimizer.step()
        learner.after_step(model)
        told += [losses.points.item(), losses.second.item()]
    return told


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("base", "channels"), [(IMAGES, 3), (MAPS, 6)])
def test_learns_from_images_and_from_maps_with_empty_cells(method, base, channels):
    learner, model, beside = started(method, base, channels)
    data = batch(channels, empty=not base.encoder.uses_images)
    told = trained(learner, model, beside, data)
    assert np.isfinite(told).all()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    assert all(weight.grad.abs().sum() > 0 for weight in beside)


@pytest.mark.parametrize("method", ["crf", "dual_branch", "cosine", "direct_variational"])
def test_what_is_said_of_cells_that_do_not_count_does_not_matter(method, monkeypatch):
    """Padding beyond a smaller window of a batch repeats its last cells, whatever they are."""
    data = batch()
    data.valid[1, :, 9:] = False
    learner, model, _ = started(method, **({"form": "energy"} if method == "direct_variational" else {}))
    torch.manual_seed(3)
    plain, decode = learner.loss(model, data).second.detach(), model.decode

    def shifted(stages, size):
        logits, features = decode(stages, size)
        return torch.where(data.valid[:, None], logits, logits + 3.0), features

    monkeypatch.setattr(model, "decode", shifted)
    torch.manual_seed(3)
    torch.testing.assert_close(learner.loss(model, data).second.detach(), plain)
    data.valid[1, :, 9:] = True
    torch.manual_seed(3)
    assert learner.loss(model, data).second.item() != pytest.approx(plain.item(), rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_batches_without_labels_or_content_are_no_trouble(method):
    learner, model, beside = started(method, MAPS, 5)
    data = batch(5)
    nothing = replace(data, inputs=torch.zeros_like(data.inputs), valid=torch.zeros_like(data.valid))
    nothing = replace(nothing, labels=torch.full_like(data.labels, -1))
    assert trained(learner, model, beside, nothing, steps=1) == [0.0, 0.0]


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("method", METHODS)
def test_seeds_give_one_result_and_state_carries_it_on(method, norm):
    """Two steps, the state passed on, two more: the same as four in one go."""
    data, base = batch(), updated(IMAGES, {"network": {"norm": norm}})
    learner, model, beside = started(method, base)
    whole_optimizer = torch.optim.Adam([*model.parameters(), *beside], lr=0.01)

    def steps(learner, model, optimizer, seeds):
        model.train()
        for seed in seeds:
            torch.manual_seed(seed)
            optimizer.zero_grad()
            losses = learner.loss(model, data)
            (losses.points + losses.second).backward()
            optimizer.step()
            learner.after_step(model)

    steps(learner, model, whole_optimizer, (1, 2, 3, 4))

    first, half, beside = started(method, base)
    optimizer = torch.optim.Adam([*half.parameters(), *beside], lr=0.01)
    steps(first, half, optimizer, (1, 2))
    kept = {name: value.clone() for name, value in first.state().items()}
    second, again, beside = started(method, base)
    again.load_state_dict(half.state_dict())
    second.load_state(kept)
    resumed = torch.optim.Adam([*again.parameters(), *beside], lr=0.01)
    resumed.load_state_dict(optimizer.state_dict())
    steps(second, again, resumed, (3, 4))
    for one, other in ((model.state_dict(), again.state_dict()), (learner.state(), second.state())):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


@pytest.mark.parametrize("method", [*METHODS, "energy"])
@pytest.mark.parametrize(("base", "channels"), [(IMAGES, 3), (MAPS, 6)])
def test_mixed_precision_says_nearly_the_same(method, base, channels):
    """Autocast on the CPU stands for that on CUDA: the same operations are cut to 16 bits."""
    form = {"form": "energy"} if method == "energy" else {}
    learner, model, beside = started("direct_variational" if form else method, base, channels, **form)
    data, told = batch(channels, empty=not base.encoder.uses_images), []
    for enabled in (False, True):
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = learner.loss(model, data)
        assert losses.second.dtype == torch.float32
        told.append([losses.points.item(), losses.second.item()])
    np.testing.assert_allclose(told[1], told[0], rtol=0.05, atol=1e-4)
    (losses.points + losses.second).backward()
    assert all(weight.grad.isfinite().all() for weight in [*model.parameters(), *beside])


@pytest.mark.parametrize("method", METHODS)
def test_points_are_learnt_from_as_ever(method):
    learner, model, _ = started(method, **({"views": 1} if method == "mixmatch" else {}))
    data = batch()
    model.eval()
    points = learner.loss(model, data).points
    if method in ("mixmatch", "dual_branch"):
        assert 0.1 < points.item() < 2
    else:
        torch.testing.assert_close(points, partial_cross_entropy(model(data.inputs)[0], data.labels))


# Ramps and views


def test_ramps_by_hand():
    assert sigmoid_rampup(0.0) == pytest.approx(math.exp(-5))
    assert sigmoid_rampup(0.5) == pytest.approx(math.exp(-1.25))
    assert sigmoid_rampup(1.0) == 1.0
    assert [linear_rampup(t, 0.5) for t in (0.0, 0.25, 0.5, 0.9)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("view", [View(q, m) for q in range(4) for m in (False, True)])
def test_views_are_undone(view):
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    torch.testing.assert_close(view.undo(view.apply(x)), x)
    if view != View():
        assert view.apply(x).shape != x.shape or not torch.equal(view.apply(x), x)


def test_drawn_views_keep_the_size_and_all_come_up():
    torch.manual_seed(0)
    assert len({draw_view((5, 5)) for _ in range(200)}) == 8
    assert {draw_view((4, 5)) for _ in range(100)} == {View(q, m) for q in (0, 2) for m in (False, True)}
    assert {draw_rotation() for _ in range(100)} == {View(q) for q in range(4)}


# The guide image


def test_an_image_is_its_own_guide():
    _, model, _ = started("crf")
    torch.testing.assert_close(guide_image(model, batch()), batch().inputs)


def test_the_guide_of_a_map_shows_what_differs_most():
    _, model, _ = started("crf", MAPS, 8)
    data = batch(8, count=1, empty=True)
    inputs = 0.5 + 0.01 * data.inputs
    inputs[:, 5, :, :6] += 1.0
    inputs = inputs * data.valid[:, None]
    guide = guide_image(model, replace(data, inputs=inputs))
    assert guide.shape == (1, 3, 9, 12)
    assert (guide[0][:, ~data.valid[0]] == 0).all()
    left, right = guide[0, 0, :6, :6], guide[0, 0, :6, 6:]
    assert (left.mean() - right.mean()).abs() > 20 * max(left.std(), right.std())
    assert guide[0][:, data.valid[0]].square().mean().item() == pytest.approx(1, rel=1e-4)


# CRF


def test_crf_weighs_the_potts_energy_of_the_output():
    learner, model, _ = started("crf", sigma_xy=20.0, sigma_rgb=51.0, shrink=1, weight=3.0)
    data = batch()
    probability = torch.sigmoid(model(data.inputs)[0][:, 0])
    expected = potts_energy(probability, data.inputs, data.valid, sigma_xy=20.0, sigma_guide=0.2)
    torch.testing.assert_close(learner.loss(model, data).second, 3.0 * expected)


# Direct variational


def test_direct_teacher_segments_the_probability_map():
    teacher, model, _ = started("direct_variational", lam=4.0, beta=1.0)
    data = batch(count=1, size=(16, 20))
    valid = np.ones((16, 20), bool)
    valid[-4:] = False
    scene = Scene("a", data.inputs, valid, np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64))
    model.eval()
    with torch.no_grad():
        model.unet.head.weight *= 20.0
        probability = torch.sigmoid(model(data.inputs)[0])[0].numpy()
    teacher.refresh(model, [scene])
    u = teacher.target("a")
    np.testing.assert_allclose(u, solve_cvm(probability, lam=4.0, beta=1.0, tol=1e-4, valid=valid).u[0])
    assert (u[~valid] == 0).all()
    assert np.ptp(u) > 0.5


def test_direct_teacher_says_nothing_of_a_flat_map():
    teacher, model, _ = started("direct_variational")
    torch.nn.init.zeros_(model.unet.head.weight)
    data = batch(count=1)
    scene = Scene("a", data.inputs, np.ones((9, 12), bool), np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64))
    teacher.refresh(model.eval(), [scene])
    assert isinstance(teacher, DirectVariationalTeacher)
    assert teacher.target("a") is None


def test_direct_energy_weighs_eq_1_on_the_image():
    learner, model, _ = started("direct_variational", form="energy", lam=2.0, beta=1.0, weight=0.7)
    data = batch()
    probability = torch.sigmoid(model(data.inputs)[0][:, 0])
    expected = variational_energy(probability, data.inputs, data.valid, lam=2.0, lam_rel=1.0, beta=1.0)
    torch.testing.assert_close(learner.loss(model, data).second, 0.7 * expected)
    assert not learner.has_teacher


# Dual branch


def test_mixed_label_by_hand():
    first, second = (torch.logit(torch.tensor(p)).reshape(1, 1, 1, 3) for p in ([0.9, 0.9, 0.2], [0.3, 0.05, 0.6]))
    assert mixed_label(first, second, 0.4).flatten().tolist() == [True, False, False]
    assert mixed_label(first, second, 0.0).flatten().tolist() == [False, False, True]


def test_both_branches_learn_from_points_and_from_their_mixture():
    learner, model, beside = started("dual_branch", dropout=0.0, weight=0.5)
    data = batch()
    stages = model.encode(data.inputs)
    both = [decode(stages, (9, 12))[0] for decode in (model.decode, learner.branch)]
    torch.manual_seed(5)
    label = mixed_label(*both, float(torch.rand(())))
    torch.manual_seed(5)
    losses = learner.loss(model, data)
    points = [partial_cross_entropy(logits, data.labels) for logits in both]
    dice = [dice_loss(logits, label, data.valid) for logits in both]
    torch.testing.assert_close(losses.points, sum(points) / 2)
    torch.testing.assert_close(losses.second, 0.5 * sum(dice) / 2)
    assert len(beside) == len(list(learner.branch.parameters()))
    own = {weight.data_ptr() for weight in model.parameters()}
    assert not own & {weight.data_ptr() for weight in beside}


def test_the_second_branch_differs_from_the_first_and_misses_channels():
    learner, model, _ = started("dual_branch", dropout=0.5)
    assert not torch.equal(learner.branch.head.weight, model.unet.head.weight)
    data = batch()
    torch.manual_seed(0)
    once = learner.loss(model, data).points
    torch.manual_seed(1)
    assert learner.loss(model, data).points != once


# Mean teacher


def test_teacher_averages_the_weights():
    learner, model, beside = started("mean_teacher", decay=0.9)
    assert not beside
    before = model.unet.head.bias.detach().clone()
    history = []
    for step in range(12):
        with torch.no_grad():
            model.unet.head.bias.copy_(before + step + 1.0)
        history.append(before + step + 1.0)
        learner.after_step(model)
    expected = history[0]
    for step, value in enumerate(history[1:], start=1):
        decay = min(1 - 1 / (step + 1), 0.9)
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(learner.teacher.unet.head.bias, expected)
    assert not any(weight.requires_grad for weight in learner.teacher.parameters())


@pytest.mark.parametrize("rotate", [False, True])
def test_without_noise_and_doubt_it_is_the_weighted_squared_difference(rotate):
    learner, model, _ = started("mean_teacher", noise=0.0, threshold=1.0, weight=0.1, rotate=rotate, passes=2)
    data = batch()
    with torch.no_grad():
        learner.teacher.unet.head.bias += 1.5
    torch.manual_seed(7)  # draws a quarter turn
    view = draw_rotation() if rotate else View()
    assert (view != View()) is rotate
    with torch.no_grad():
        target = torch.sigmoid(view.undo(learner.teacher(view.apply(data.inputs))[0]))[:, 0]
    torch.manual_seed(7)
    second = learner.loss(model, data).second
    expected = 0.1 * math.exp(-1.25) * squared_error(model(data.inputs)[0], target, data.valid)
    torch.testing.assert_close(second, expected)
    assert second > 0


def test_cells_of_which_the_teacher_is_unsure_do_not_count():
    learner, model, _ = started("mean_teacher", noise=0.0, threshold=0.75, rotate=False, passes=1)
    with torch.no_grad():
        for network, bias in ((learner.teacher, 0.0), (model, 3.0)):
            network.unet.head.weight.zero_()
            network.unet.head.bias.fill_(bias)
    # A probability of 1/2 has the entropy ln 2, above the threshold however far the training is.
    assert learner.loss(model, replace(batch(), progress=0.0)).second.item() == 0
    with torch.no_grad():
        learner.teacher.unet.head.bias.fill_(1.0)  # entropy 0.84 ln 2
    assert learner.loss(model, replace(batch(), progress=0.0)).second.item() == 0
    assert learner.loss(model, replace(batch(), progress=0.9)).second.item() > 0


def test_noise_spares_empty_cells_and_is_in_deviations_of_the_channel():
    learner, model, _ = started("mean_teacher", MAPS, 4, noise=0.1, rotate=False, passes=1)
    model.std.copy_(torch.tensor([0.0, 1.0, 10.0, 100.0]))
    learner.teacher.std.copy_(model.std)
    seen = []

    class Watching(type(model)):
        def forward(self, x):
            seen.append(x)
            return super().forward(x)

    learner.teacher.__class__ = Watching
    data = batch(4, count=4, size=(20, 20), empty=True)
    with torch.no_grad():
        learner.teacher.std.clamp_(min=1e-3)
        learner.loss(model, data)
    assert len(seen) == 2
    noise = seen[0] - data.inputs
    assert not torch.equal(seen[0], seen[1])
    assert (noise.permute(0, 2, 3, 1)[~data.valid] == 0).all()
    spread = noise.permute(1, 0, 2, 3)[:, data.valid]
    np.testing.assert_allclose(spread[1:].std(dim=1), [0.1, 1.0, 10.0], rtol=0.15)
    assert spread[2].abs().max() <= 2.0 + 1e-5


# MixMatch


def test_sharpening_by_hand():
    p = torch.tensor([0.0, 0.2, 0.5, 0.8])
    expected = p**2 / (p**2 + (1 - p) ** 2)
    torch.testing.assert_close(sharpened(p, 0.5), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sharpened(p[1:], 1.0), p[1:])


def test_mixing_by_hand():
    inputs = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 1, 2)
    target = torch.tensor([[[1.0, 0.5]], [[0.0, 0.2]]])
    known = torch.tensor([[[True, False]], [[False, True]]])
    valid = torch.tensor([[[True, True]], [[True, False]]])
    mixed = mix(Examples(inputs, target, known, valid), torch.tensor([1, 1]), torch.tensor([0.75, 0.6]))
    torch.testing.assert_close(mixed.inputs.flatten(), torch.tensor([1.5, 1.5, 3.0, 3.0]))
    torch.testing.assert_close(mixed.target.flatten(), torch.tensor([0.75, 0.425, 0.0, 0.2]))
    assert torch.equal(mixed.known, known)
    assert mixed.valid.flatten().tolist() == [True, False, True, False]


def test_mixmatch_without_mixing_is_cross_entropy_and_squared_error_to_the_guess(monkeypatch):
    learner, model, _ = started("mixmatch", weight=10.0, views=1, rampup=0.25)
    monkeypatch.setattr(learner, "_partners", lambda count, like: (torch.arange(count), torch.ones(count)))
    data = batch(size=(8, 8))
    with torch.no_grad():
        # A network of single cells agrees with itself on turned windows.
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
                middle = module.weight[..., 1, 1].clone()
                module.weight.zero_()
                module.weight[..., 1, 1] = middle
    model.unet.encoder = model.unet.encoder[:1]
    model.unet.decoder = torch.nn.ModuleList()
    logits = model(data.inputs)[0]
    guess = sharpened(torch.sigmoid(logits[:, 0]).detach(), 0.5)
    losses = learner.loss(model, data)
    torch.testing.assert_close(losses.points, partial_cross_entropy(logits, data.labels), rtol=1e-4, atol=1e-5)
    expected = 10.0 * squared_error(logits, guess, data.labels < 0)
    torch.testing.assert_close(losses.second, expected, rtol=1e-3, atol=1e-5)


def test_mixmatch_begins_with_nothing_on_unlabelled_cells():
    learner, model, _ = started("mixmatch")
    assert learner.loss(model, replace(batch(), progress=0.0)).second.item() == 0


# Cosine similarity


def test_pseudo_labels_by_hand():
    directions = {"in": (1.0, 0.0), "near": (2.0, 1.0), "between": (1.0, 1.0), "out": (0.0, 3.0), "none": (0.0, 0.0)}
    features = torch.tensor(list(directions.values())).T.reshape(1, 2, 1, 5)
    labels = torch.tensor([[[1, -1, -1, 0, -1]]], dtype=torch.int8)
    label, sure = pseudo_labels(features, labels, margin=0.1)
    assert label.flatten().tolist() == [True, True, False, False, False]
    assert sure.flatten().tolist() == [True, True, False, True, False]
    apart = (2 - 1) / math.sqrt(5)
    assert pseudo_labels(features, labels, margin=apart - 0.01)[1].flatten().tolist()[1]
    assert not pseudo_labels(features, labels, margin=apart + 0.01)[1].flatten().tolist()[1]
    assert not pseudo_labels(features, labels.clamp(min=-1).masked_fill(labels == 0, -1), margin=0.0)[1].any()


def test_similarities_to_several_points_are_averaged():
    features = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.full((1, 3, 5), -1, dtype=torch.int8)
    labels[0, 0, 0] = labels[0, 0, 4] = 1
    labels[0, 2, 0] = labels[0, 2, 4] = labels[0, 1, 2] = 0
    cells = features[0].flatten(1).T
    similarity = F.cosine_similarity(cells[:, None], cells[None], dim=2).reshape(15, 3, 5)
    difference = similarity[[0, 4]].mean(dim=0) - similarity[[10, 14, 7]].mean(dim=0)
    label, sure = pseudo_labels(features, labels, margin=0.2)
    assert torch.equal(label[0], difference > 0)
    assert torch.equal(sure[0], difference.abs() >= 0.2)


def test_cosine_learns_from_sure_unlabelled_cells():
    learner, model, _ = started("cosine", margin=0.0, weight=2.0)
    data = batch()
    logits, features = model(data.inputs)
    label, sure = pseudo_labels(features, data.labels, margin=0.0)
    chosen = sure & (data.labels < 0)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][chosen], label[chosen].float())
    torch.testing.assert_close(learner.loss(model, data).second, 2.0 * math.exp(-1.25) * expected)
