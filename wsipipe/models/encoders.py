"""Encoders behind one small interface, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from wsipipe.config import EncoderSettings
from wsipipe.errors import ConfigError


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
    weights_digest : str
        Names the weights; part of what makes two maps the same.
    """

    name: str
    kind: str
    dim: int
    stride_px: int
    halo_px: int
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


def build_encoder(settings: EncoderSettings, *, device: str = "cpu") -> Encoder:
    """Build the encoder that the settings ask for, ready to run on a device.

    Raises
    ------
    ConfigError
        Unknown name, no such device, or a kind or stride that the encoder does not have.
    WeightsError
        Its weights are not at hand or do not fit.
    """
    try:
        build = ENCODERS[settings.name]
    except KeyError:
        raise ConfigError(
            f"there is no encoder {settings.name!r} to extract features with", remedy=f"use {', '.join(ENCODERS)}"
        ) from None
    return build(settings, device)


def _resnet(settings: EncoderSettings, device: str) -> Encoder:
    from wsipipe.models.devices import pick_device
    from wsipipe.models.resnet import build_resnet

    target = pick_device(device)
    encoder = build_resnet(settings.name, kind=settings.kind, weights=settings.weights, stride_px=settings.stride_px)
    return encoder.to(target)


def _filterbank(settings: EncoderSettings, device: str) -> Encoder:
    from wsipipe.models.filterbank import FilterBank

    if settings.kind != "dense":
        raise ConfigError("the filter bank makes dense maps only, got kind 'patch'", remedy="use --kind dense")
    return FilterBank(settings.stride_px)


ENCODERS: Mapping[str, Callable[[EncoderSettings, str], Encoder]] = MappingProxyType(
    {"resnet18": _resnet, "resnet34": _resnet, "resnet50": _resnet, "filterbank": _filterbank}
)
