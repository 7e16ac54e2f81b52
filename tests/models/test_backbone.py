"""Any network as an encoder: shapes are read off it, tokens are laid out, misfits are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsipipe.errors import ConfigError
from wsipipe.models.backbone import InputFormat, as_encoder, digest_of, feature_map, pooled_vector


class Tokens(nn.Module):
    """Mean colour of each 8 px square as tokens, after `num_prefix_tokens` that are no places."""

    num_prefix_tokens = 3

    def __init__(self, *, classed: bool = True) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.full((1, 1, 3), 7.0)) if classed else None

    def forward(self, x: Tensor) -> Tensor:
        places = nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2)
        first = 0 * places[:, :1] + (7 if self.cls_token is None else self.cls_token)
        return torch.cat([first, 0 * places[:, :2] - 1000, places], dim=1)


def encoder(net: nn.Module, kind: str, *, stride: int = 8, **takes: Any) -> Any:
    return as_encoder(net, name="test", kind=kind, takes=InputFormat(**{"side_px": 32} | takes), stride_px=stride)  # type: ignore[arg-type]


def pixels(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8))


def test_tokens_become_a_map_without_class_and_registers() -> None:
    images = pixels(2, 32, 32)
    made = encoder(Tokens(), "dense", mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
    assert (made.kind, made.dim, made.stride_px, made.halo_px, made.window_px) == ("dense", 3, 8, 0, 32)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.2, 0.4])
    expected = (images.float().unflatten(1, (4, 8)).unflatten(3, (4, 8)).mean((2, 4)) / 255 - mean) / std
    torch.testing.assert_close(made.encode(images), expected.permute(0, 3, 1, 2))


def test_tokens_of_oblong_images_keep_their_places() -> None:
    x = torch.arange(3 * 16 * 40, dtype=torch.float32).reshape(1, 3, 16, 40)
    torch.testing.assert_close(feature_map(Tokens(), x), nn.functional.avg_pool2d(x, 8))


def test_a_multiple_of_the_stride_averages() -> None:
    images = pixels(1, 32, 32)
    fine, coarse = (encoder(Tokens(), "dense", stride=stride) for stride in (8, 16))
    torch.testing.assert_close(coarse.encode(images), nn.functional.avg_pool2d(fine.encode(images), 2))
    assert coarse.stride_px == 16


@pytest.mark.parametrize("classed", [True, False])
def test_unpooled_tokens_give_the_class_token_beside_the_mean(classed: bool) -> None:
    x = torch.rand(2, 3, 32, 32)
    vector = pooled_vector(Tokens(classed=classed), x)
    torch.testing.assert_close(vector[:, -3:], x.mean((2, 3)))
    assert vector.shape == (2, 6 if classed else 3)
    if classed:
        assert (vector[:, :3] == 7).all()


def test_unpooled_maps_give_their_mean() -> None:
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(pooled_vector(nn.AvgPool2d(8), x), x.mean((2, 3)))


def test_maps_with_features_last_are_turned() -> None:
    class Last(nn.AvgPool2d):
        output_fmt = "NHWC"

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).movedim(1, 3)

    x = torch.rand(1, 3, 16, 24)
    torch.testing.assert_close(feature_map(Last(8), x), nn.functional.avg_pool2d(x, 8))


def test_patches_of_another_size_are_brought_to_the_networks(picture: NDArray[np.uint8]) -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[2:] == (32, 32)
            return x.flatten(1)

    image = torch.from_numpy(picture[200:264, 200:264].copy())[None]
    made = encoder(Corner(), "patch", mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")
    assert (made.dim, made.stride_px, made.window_px) == (3 * 32 * 32, 0, 0)
    got = made.encode(image).view(3, 32, 32)
    halved = image[0].float().unflatten(0, (32, 2)).unflatten(2, (32, 2)).mean((1, 3)).permute(2, 0, 1) / 255
    assert (got - halved).abs().mean() < 0.02
    small = image[:, :32, :32]
    torch.testing.assert_close(made.encode(small).view(3, 32, 32), small[0].permute(2, 0, 1) / 255)


def test_networks_for_any_size_have_a_halo_and_others_a_window() -> None:
    net = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 5, 3, padding=1))
    free, bound = (encoder(net, "dense", any_size=any_size) for any_size in (True, False))
    assert (free.halo_px, free.window_px) == (8, 0)
    assert (bound.halo_px, bound.window_px) == (0, 32)


def test_a_network_that_refuses_other_sizes_has_a_window() -> None:
    class Fixed(nn.AvgPool2d):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[2:] == (32, 32), "32 px only"
            return super().forward(x)

    assert encoder(Fixed(8), "dense", any_size=True).window_px == 32


def test_weights_are_frozen_and_their_digest_is_of_their_values() -> None:
    net = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 2, 1)).train()
    made = encoder(net, "dense")
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert not any(module.training for module in made.modules())
    before = digest_of(net)
    assert made.weights_digest == before
    assert digest_of(net.half()) != before
    assert digest_of(nn.Identity()) == "none"


@pytest.mark.parametrize(
    ("net", "kind", "stride", "told"),
    [
        (nn.AvgPool2d(8), "dense", 12, r"cells of 8 px, got a stride of 12 px.*--stride 8, 16, 32"),
        (nn.AvgPool2d(8), "dense", 24, r"got a stride of 24 px"),
        (nn.AvgPool2d(8), "dense", 4, r"got a stride of 4 px"),
        (nn.Conv2d(4, 3, 1), "patch", 8, r"cannot be run on 32 x 32 px: .*channels"),
        (nn.Flatten(), "dense", 8, r"gives \(2, 3072\) for 2 images, no dense features.*--kind patch"),
        (nn.Flatten(0), "patch", 8, r"gives \(6144,\) for 2 images"),
        (nn.AdaptiveAvgPool2d(5), "dense", 8, r"5 x 5 cells for 32 x 32 px, which is no even stride"),
    ],
)
def test_what_is_no_encoder_is_told_in_one_line(net: nn.Module, kind: str, stride: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        encoder(net, kind, stride=stride)
    assert "\n" not in str(caught.value)


def test_tokens_that_make_no_grid_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 tokens of an image of 32 x 32 px make no grid"):
        feature_map(nn.Flatten(2), torch.zeros(1, 3, 32, 32))
