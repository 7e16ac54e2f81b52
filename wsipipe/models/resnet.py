"""ResNets as encoders: one pooled vector per patch, or the convolutional map up to layer3."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsipipe.errors import ConfigError
from wsipipe.models.receptive_field import main_path, receptive_field
from wsipipe.models.residual_network import residual_network
from wsipipe.models.row_layers import Layer, layers_of
from wsipipe.models.stem import Stem
from wsipipe.models.weights import read_weights, weights_digest


class ResNetEncoder(nn.Module):
    """A ResNet that takes uint8 pixels and normalises them itself, on its own device.

    Parameters
    ----------
    body : Module
        (n, h, w, 3) uint8 -> (n, dim) or (n, dim, h / stride, w / stride) float32.
    name : str
        As the settings have it.
    kind : str
        "patch" or "dense".
    dim : int
        Length of a feature vector.
    stride_px : int
        Dense: px per map cell. Patch: 0, the tile grid decides.
    halo_px : int
        Dense: margin, a multiple of `stride_px`, that makes a tile's map equal to one pass over everything.
    weights_digest : str
        Names the weights.
    """

    window_px = 0

    def __init__(
        self,
        body: nn.Module,
        *,
        name: str,
        kind: Literal["patch", "dense"],
        dim: int,
        stride_px: int,
        halo_px: int,
        weights_digest: str,
    ) -> None:
        super().__init__()
        self.body = body
        self.name, self.dim = name, dim
        self.kind: str = kind
        self.stride_px, self.halo_px, self.weights_digest = stride_px, halo_px, weights_digest

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of (n, h, w, 3) uint8 pixels on the encoder's device, with a graph where one is asked for."""
        features: Tensor = self.body(pixels)
        return features

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def fold(self) -> None:
        """See `wsipipe.models.encoders.Foldable`; in evaluation mode."""
        fold_batch_norms(self.body)
        self.body.to(memory_format=torch.channels_last)

    def row_layers(self) -> tuple[Layer, ...]:
        """Layers for `wsipipe.models.row_stream`; see `wsipipe.models.encoders.Streamable`."""
        return tuple(layers_of(self.body))

    @torch.inference_mode()
    def encode(self, batch: Tensor) -> Tensor:
        """Features without a graph.

        Parameters
        ----------
        batch : (n, h, w, 3) uint8 Tensor
            RGB at the target resolution, on any device. Dense: h and w are multiples of `stride_px`.

        Returns
        -------
        Tensor
            float32 on the encoder's device. Patch: (n, dim). Dense: (n, dim, h / stride, w / stride).
        """
        return self.forward(batch.to(self.device, non_blocking=True))


def build_resnet(
    name: str,
    *,
    kind: Literal["patch", "dense"],
    weights: str,
    stride_px: int = 16,
    fold: bool = True,
) -> ResNetEncoder:
    """ResNet encoder on the CPU, in evaluation mode and channels-last.

    Parameters
    ----------
    name : str
        "resnet18", "resnet34" or "resnet50".
    kind : str
        "patch": the whole network but its classifier, pooled. "dense": up to layer3, stride 16.
    weights : str
        "imagenet", "none" or a file; see `wsipipe.models.weights.read_weights`.
    stride_px : int
        Dense: 16 times a power of two; the map is averaged down to it.
    fold : bool
        Fold batch norms into their convolutions: the same function up to rounding, and faster.

    Raises
    ------
    ConfigError
        The stride is impossible.
    WeightsError
        The weights are not at hand or do not fit.
    """
    net, digest = _load(name, weights)
    body = _patch_body(net) if kind == "patch" else _dense_body(net, stride_px)
    halo = receptive_field(main_path(body)).halo(stride_px) if kind == "dense" else 0
    dim = _width(net.get_submodule("layer4" if kind == "patch" else "layer3"))
    if fold:
        fold_batch_norms(body)
    encoder = ResNetEncoder(
        body.to(memory_format=torch.channels_last),
        name=name,
        kind=kind,
        dim=dim,
        stride_px=stride_px if kind == "dense" else 0,
        halo_px=halo,
        weights_digest=digest,
    )
    return encoder.eval()


def _load(name: str, weights: str) -> tuple[nn.Module, str]:
    """Network without its classifier, in evaluation mode, and the digest of its weights."""
    with torch.device("meta"):  # no time is lost on initial values that are thrown away
        net = residual_network(name)
    state = net.state_dict()
    like = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    tensors = read_weights(weights, encoder=name, like=like)
    net.load_state_dict(tensors | {key: torch.tensor(0) for key in state.keys() - like.keys()}, assign=True)
    digest = ("random-" if weights == "none" else "") + weights_digest(tensors)
    return net.eval().requires_grad_(requires_grad=False), digest


def fold_batch_norms(net: nn.Module) -> None:
    """Fold every batch norm of a ResNet in evaluation mode into the convolution before it, in place."""
    for module in list(net.modules()):
        names = [name for name, _ in module.named_children()]
        for before, after in itertools.pairwise(names):
            conv, norm = getattr(module, before), getattr(module, after)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, before, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())


def _patch_body(net: nn.Module) -> nn.Module:
    return nn.Sequential(*_to_layer3(net), net.get_submodule("layer4"), net.get_submodule("avgpool"), nn.Flatten(1))


def _dense_body(net: nn.Module, stride_px: int) -> nn.Module:
    pooling, rest = divmod(stride_px, 16)
    if rest or pooling not in (1, 2, 4, 8):
        raise ConfigError(
            f"a dense ResNet map cannot have a stride of {stride_px} px", remedy="use --stride 16, 32, 64 or 128"
        )
    return nn.Sequential(*_to_layer3(net), *([nn.AvgPool2d(pooling)] if pooling > 1 else []))


def _to_layer3(net: nn.Module) -> list[nn.Module]:
    conv, norm, pool = (net.get_submodule(name) for name in ("conv1", "bn1", "maxpool"))
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(pool, nn.MaxPool2d)
    return [Stem(conv, norm, pool), *(net.get_submodule(f"layer{i}") for i in (1, 2, 3))]


def _width(stage: nn.Module) -> int:
    """Output channels of a stage: those of its last convolution."""
    return [module for module in stage.modules() if isinstance(module, nn.Conv2d)][-1].out_channels
