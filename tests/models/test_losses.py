from __future__ import annotations

import math

import pytest
import torch

from wsipipe.models.losses import (
    dice_loss,
    entropy,
    partial_cross_entropy,
    soft_cross_entropy,
    squared_error,
    weighted_kl,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_partial_cross_entropy_by_hand():
    logits = torch.tensor([[[[logit(0.8), logit(0.3)], [5.0, logit(0.6)]]]])
    labels = torch.tensor([[[1, 0], [-1, 0]]], dtype=torch.int8)
    expected = -(math.log(0.8) + math.log(0.7) + math.log(0.4)) / 3
    assert partial_cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_unlabelled_cells_have_no_gradient():
    logits = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.full((2, 3, 4), -1, dtype=torch.int8)
    labels[0, 1, 2], labels[1, 0, 0] = 1, 0
    partial_cross_entropy(logits, labels).backward()
    assert torch.nonzero(logits.grad[:, 0]).tolist() == [[0, 1, 2], [1, 0, 0]]


def test_no_label_gives_zero_that_can_be_differentiated():
    logits = torch.randn(1, 1, 3, 3).requires_grad_()
    loss = partial_cross_entropy(logits, torch.full((1, 3, 3), -1, dtype=torch.int8))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().sum() == 0


def test_entropy_by_hand():
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(entropy(torch.tensor([0.0, 0.25, 1.0])), torch.tensor([0.0, expected, 0.0]))


def test_weighted_kl_by_hand():
    u, y = (0.9, 0.2, 1.0, 0.5), (0.7, 0.6, 0.25, 0.5)

    def term(u: float, y: float) -> float:
        parts = [(u, y), (1 - u, 1 - y)]
        h = -sum(a * math.log(a) for a, _ in parts if a > 0)
        return math.exp(-2 * h) * sum(a * math.log(a / b) for a, b in parts if a > 0)

    loss = weighted_kl(torch.tensor([logit(p) for p in y]).reshape(1, 1, 2, 2), torch.tensor(u).reshape(1, 2, 2))
    assert loss.item() == pytest.approx(sum(map(term, u, y)) / 4, rel=1e-5)


def test_soft_cross_entropy_and_squared_error_by_hand():
    y, t = (0.7, 0.6, 0.25, 0.5), (0.9, 0.2, 1.0, 0.3)
    logits, target = torch.tensor([logit(p) for p in y]).reshape(1, 1, 2, 2), torch.tensor(t).reshape(1, 2, 2)
    chosen = torch.tensor([[[True, True], [True, False]]])
    pairs = list(zip(y, t, strict=True))[:3]
    expected = -sum(b * math.log(a) + (1 - b) * math.log(1 - a) for a, b in pairs) / 3
    assert soft_cross_entropy(logits, target, chosen).item() == pytest.approx(expected, rel=1e-5)
    assert squared_error(logits, target, chosen).item() == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / 3)
    for loss in (soft_cross_entropy, squared_error):
        assert loss(logits, target, torch.zeros_like(chosen)).item() == 0


def test_dice_loss_by_hand():
    y = (0.7, 0.6, 0.25, 0.9)
    logits = torch.tensor([logit(p) for p in y]).reshape(1, 1, 2, 2)
    target, valid = torch.tensor([[[True, False], [True, True]]]), torch.tensor([[[True, True], [True, False]]])
    inside = 1 - (2 * (0.7 + 0.25) + 1e-5) / (0.7**2 + 0.6**2 + 0.25**2 + 2 + 1e-5)
    outside = 1 - (2 * 0.4 + 1e-5) / (0.3**2 + 0.4**2 + 0.75**2 + 1 + 1e-5)
    assert dice_loss(logits, target, valid).item() == pytest.approx((inside + outside) / 2, rel=1e-5)
    sure = torch.where(target, 40.0, -40.0)[:, None]
    assert dice_loss(sure, target, valid).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(-sure, target, valid).item() == pytest.approx(1, abs=1e-4)
    assert dice_loss(sure, target, torch.zeros_like(valid)).item() == 0


def test_weighted_kl_is_positive_and_zero_only_where_target_is_met():
    generator = torch.Generator().manual_seed(3)
    u = torch.rand(4, 5, 6, generator=generator, dtype=torch.float64)
    logits = torch.randn(4, 1, 5, 6, generator=generator, dtype=torch.float64)
    assert weighted_kl(logits, u) > 0.01
    assert weighted_kl(torch.logit(u).unsqueeze(1), u).item() == pytest.approx(0, abs=1e-12)


def test_sure_targets_weigh_more():
    away = 1.0  # the same distance in logits from both targets
    sure, unsure = torch.full((1, 1, 1), 0.95), torch.full((1, 1, 1), 0.55)

    def weight(u):
        logits = torch.logit(u) + away
        plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, u) - entropy(u).mean()
        return (weighted_kl(logits, u) / plain).item()

    assert weight(sure) == pytest.approx(math.exp(-2 * entropy(sure).item()), rel=1e-4)
    assert weight(sure) > 2 * weight(unsure)


def test_invalid_cells_are_left_out():
    logits = torch.tensor([[[[0.3, -2.0], [9.0, 1.0]]]])
    u = torch.tensor([[[0.1, 0.9], [0.0, 0.5]]])
    valid = torch.tensor([[[True, True], [False, False]]])
    torch.testing.assert_close(weighted_kl(logits, u, valid), weighted_kl(logits[:, :, :1], u[:, :1]))
    assert weighted_kl(logits, u, torch.zeros_like(valid)).item() == 0.0


@pytest.mark.parametrize("sure", [200.0, -200.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_both_losses_stay_finite(sure, target):
    logits = torch.full((1, 1, 1, 1), sure, requires_grad=True)
    u = torch.full((1, 1, 1), target)
    loss = weighted_kl(logits, u) + partial_cross_entropy(logits, u.to(torch.int8))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert loss.item() == pytest.approx(0.0 if (sure > 0) == (target > 0) else 400.0)


def test_gradients_against_finite_differences():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    u = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    u[0, 0, 0], u[1, 2, 3] = 0.0, 1.0
    valid = torch.rand(2, 3, 4, generator=generator) > 0.3
    labels = torch.randint(-1, 2, (2, 3, 4), generator=generator, dtype=torch.int8)
    for loss in (
        lambda x: weighted_kl(x, u, valid),
        lambda x: partial_cross_entropy(x, labels),
        lambda x: soft_cross_entropy(x, u, valid),
        lambda x: squared_error(x, u, valid),
        lambda x: dice_loss(x, u > 0.5, valid),
    ):
        x = logits.clone().requires_grad_()
        loss(x).backward()
        step = 1e-6
        for index in range(x.numel()):
            nudge = torch.zeros(x.numel(), dtype=torch.float64)
            nudge[index] = step
            nudge = nudge.reshape(x.shape)
            slope = (loss(logits + nudge) - loss(logits - nudge)) / (2 * step)
            assert x.grad.flatten()[index].item() == pytest.approx(slope.item(), abs=1e-8)


def test_half_precision_logits_are_computed_in_float32():
    logits = torch.tensor([[[[12.0]]]], dtype=torch.float16)
    assert partial_cross_entropy(logits, torch.ones(1, 1, 1, dtype=torch.int8)).dtype == torch.float32
    assert weighted_kl(logits, torch.ones(1, 1, 1)).item() == pytest.approx(math.log1p(math.exp(-12)), rel=1e-4)
