"""Batch norms in training: found in any network, and their statistics."""

from __future__ import annotations

import timm
import torch
from torch import nn

from wsipipe.models.norms import batch_norms, estimating, normalising_by_batch


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(4, 3, 6, 6, generator=generator) for _ in range(5)]


def test_statistics_become_the_mean_over_the_batches() -> None:
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.fill_(100)
    with estimating([norm]):
        for batch in batches():
            norm(batch)
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches()]).mean(dim=0)
    variances = torch.stack([batch.var(dim=(0, 2, 3)) for batch in batches()]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.1
    assert not norm.training


def test_norms_normalise_by_the_batch_for_a_while() -> None:
    norm, batch = nn.BatchNorm2d(3).eval(), batches()[0]
    torch.testing.assert_close(norm(batch), batch, rtol=1e-4, atol=0)
    with normalising_by_batch([norm]):
        assert norm(batch).mean().abs() < 1e-5
    assert not norm.training


def test_norms_of_other_libraries_follow_too_and_only_those_that_are_asked() -> None:
    net = timm.create_model("test_resnet", pretrained=False).eval().requires_grad_(requires_grad=False)
    last = batch_norms([net.layer4])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with estimating(last):
        net(pixels)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("layer4.") and ("running" in name or "tracked" in name) for name in changed)
    assert len(batch_norms([net])) > len(last) > 0


def test_other_norms_need_nothing() -> None:
    keeping_none = nn.BatchNorm2d(2, track_running_stats=False)
    assert batch_norms([nn.Sequential(nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3), keeping_none)]) == ()
