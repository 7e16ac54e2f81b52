"""Any image network as an encoder: a pooled vector per patch, or its map of tokens or convolutions.

What the network is, is read off it by a dry run: length of the features, px per cell, how far a cell looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsipipe.errors import ConfigError
from wsipipe.models.reach import find_halo
from wsipipe.models.stem import IMAGENET_MEAN, IMAGENET_STD
from wsipipe.models.weights import weights_digest

Kind = Literal["patch", "dense"]
_PROBES = 2  # images in a dry run: one would hide a network that mixes up its batch


@dataclass(frozen=True)
class InputFormat:
    """What a network takes.

    Parameters
    ----------
    side_px : int
        Side of the square images that it was made for.
    mean, std : (float, float, float)
        Of RGB in [0, 1]; pixels are centred and scaled by them.
    interpolation : {"bicubic", "bilinear"}
        How patches of another size are brought to `side_px`.
    any_size : bool
        Whether dense maps may be computed from larger images; else from windows of `side_px`.
    """

    side_px: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    any_size: bool = False


class BackboneEncoder(nn.Module):
    """A network behind the interface of `wsipipe.models.encoders.Encoder`; make one with `as_encoder`.

    Parameters
    ----------
    net : Module
        In evaluation mode. Patch: (n, 3, side, side) -> (n, dim), or tokens, or a map. Dense: as `feature_map` tells.
    name : str
        As the settings have it.
    kind : {"patch", "dense"}
        What `encode` gives.
    takes : InputFormat
        What the network takes.
    pooling : int
        Dense: cells squared of the network's map that are averaged into one.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, *, name: str, kind: Kind, takes: InputFormat, pooling: int = 1) -> None:
        super().__init__()
        self.net, self.name, self.takes, self.pooling = net, name, takes, pooling
        self.kind: str = kind
        std = torch.tensor(takes.std)
        self.register_buffer("gain", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-torch.tensor(takes.mean) / std).view(1, 3, 1, 1), persistent=False)
        self.dim = 0
        self.stride_px = self.halo_px = self.window_px = 0
        self.weights_digest = digest_of(net)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.gain.device

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of (n, h, w, 3) uint8 pixels on the encoder's device, with a graph where one is asked for."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)
        if self.kind == "patch":
            return pooled_vector(self.net, self._normalised(self._resized(x))).float()
        features = feature_map(self.net, self._normalised(x)).float()
        return functional.avg_pool2d(features, self.pooling) if self.pooling > 1 else features

    @torch.inference_mode()
    def encode(self, batch: Tensor) -> Tensor:
        """Features without a graph; see `wsipipe.models.encoders.Encoder`."""
        return self.forward(batch.to(self.device, non_blocking=True))

    def _normalised(self, x: Tensor) -> Tensor:
        return x * self.gain + self.shift

    def _resized(self, x: Tensor) -> Tensor:
        side = self.takes.side_px
        if x.shape[2:] == (side, side):
            return x
        x = functional.interpolate(x, (side, side), mode=self.takes.interpolation, antialias=True)
        return x.clamp_(0, 255)  # bicubic overshoots; a picture cannot


def as_encoder(net: nn.Module, *, name: str, kind: Kind, takes: InputFormat, stride_px: int) -> BackboneEncoder:
    """Make an encoder of a network, on the CPU, in evaluation mode; its numbers come from a dry run.

    Parameters
    ----------
    net : Module
        See `BackboneEncoder`.
    name : str
        As the settings have it.
    kind : {"patch", "dense"}
        What is wanted.
    takes : InputFormat
        What the network takes.
    stride_px : int
        Dense: px per cell, the network's own or a multiple; its map is averaged down.

    Raises
    ------
    ConfigError
        The network cannot be run, gives something else than features, or has another stride.
    """
    net = net.eval().requires_grad_(requires_grad=False).float()
    encoder = BackboneEncoder(net, name=name, kind=kind, takes=takes).eval()
    features = _dry_run(encoder)
    encoder.dim = features.shape[1]
    if kind == "dense":
        _lay_out(encoder, features, stride_px)
    return encoder


