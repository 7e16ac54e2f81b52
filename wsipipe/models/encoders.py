"""Encoders behind one small interface, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wsipipe.config import USER_CODE, EncoderSettings
from wsipipe.errors import ConfigError

if TYPE_CHECKING:
    from wsipipe.models.row_layers import Layer


class Encoder(Protocol):
    """What turns pixels into features.

    Attributes
    ----------
    name : str
        As the settings have it.
    kind : str
        "patch": one vector per image. "dense": one vector per `stride_px` square.
    dim : int
        Length of a feature vector.
    stride_px : int
        Dense: px per map cell; patch: 0.
    halo_px : int
        Dense: margin, a multiple of `stride_px`, after which a tile's cells equal those of one undivided pass.
    window_px : int
        Dense: 0 for encoders that take tiles of any size. Else the side of the square windows, a multiple of
        `stride_px`, that they see one by one: where a cell sees all of its tile, no halo makes tiles agree.
    weights_digest : str
        Names the weights; part of what makes two maps the same.
    """

    name: str
    kind: str
    dim: int
    stride_px: int
    halo_px: int
    window_px: int
    weights_digest: str

    def encode(self, batch: Tensor) -> Tensor:
        """Features of a batch, without a graph.

        Parameters
        ----------
        batch : (n, h, w, 3) uint8 Tensor
            RGB at the target resolution, on any device. Dense: h and w are multiples of `stride_px`.

        Returns
        -------
        Tensor
            float32 on the encoder's device. Patch: (n, dim). Dense: (n, dim, h / stride, w / stride).
        """
        ...


@runtime_checkable
class Streamable(Protocol):
    """A dense encoder whose maps can be computed strip by strip; see `wsipipe.models.row_stream`."""

    device: torch.device

    def row_layers(self) -> tuple[Layer, ...]:
        """Layers that take (1, 3, h, w) uint8 pixels, on `device`, and give what `encode` gives."""
        ...


@runtime_checkable
class Foldable(Protocol):
    """An encoder that runs faster without its batch norms."""

    def fold(self) -> None:
        """Fold batch norms into the convolutions before them: the same features, up to rounding."""
        ...


def build_encoder(settings: EncoderSettings, *, device: str = "cpu") -> Encoder:
    """Build the encoder that the settings ask for, ready to run on a device.

    Its batch norms are folded into convolutions where it can do without them, unless it is to be trained.

    Raises
    ------
    ConfigError
        Unknown name, no such device, or a kind, stride or backend that the encoder does not have.
    WeightsError
        Its weights are not at hand or do not fit.
    """
    prefix, colon, _ = settings.name.partition(":")
    try:
        build = ENCODERS[prefix + colon]
    except KeyError:
        forms = ", ".join([name + "NAME" * name.endswith(":") for name in ENCODERS])
        raise ConfigError(
            f"there is no encoder {settings.name!r} to extract features with",
            remedy=f"use {forms}; or give feature maps (.h5) instead of slides",
        ) from None
    if settings.backend == "onnx" and build is not _resnet:
        raise ConfigError(f"backend 'onnx' runs resnets, not {settings.name!r}", remedy="use --backend auto or torch")
    return build(settings, device)


def _resnet(settings: EncoderSettings, device: str) -> Encoder:
    from wsipipe.models.devices import pick_device
    from wsipipe.models.resnet import build_resnet

    target = pick_device(device)
    encoder = build_resnet(
        settings.name,
        kind=settings.kind,
        weights=settings.weights,
        stride_px=settings.stride_px,
        fold=not settings.trainable,
    )
    if settings.backend == "torch":
        return encoder.to(target)
    from wsipipe.models.onnx_encoder import OnnxEncoder, check_installed, is_installed

    if settings.backend == "auto" and (target.type != "cpu" or not is_installed()):
        return encoder.to(target)
    if target.type != "cpu":
        raise ConfigError(f"backend 'onnx' runs on the CPU, not on {target}", remedy="use --device cpu, or torch")
    check_installed()
    return OnnxEncoder(encoder)


def _filterbank(settings: EncoderSettings, device: str) -> Encoder:
    from wsipipe.models.filterbank import FilterBank

    if settings.kind != "dense":
        raise ConfigError("the filter bank makes dense maps only, got kind 'patch'", remedy="use --kind dense")
    return FilterBank(settings.stride_px)


def _timm(settings: EncoderSettings, device: str) -> Encoder:
    from wsipipe.models.devices import pick_device
    from wsipipe.models.timm_models import build_timm

    target = pick_device(device)
    return build_timm(settings).to(target)


def _of_the_user(settings: EncoderSettings, device: str) -> Encoder:
    from wsipipe.models.devices import pick_device
    from wsipipe.models.user_encoders import build_user_encoder

    target = pick_device(device)
    encoder = build_user_encoder(settings)
    return encoder.to(target) if isinstance(encoder, nn.Module) else encoder


# Names that end in a colon stand for all that begin with them.
ENCODERS: Mapping[str, Callable[[EncoderSettings, str], Encoder]] = MappingProxyType(
    {
        "resnet18": _resnet,
        "resnet34": _resnet,
        "resnet50": _resnet,
        "filterbank": _filterbank,
        "timm:": _timm,
        USER_CODE: _of_the_user,
    }
)
