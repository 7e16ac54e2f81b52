"""Residual networks against torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from wsipipe.models.residual_network import residual_network


@pytest.fixture(params=["resnet18", "resnet34", "resnet50"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """A network of ours and torchvision's, with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = torchvision.models.get_model(request.param, weights=None)
    theirs.fc = nn.Identity()
    ours = residual_network(request.param)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 3, 70, 97, generator=torch.Generator().manual_seed(1))


def test_names_and_shapes_are_torchvisions(pair: tuple[nn.Module, nn.Module]) -> None:
    ours, theirs = ({name: value.shape for name, value in net.state_dict().items()} for net in pair)
    assert ours == theirs
    assert list(ours) == list(theirs)


def test_features_are_torchvisions_to_the_last_bit(pair: tuple[nn.Module, nn.Module], pixels: Tensor) -> None:
    ours, theirs = pair
    with torch.no_grad():
        assert torch.equal(ours.eval()(pixels).flatten(1), theirs.eval()(pixels))


def test_gradients_and_running_statistics_are_torchvisions(pair: tuple[nn.Module, nn.Module], pixels: Tensor) -> None:
    for net in pair:
        net.train()(pixels).square().sum().backward()
    (ours, theirs) = ({name: value.grad for name, value in net.named_parameters()} for net in pair)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())
    for name, value in pair[1].state_dict().items():
        torch.testing.assert_close(pair[0].state_dict()[name], value)
