"""The reach of convolution stacks, computed and seen."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from wsipipe.models.receptive_field import ReceptiveField, main_path, receptive_field


def dense_body(name: str) -> nn.Sequential:
    net = torchvision.models.get_model(name, weights=None)
    return nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3).eval()


def test_resnet34_to_layer3_reaches_273_px_and_needs_a_halo_of_288() -> None:
    field = receptive_field(main_path(dense_body("resnet34")))
    assert (field.stride, field.before, field.after) == (16, 273, 273)
    assert field.halo(16) == 288


@pytest.mark.parametrize(("multiple", "halo"), [(16, 288), (32, 288), (64, 320)])
def test_halo_is_a_multiple_of_the_map_stride(multiple: int, halo: int) -> None:
    assert ReceptiveField(stride=16, before=273, after=273).halo(multiple) == halo


def test_reach_of_layers_by_hand() -> None:
    layers = [nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(1, 1, (5, 5), padding=(2, 2), stride=2)]
    assert receptive_field(layers) == ReceptiveField(stride=4, before=1 + 4, after=1 + 1 + 4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_reach_is_what_the_gradient_touches(name: str) -> None:
    body = dense_body(name)
    field = receptive_field(main_path(body))
    for module in body.modules():  # open every ReLU and let every tap pass something, so that nothing hides
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    body[3] = nn.AvgPool2d(3, 2, 1)  # as max pooling, but every input counts
    cell, size = 10, 320
    pixels = torch.ones(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    body.double()(pixels)[0, 0, cell, cell].backward()
    assert pixels.grad is not None
    seen = pixels.grad.abs().sum((0, 1, 2)).nonzero()
    assert (seen.min().item(), seen.max().item()) == (16 * cell - field.before, 16 * cell + field.after)
