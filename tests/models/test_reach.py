"""The reach found by a dry run is the one computed from the layers."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from wsipipe.models.reach import MAX_HALO_PX, find_halo
from wsipipe.models.receptive_field import main_path, receptive_field


@pytest.mark.parametrize(("name", "last"), [("resnet18", 2), ("resnet18", 4), ("resnet34", 3), ("resnet50", 3)])
def test_found_halo_is_the_computed_one(name: str, last: int) -> None:
    net = torchvision.models.get_model(name, weights=None).eval()
    stages = [net.get_submodule(f"layer{index}") for index in range(1, last + 1)]
    body = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, *stages)
    field = receptive_field(main_path(body))
    assert find_halo(body, field.stride) == field.halo(field.stride)


def test_a_one_sided_reach_is_found() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.avg_pool2d(x, 8)
            return nn.functional.pad(x, (3, 0))[..., :-3] + x  # looks three cells to the left, none up or right

    assert find_halo(Shifted(), 8) == 24


def test_what_sees_everything_has_no_halo() -> None:
    class Squeezed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.avg_pool2d(x, 16)
            return x * torch.nn.functional.hardsigmoid(x.mean((2, 3), keepdim=True))

    assert find_halo(Squeezed(), 16) is None


def test_a_reach_beyond_the_limit_has_no_halo() -> None:
    def shifted(cells: int) -> nn.Module:
        kernel = 2 * cells + 1
        return nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 1, (1, kernel), padding=(0, cells)))

    assert find_halo(shifted(MAX_HALO_PX // 32), 32) == MAX_HALO_PX
    assert find_halo(shifted(MAX_HALO_PX // 32 + 1), 32) is None
