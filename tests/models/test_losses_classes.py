from __future__ import annotations

import math

import pytest
import torch

from wsipipe.models import losses
from wsipipe.models.losses_classes import class_cross_entropy, soft_class_cross_entropy, weighted_class_kl


def logits_of(*cells):
    """Logits (1, K, 1, n) whose softmax is the given probabilities of each of n cells, shifted by any number."""
    shifted = [[math.log(p) + number for p in cell] for number, cell in enumerate(cells)]
    return torch.tensor(shifted).T[None, :, None]


def planes(*cells):
    return torch.tensor(cells).T[None, :, None]


def test_partial_cross_entropy_by_hand():
    logits = logits_of((0.7, 0.2, 0.1), (0.1, 0.3, 0.6), (0.2, 0.2, 0.6))
    labels = torch.tensor([[[0, -1, 1]]], dtype=torch.int8)
    assert class_cross_entropy(logits, labels).item() == pytest.approx(-(math.log(0.7) + math.log(0.2)) / 2, rel=1e-6)


def test_soft_cross_entropy_by_hand():
    logits = logits_of((0.7, 0.2, 0.1), (0.1, 0.3, 0.6), (0.2, 0.2, 0.6))
    target = planes((0.5, 0.5, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    chosen = torch.tensor([[[True, True, False]]])
    expected = -(0.5 * math.log(0.7) + 0.5 * math.log(0.2)) / 2
    assert soft_class_cross_entropy(logits, target, chosen).item() == pytest.approx(expected, rel=1e-6)


def test_weighted_kl_by_hand():
    targets = [(0.8, 0.15, 0.05), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)]
    outputs = [(0.5, 0.3, 0.2), (0.25, 0.5, 0.25), (0.6, 0.3, 0.1)]

    def term(t, y):
        h = -sum(a * math.log(a) for a in t if a > 0)
        return math.exp(-2 * h) * sum(a * math.log(a / b) for a, b in zip(t, y, strict=True) if a > 0)

    terms = [term(t, y) for t, y in zip(targets, outputs, strict=True)]
    logits, target = logits_of(*outputs), planes(*targets)
    assert weighted_class_kl(logits, target).item() == pytest.approx(sum(terms) / 3, rel=1e-5)
    valid = torch.tensor([[[True, False, True]]])
    assert weighted_class_kl(logits, target, valid).item() == pytest.approx((terms[0] + terms[2]) / 2, rel=1e-5)


def test_a_cell_of_which_nothing_is_known_weighs_a_ninth_of_a_sure_one():
    """The uniform distribution over K classes has w = exp(-2 ln K) = 1 / K^2."""
    output = (0.6, 0.3, 0.1)
    loss = weighted_class_kl(logits_of(output), planes((1 / 3, 1 / 3, 1 / 3))).item()
    assert loss == pytest.approx(sum(math.log(1 / 3 / p) for p in output) / 3 / 9, rel=1e-5)


def test_a_target_that_is_met_costs_nothing_and_any_other_something():
    met = (0.2, 0.5, 0.3)
    assert weighted_class_kl(logits_of(met), planes(met)).item() == pytest.approx(0, abs=1e-7)
    assert weighted_class_kl(logits_of(met), planes((0.3, 0.5, 0.2))).item() > 1e-3


@pytest.mark.parametrize("name", ["class_cross_entropy", "soft_class_cross_entropy", "weighted_class_kl"])
def test_gradients_are_those_of_finite_differences(name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(-1, 4, (2, 3, 2), generator=generator)
    target = torch.softmax(2 * torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64), dim=1)
    chosen = torch.rand(2, 3, 2, generator=generator) > 0.3
    loss = {
        "class_cross_entropy": lambda x: class_cross_entropy(x, labels),
        "soft_class_cross_entropy": lambda x: soft_class_cross_entropy(x, target, chosen),
        "weighted_class_kl": lambda x: weighted_class_kl(x, target, chosen),
    }[name]
    assert torch.autograd.gradcheck(loss, (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_two_classes_are_the_losses_of_one_logit(dtype):
    """Softmax of two logits is the sigmoid of their difference."""
    generator = torch.Generator().manual_seed(1)
    pair = torch.randn(2, 2, 4, 5, generator=generator).to(dtype)
    single = pair[:, 1:].float() - pair[:, :1].float()
    labels = torch.randint(-1, 2, (2, 4, 5), generator=generator)
    u, valid = torch.rand(2, 4, 5, generator=generator), torch.rand(2, 4, 5, generator=generator) > 0.4
    both = torch.stack([1 - u, u], dim=1)
    close = torch.testing.assert_close
    close(losses.partial_cross_entropy(pair, labels), losses.partial_cross_entropy(single, labels))
    close(losses.soft_cross_entropy(pair, both, valid), losses.soft_cross_entropy(single, u, valid))
    close(losses.weighted_kl(pair, both, valid), losses.weighted_kl(single, u, valid))
    close(losses.weighted_kl(pair, both), losses.weighted_kl(single, u))


def test_no_label_and_no_cell_give_zero_that_can_be_differentiated():
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    nowhere = torch.zeros(1, 2, 2, dtype=torch.bool)
    target = torch.full((1, 3, 2, 2), 1 / 3)
    loss = class_cross_entropy(logits, torch.full((1, 2, 2), -1, dtype=torch.int8))
    loss = loss + soft_class_cross_entropy(logits, target, nowhere) + weighted_class_kl(logits, target, nowhere)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


def test_losses_stay_finite_however_sure_the_network_is():
    logits = torch.tensor([1e4, -1e4, 0.0]).reshape(1, 3, 1, 1)
    wrong = torch.tensor([0.0, 1.0, 0.0]).reshape(1, 3, 1, 1)
    assert class_cross_entropy(logits, torch.ones(1, 1, 1, dtype=torch.int8)).item() == pytest.approx(2e4)
    assert weighted_class_kl(logits, wrong).item() == pytest.approx(2e4)
