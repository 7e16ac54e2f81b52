"""Encoders: what they promise about shapes, and that the fast form computes the plain network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from wsipipe.config import EncoderSettings
from wsipipe.errors import ConfigError
from wsipipe.models.encoders import ENCODERS, build_encoder
from wsipipe.models.resnet import build_resnet
from wsipipe.models.stem import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module")
def tissue(picture: NDArray[np.uint8]) -> Tensor:
    """Two pieces of tissue, (2, 96, 128, 3)."""
    return torch.from_numpy(np.stack([picture[200:296, 200:328], picture[400:496, 500:628]]))


def settings(**values: object) -> EncoderSettings:
    return EncoderSettings.model_validate({"name": "resnet18", "weights": "none"} | values)


def trained_like(name: str) -> nn.Module:
    """A network of torchvision whose batch norms have statistics that matter."""
    net = torchvision.models.get_model(name, weights=None).eval()
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.3), (module.running_var, 0.5), (module.bias.data, -0.3)):
                tensor.copy_(low + 0.7 * torch.rand(tensor.shape, generator=generator))
    return net


def plain_features(net: nn.Module, kind: str, pixels: Tensor) -> Tensor:
    """Features as torchvision's modules give them, after its own normalisation."""
    stages = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    stages += ["layer4", "avgpool"] if kind == "patch" else []
    x = torchvision.transforms.functional.normalize(pixels.permute(0, 3, 1, 2) / 255, IMAGENET_MEAN, IMAGENET_STD)
    with torch.no_grad():
        for stage in stages:
            x = net.get_submodule(stage)(x)
    return x.flatten(1) if kind == "patch" else x


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_folded_channels_last_equals_the_plain_network(name: str, tissue: Tensor, tmp_path: Path) -> None:
    net = trained_like(name)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for kind in ("patch", "dense"):
        encoder = build_resnet(name, kind=kind, weights=str(tmp_path / "net.pt"))
        expected, got = plain_features(net, kind, tissue), encoder.encode(tissue)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
        assert got.shape == expected.shape
        assert encoder.dim == expected.shape[1]
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert expected.std() > 0.01 * expected.abs().max()  # not a comparison of constants


def test_unfolded_is_the_same_function(tissue: Tensor) -> None:
    folded, plain = (build_resnet("resnet18", kind="dense", weights="none", fold=fold) for fold in (True, False))
    expected = plain.encode(tissue)
    assert (folded.encode(tissue) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert folded.weights_digest == plain.weights_digest


def test_patch_encoder_gives_one_vector_per_image(tissue: Tensor) -> None:
    encoder = build_encoder(settings(kind="patch"))
    features = encoder.encode(tissue)
    assert (encoder.kind, encoder.dim, encoder.stride_px, encoder.halo_px) == ("patch", 512, 0, 0)
    assert features.shape == (2, 512)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert (features[0] - features[1]).abs().max() > 0.1


@pytest.mark.parametrize(("stride", "halo"), [(16, 112), (32, 128), (64, 128)])
def test_dense_encoder_averages_the_stride_16_map(stride: int, halo: int, picture: NDArray[np.uint8]) -> None:
    pixels = torch.from_numpy(picture[None, 200:328, 200:392])
    fine = build_encoder(settings(kind="dense")).encode(pixels)
    encoder = build_encoder(settings(kind="dense", stride_px=stride))
    assert (encoder.stride_px, encoder.halo_px, encoder.dim) == (stride, halo, 256)
    k = stride // 16
    expected = fine.unflatten(2, (-1, k)).unflatten(4, (-1, k)).mean((3, 5))
    torch.testing.assert_close(encoder.encode(pixels), expected)


def test_halo_of_resnet34_is_288() -> None:
    assert build_encoder(settings(name="resnet34", kind="dense")).halo_px == 288


@pytest.mark.parametrize("kind", ["patch", "dense"])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_random_features_keep_well_inside_float16(name: str, kind: str, tissue: Tensor) -> None:
    features = build_encoder(settings(name=name, kind=kind)).encode(tissue)
    assert 1 < features.abs().max() < 1000
    assert features.std() > 0.1


def test_features_of_a_picture_do_not_depend_on_its_batch(tissue: Tensor) -> None:
    encoder = build_encoder(settings(kind="patch"))
    torch.testing.assert_close(encoder.encode(tissue)[1:], encoder.encode(tissue[1:]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [8, 24, 48, 256])
def test_impossible_dense_strides_are_refused(stride: int) -> None:
    with pytest.raises(ConfigError, match=rf"stride of {stride} px.*--stride 16, 32"):
        build_encoder(settings(kind="dense", stride_px=stride))


@pytest.mark.parametrize("name", ["none", "resnet99"])
def test_unknown_encoders_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"no encoder '{name}'.*resnet34.*filterbank"):
        build_encoder(settings(name=name))


def test_filter_bank_is_at_hand_and_dense_only() -> None:
    pytest.importorskip("wsipipe.models.filterbank")
    encoder = build_encoder(settings(name="filterbank", kind="dense", stride_px=8))
    assert encoder.kind == "dense"
    assert encoder.stride_px == 8
    assert "filterbank" in ENCODERS
    with pytest.raises(ConfigError, match="--kind dense"):
        build_encoder(settings(name="filterbank", kind="patch"))


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown device 'quantum'.*cpu"):
        build_encoder(settings(), device="quantum")
    with pytest.raises(ConfigError, match=r"no device 'cuda:99'.*--device"):
        build_encoder(settings(), device="cuda:99")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", ["patch", "dense"])
def test_cuda_agrees_with_the_cpu(kind: str, tissue: Tensor) -> None:
    expected = build_encoder(settings(kind=kind)).encode(tissue)
    got = build_encoder(settings(kind=kind), device="cuda").encode(tissue)
    assert got.is_cuda
    assert (got.cpu() - expected).abs().max() <= 2e-3 * expected.abs().max()  # cuDNN may multiply in TF32
