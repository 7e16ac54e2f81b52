"""The banded stem against torchvision's layers in one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from wsipipe.models.resnet import build_resnet
from wsipipe.models.stem import IMAGENET_MEAN, IMAGENET_STD, Stem


@pytest.fixture(scope="module")
def layers() -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = torchvision.models.resnet18().eval()
    net.bn1.bias.data.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
    return net.conv1, net.bn1, net.maxpool


def in_one_pass(layers: tuple[nn.Module, ...], pixels: Tensor) -> Tensor:
    conv, norm, pool = layers
    x = torchvision.transforms.functional.normalize(pixels.permute(0, 3, 1, 2) / 255, IMAGENET_MEAN, IMAGENET_STD)
    return pool(torch.relu(norm(conv(x))))


@pytest.mark.parametrize("band_rows", [1, 3, 16, 1000])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (61, 50), (62, 33), (63, 7), (4, 5), (1, 1)])
@torch.inference_mode()
def test_bands_equal_one_pass(
    layers: tuple[nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d],
    band_rows: int,
    height: int,
    width: int,
    picture: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsipipe.models.stem._BAND_VALUES", band_rows * 2 * 2 * 64 * -(-width // 2))
    pixels = torch.from_numpy(picture[150 : 150 + 2 * height, 150 : 150 + width].reshape(2, height, width, 3))
    expected = in_one_pass(layers, pixels)
    got = Stem(*layers)(pixels)
    assert got.shape == expected.shape == (2, 64, -(-height // 4), -(-width // 4))
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_bands_are_bounded(layers: tuple[nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d]) -> None:
    seen = []
    stem = Stem(*layers)
    stem.bn1 = Watch(seen)
    with torch.inference_mode():
        stem(torch.zeros((1, 1600, 1600, 3), dtype=torch.uint8))
    assert len(seen) > 3
    assert max(seen) <= 1.1 * 2**23


class Watch(nn.Module):
    """Note how many values pass."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.numel())
        return x


def test_gradients_flow_through_the_bands(picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.from_numpy(picture[None, 200:264, 200:264].copy())
    gradients = []
    for values in (2**23, 2**12):
        monkeypatch.setattr("wsipipe.models.stem._BAND_VALUES", values)
        encoder = build_resnet("resnet18", kind="dense", weights="none").requires_grad_()
        encoder(pixels).square().mean().backward()
        gradients.append(encoder.body[0].conv1.weight.grad)
    whole, banded = gradients
    assert whole.abs().max() > 0
    assert (whole - banded).abs().max() <= 1e-4 * whole.abs().max()
