from __future__ import annotations

import math

import pytest
import torch

from wsipipe.errors import NumericsError
from wsipipe.models import losses_potts
from wsipipe.models.losses_potts import on_axes, potts_energy


def tissue(height: int = 24, width: int = 30, *, count: int = 1, dtype=torch.float64) -> torch.Tensor:
    """Two kinds of tissue with a slanted border and some noise, RGB in [0, 1], (count, 3, h, w)."""
    generator = torch.Generator().manual_seed(0)
    row, col = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    left = (col + row // 2 < width // 2)[None, None].to(dtype)
    purple, pink = (torch.tensor(rgb, dtype=dtype).reshape(1, 3, 1, 1) for rgb in ((0.5, 0.3, 0.6), (0.9, 0.7, 0.8)))
    noise = torch.randn(count, 3, height, width, generator=generator, dtype=dtype)
    return (left * purple + (1 - left) * pink + 0.05 * noise).clamp(0, 1)


def smooth(*shape: int, dtype=torch.float64) -> torch.Tensor:
    coarse = torch.rand(shape[0], 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")[:, 0]


def by_pairs(y, guide, valid, *, sigma_xy, sigma_guide):
    """The sum over all pairs as it is defined, n x n."""
    energies = []
    for one, image, cells in zip(y, guide, valid, strict=True):
        places = torch.nonzero(cells).to(y.dtype) / sigma_xy
        points = torch.cat([places, image[:, cells].T / sigma_guide], dim=1)
        kernel = torch.exp(-0.5 * torch.cdist(points, points) ** 2)
        p = one[cells]
        unlike = p[:, None] * (1 - p) + (1 - p)[:, None] * p
        energies.append((kernel * unlike).sum() / len(p) ** 2)
    return torch.stack(energies).mean()


def with_gradient(energy, y, *arguments, **options):
    y = y.clone().requires_grad_()
    value = energy(y, *arguments, **options)
    value.backward()
    return value.detach(), y.grad


def test_two_cells_by_hand():
    y = torch.tensor([[[0.9, 0.2]]], dtype=torch.float64)
    guide = torch.tensor([[[[0.1, 0.4]]]], dtype=torch.float64)
    kernel = math.exp(-0.5 * ((1 / 2.0) ** 2 + (0.3 / 0.5) ** 2))
    own = 2 * 0.9 * 0.1 + 2 * 0.2 * 0.8
    expected = (own + 2 * kernel * (0.9 * 0.8 + 0.1 * 0.2)) / 4
    energy = potts_energy(y, guide, torch.ones(1, 1, 2, dtype=torch.bool), sigma_xy=2.0, sigma_guide=0.5)
    assert energy.item() == pytest.approx(expected, rel=4e-3)


@pytest.mark.parametrize(("sigma_xy", "sigma_guide"), [(100.0, 15 / 255), (8.0, 15 / 255), (5.0, 0.2)])
def test_agrees_with_the_sum_over_all_pairs(sigma_xy, sigma_guide):
    y, guide = smooth(2, 24, 30), tissue(count=2)
    valid = torch.ones(2, 24, 30, dtype=torch.bool)
    valid[1, 15:, 20:] = False
    options = {"sigma_xy": sigma_xy, "sigma_guide": sigma_guide}
    value, gradient = with_gradient(potts_energy, y, guide, valid, **options)
    exact, slope = with_gradient(by_pairs, y, guide, valid, **options)
    assert value.item() == pytest.approx(exact.item(), rel=3e-3)
    assert ((gradient - slope).norm() / slope.norm()).item() < 0.015
    assert (gradient[1, 15:, 20:] == 0).all()


def test_coarser_grids_are_still_near(monkeypatch):
    y, guide, valid = smooth(1, 24, 30), tissue(), torch.ones(1, 24, 30, dtype=torch.bool)
    options = {"sigma_xy": 20.0, "sigma_guide": 15 / 255}
    exact, slope = with_gradient(by_pairs, y, guide, valid, **options)
    monkeypatch.setattr(losses_potts, "SPACINGS", (0.5,))
    value, gradient = with_gradient(potts_energy, y, guide, valid, **options)
    assert value.item() == pytest.approx(exact.item(), rel=0.03)
    assert ((gradient - slope).norm() / slope.norm()).item() < 0.06


def test_gradient_against_finite_differences(monkeypatch):
    monkeypatch.setattr(losses_potts, "SPACINGS", (0.7,))  # a small grid: its gradient is to be that of its own energy
    y, guide = smooth(2, 5, 7).requires_grad_(), tissue(5, 7, count=2)
    valid = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(2)) > 0.2
    for shrink in (1, 2):
        assert torch.autograd.gradcheck(
            lambda p, by=shrink: potts_energy(p, guide, valid, sigma_xy=3.0, sigma_guide=0.5, shrink=by), (y,)
        )


def test_shrinking_averages_cells_and_is_exact_where_squares_are_alike():
    small, colours = smooth(1, 6, 7), tissue(6, 7)
    large, picture = (x.repeat_interleave(2, -1).repeat_interleave(2, -2) for x in (small, colours))
    options = {"sigma_guide": 0.1}
    once = potts_energy(small, colours, torch.ones(1, 6, 7, dtype=torch.bool), sigma_xy=4.0, **options)
    # Odd rows and columns past the end belong to squares that are cut: their cells do not count here.
    large, picture = (torch.nn.functional.pad(x, (0, 1, 0, 1), value=0.7) for x in (large, picture))
    valid = torch.nn.functional.pad(torch.ones(1, 12, 14, dtype=torch.bool), (0, 1, 0, 1))
    torch.testing.assert_close(potts_energy(large, picture, valid, sigma_xy=8.0, shrink=2, **options), once)


def test_sure_labels_along_the_tissues_cost_less_than_across():
    guide, valid = tissue(), torch.ones(1, 24, 30, dtype=torch.bool)
    along = (guide.mean(dim=1) < 0.63).double()
    across = torch.zeros(1, 24, 30, dtype=torch.float64)
    across[:, :12] = 1.0
    options = {"sigma_xy": 100.0, "sigma_guide": 0.1}
    assert potts_energy(along, guide, valid, **options) < 0.2 * potts_energy(across, guide, valid, **options)
    assert potts_energy(torch.ones_like(along), guide, valid, **options).item() == pytest.approx(0, abs=1e-9)


def test_no_valid_cell_gives_zero_that_can_be_differentiated():
    y = smooth(1, 4, 4).requires_grad_()
    energy = potts_energy(y, tissue(4, 4), torch.zeros(1, 4, 4, dtype=torch.bool), sigma_xy=9.0, sigma_guide=0.1)
    energy.backward()
    assert energy.item() == 0
    assert y.grad.abs().sum() == 0


def test_one_flat_colour_and_half_precision():
    y = smooth(1, 12, 12).float()
    options = {"sigma_xy": 5.0, "sigma_guide": 0.1}
    valid, flat = torch.ones(1, 12, 12, dtype=torch.bool), torch.full((1, 3, 12, 12), 0.5)
    energy = potts_energy(y, flat, valid, **options)
    assert energy.item() == pytest.approx(by_pairs(y, flat, valid, **options).item(), rel=3e-3)
    half = potts_energy(y.half(), flat.half(), valid, **options)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(energy.item(), rel=1e-2)


def test_bandwidths_too_small_for_memory_are_refused():
    generator = torch.Generator().manual_seed(0)
    guide = torch.rand(1, 3, 200, 200, generator=generator)
    valid = torch.ones(1, 200, 200, dtype=torch.bool)
    with pytest.raises(NumericsError, match=r"span 1\d\d x 1\d\d x .*larger crf.sigma_xy"):
        potts_energy(smooth(1, 200, 200).float(), guide, valid, sigma_xy=1.0, sigma_guide=0.01)


def test_turning_colours_keeps_their_distances():
    values = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(6)
    turned = on_axes(values)
    torch.testing.assert_close(torch.pdist(turned), torch.pdist(values))
    spread = turned.std(dim=0)
    assert (spread.diff() < 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu():
    y, guide, valid = smooth(1, 48, 64).float(), tissue(48, 64).float(), torch.ones(1, 48, 64, dtype=torch.bool)
    options = {"sigma_xy": 20.0, "sigma_guide": 15 / 255, "shrink": 2}
    here, slope = with_gradient(potts_energy, y, guide, valid, **options)
    there, other = with_gradient(potts_energy, y.cuda(), guide.cuda(), valid.cuda(), **options)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(other.cpu(), slope, rtol=1e-3, atol=1e-8)