def feature_map(net: nn.Module, x: Tensor) -> Tensor:
    """Map of a network, (n, 3, h, w) -> (n, dim, rows, cols).

    `forward_features` where there is one, as in timm, else the call itself. Tokens (n, length, dim) are laid out on
    a grid of the image's proportions without the `num_prefix_tokens` first ones (class, registers); maps with their
    features last (`output_fmt` "NHWC") are turned.
    """
    features: Tensor = getattr(net, "forward_features", net)(x)
    if features.ndim == 3:
        tokens = features[:, getattr(net, "num_prefix_tokens", 0) :]
        rows, cols = _grid_of(tokens.shape[1], x.shape[2], x.shape[3])
        return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, cols)
    return features.movedim(3, 1) if str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC") else features


def pooled_vector(net: nn.Module, x: Tensor) -> Tensor:
    """One vector per image, (n, dim), as the network pools.

    A network that leaves tokens unpooled (Virchow) gives its class token beside the mean of its patch tokens, as
    its authors say; one that leaves a map unpooled, the mean over the map.
    """
    features: Tensor = net(x)
    if features.ndim == 3:
        prefix = getattr(net, "num_prefix_tokens", 0)
        mean = features[:, prefix:].mean(dim=1)
        return torch.cat([features[:, 0], mean], dim=1) if getattr(net, "cls_token", None) is not None else mean
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features


def digest_of(net: nn.Module) -> str:
    """Digest of the floating-point values of a network, "none" where it has none."""
    tensors = {name: value.float() for name, value in net.state_dict().items() if value.is_floating_point()}
    return weights_digest(tensors) if tensors else "none"


def _grid_of(tokens: int, height: int, width: int) -> tuple[int, int]:
    rows = round((tokens * height / width) ** 0.5)
    if not rows or tokens % rows:
        raise ConfigError(
            f"{tokens} tokens of an image of {width} x {height} px make no grid",
            remedy="tell the tokens without a place by num_prefix_tokens, or use --kind patch",
        )
    return rows, tokens // rows


def _dry_run(encoder: BackboneEncoder) -> Tensor:
    side = encoder.takes.side_px
    try:
        features = encoder.encode(torch.zeros((_PROBES, side, side, 3), dtype=torch.uint8))
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, NotImplementedError) as error:
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"encoder {encoder.name!r} cannot be run on {side} x {side} px: {told}",
            remedy="a network takes (n, 3, h, w) float32 and gives (n, dim), (n, tokens, dim) or (n, dim, rows, cols)",
        ) from error
    if features.ndim != (2 if encoder.kind == "patch" else 4) or len(features) != _PROBES:
        raise ConfigError(
            f"encoder {encoder.name!r} gives {tuple(features.shape)} for {_PROBES} images, no {encoder.kind} features",
            remedy=f"use --kind {'dense' if encoder.kind == 'patch' else 'patch'}, or another encoder",
        )
    return features


def _lay_out(encoder: BackboneEncoder, features: Tensor, stride_px: int) -> None:
    """Set stride, halo and window of a dense encoder from its map of one image."""
    side, (rows, cols) = encoder.takes.side_px, features.shape[2:]
    own = side // rows
    if (own * rows, own * cols) != (side, side):
        raise ConfigError(
            f"encoder {encoder.name!r} gives {rows} x {cols} cells for {side} x {side} px, which is no even stride",
            remedy="use --kind patch",
        )
    halo = _halo(encoder, own)
    pooling = stride_px // own
    if pooling * own != stride_px or not pooling or (halo is None and rows % pooling):
        strides = [own * k for k in range(1, rows + 1) if halo is not None or rows % k == 0]
        raise ConfigError(
            f"encoder {encoder.name!r} makes cells of {own} px, got a stride of {stride_px} px",
            remedy=f"use --stride {', '.join(map(str, strides[:4]))}{' ...' * (len(strides) > 4)}",
        )
    encoder.pooling, encoder.stride_px = pooling, stride_px
    encoder.halo_px = 0 if halo is None else -(-halo // stride_px) * stride_px
    encoder.window_px = side if halo is None else 0


def _halo(encoder: BackboneEncoder, stride: int) -> int | None:
    """Exact halo of a network for images of any size; None for those that need windows."""
    if not encoder.takes.any_size:
        return None
    try:
        return find_halo(lambda x: feature_map(encoder.net, x), stride)
    except (RuntimeError, ValueError, AssertionError, ConfigError):
        return None  # it refuses other sizes than its own
