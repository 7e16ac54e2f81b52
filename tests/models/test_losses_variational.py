from __future__ import annotations

import numpy as np
import pytest
import torch

from wsipipe.models.losses_variational import SMOOTH, edge_detector, region_means, slope, variational_energy
from wsipipe.numerics.edges import edge_weights
from wsipipe.numerics.energy import energy, isotropic_length

OPTIONS = {"lam": None, "lam_rel": 1.0, "beta": 10.0}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_valid(*shape: int) -> torch.Tensor:
    return random(*shape, seed=9) > 0.2


def test_three_cells_by_hand():
    u = torch.tensor([[[1.0, 0.5, 0.0]]], dtype=torch.float64)
    f = torch.tensor([[[[0.8, 0.5, 0.1]]]], dtype=torch.float64)
    c1, c2 = (0.8 + 0.25) / 1.5, (0.25 + 0.1) / 1.5
    g = [1 / (1 + 10 * d**2) for d in (0.15, 0.35, 0.2)]
    length = sum(weight * (np.hypot(0.5, SMOOTH) - SMOOTH) for weight in g[:2])
    fitting = (0.8 - c1) ** 2 + 0.5 * (0.5 - c1) ** 2 + 0.5 * (0.5 - c2) ** 2 + (0.1 - c2) ** 2
    found = variational_energy(u, f, torch.ones(1, 1, 3, dtype=torch.bool), lam=2.0, lam_rel=1.0, beta=10.0)
    assert found.item() == pytest.approx((length + 2.0 * fitting) / 3, rel=1e-9)


def test_one_channel_agrees_with_the_energy_that_the_solvers_minimise():
    u, f, valid = random(1, 9, 12), random(1, 1, 9, 12, seed=1), some_valid(1, 9, 12)
    means = [float(c) for c in region_means(u, f, valid)]
    arrays = [x.numpy().reshape(9, 12) for x in (f, u, valid)]
    g = edge_weights(arrays[0], beta=10.0, valid=arrays[2])
    np.testing.assert_allclose(edge_detector(f, valid, beta=10.0)[0].numpy(), g)
    expected = energy(
        arrays[0], arrays[1], g, c1=means[0], c2=means[1], lam=3.0, neighbourhood="isotropic", valid=arrays[2]
    )
    found = variational_energy(u, f, valid, lam=3.0, lam_rel=1.0, beta=10.0) * arrays[2].sum()
    # The smoothing of |grad u| at 0 takes at most SMOOTH from each cell.
    assert 0 <= expected - found.item() <= SMOOTH * u.numel()
    plain = isotropic_length(arrays[1], np.ones((9, 12)), arrays[2])
    assert slope(u, valid).sum().item() == pytest.approx(plain, rel=1e-2)


def test_gradient_against_finite_differences_means_held():
    u, f, valid = random(2, 5, 6).requires_grad_(), random(2, 3, 5, 6, seed=1), some_valid(2, 5, 6)
    variational_energy(u, f, valid, **OPTIONS).backward()
    step = 1e-6
    # c1 and c2 minimise the energy for this u, so holding them or not makes no difference to the slope.
    for index in range(u.numel()):
        nudge = torch.zeros(u.numel(), dtype=torch.float64)
        nudge[index] = step
        ends = [variational_energy(u.detach() + sign * nudge.reshape(u.shape), f, valid, **OPTIONS) for sign in (1, -1)]
        assert u.grad.flatten()[index].item() == pytest.approx(float(ends[0] - ends[1]) / (2 * step), abs=1e-7)


def test_scale_of_the_image_does_not_matter_without_lambda_and_edges():
    u, f, valid = random(1, 6, 6), random(1, 2, 6, 6, seed=1), some_valid(1, 6, 6)
    options = {"lam": None, "lam_rel": 1.0, "beta": 0.0}
    torch.testing.assert_close(
        variational_energy(u, 7 * f + 3, valid, **options), variational_energy(u, f, valid, **options)
    )


def test_the_right_mask_costs_least():
    f = torch.zeros(1, 1, 8, 10, dtype=torch.float64)
    f[..., :4] = 1.0
    valid, right = torch.ones(1, 8, 10, dtype=torch.bool), f[:, 0]
    shifted, none = right.roll(2, dims=2), torch.full_like(right, 0.5)
    costs = [variational_energy(u, f, valid, **OPTIONS).item() for u in (right, shifted, none)]
    assert costs[0] < 0.5 * min(costs[1:])


@pytest.mark.parametrize("flat", [0.0, 0.7])
def test_an_image_that_shows_nothing_is_no_trouble(flat):
    u = random(1, 4, 5).requires_grad_()
    valid = torch.ones(1, 4, 5, dtype=torch.bool)
    variational_energy(u, torch.full((1, 3, 4, 5), flat, dtype=torch.float64), valid, **OPTIONS).backward()
    assert u.grad.isfinite().all()


def test_windows_without_valid_cells_count_nothing():
    u, f, valid = random(2, 4, 5).requires_grad_(), random(2, 3, 4, 5, seed=1), torch.ones(2, 4, 5, dtype=torch.bool)
    valid[1] = False
    both = variational_energy(u, f, valid, **OPTIONS)
    torch.testing.assert_close(both, variational_energy(u[:1], f[:1], valid[:1], **OPTIONS))
    both.backward()
    assert (u.grad[1] == 0).all()
    assert variational_energy(u, f, torch.zeros_like(valid), **OPTIONS).item() == 0
