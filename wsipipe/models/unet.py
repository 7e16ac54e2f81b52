"""The U-Net on feature maps or images (Ronneberger, Fischer and Brox, MICCAI 2015)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsipipe.config import NetworkSettings


class UNet(nn.Module):
    """U-Net that keeps the size of its input, whatever that is.

    Differences from the original, and why:

    * Convolutions are padded and followed by normalisation, of groups of channels by default: batches mostly hold one
      window, with which the statistics of batch normalisation at training and its running ones at prediction drift
      apart (eight GlaS images, one a batch, points alone: Dice on two held-out patients 0.49 to 0.67 in the last
      thirty of sixty epochs, with groups 0.70 to 0.78).
      Batch normalisation remains for larger batches; with it, windows agree exactly where they overlap.
    * The decoder enlarges bilinearly and mixes channels, where a transposed convolution leaves a checkerboard: the
      variational model reads these features cell by cell.
    * Wide inputs (256 or 512 channels of an encoder) are first reduced to `width` channels by a 1x1 convolution.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    settings : NetworkSettings
        Width, depth, normalisation and dropout.
    logits : int
        Outputs: 1, or one for each of several classes.
    """

    def __init__(self, in_channels: int, settings: NetworkSettings, *, logits: int = 1) -> None:
        super().__init__()
        widths = _widths(settings)
        block = functools.partial(_convolutions, norm=settings.norm)
        self.factor = 2**settings.depth
        self.reduce = block(in_channels, widths[0], kernels=(1,)) if in_channels > widths[0] else nn.Sequential()
        self.encoder = nn.ModuleList(
            block(before, after)
            for before, after in zip([min(in_channels, widths[0]), *widths[:-1]], widths, strict=True)
        )
        self.dropout = nn.Dropout2d(settings.dropout)
        self._settings = settings
        self.decoder = _up_stages(settings)
        self.head = _head(settings, logits)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Segment.

        Parameters
        ----------
        x : (n, c, h, w) tensor
            Any h and w: padded inside to a multiple of 2**depth and cropped back.

        Returns
        -------
        logits : (n, 1, h, w) tensor
            Logits of being in target; (n, K, h, w) of K classes.
        features : (n, width, h, w) tensor
            The last decoder feature map, "Feature Map 2" of the paper's Fig. 2.
        """
        return self.decode(self.encode(x), x.shape[-2:])

    def encode(self, x: Tensor) -> list[Tensor]:
        """Encode x (n, c, h, w), padded to a size that can be halved: maps for `decode`, finest first."""
        return self.encode_narrow(self.narrow(x))

    def narrow(self, x: Tensor) -> Tensor:
        """Mix the channels of x (n, c, h, w) into `width`, where there are more, cell by cell; not normalised yet."""
        narrow: Tensor = self.reduce[:1](x)
        return narrow

    def encode_narrow(self, x: Tensor) -> list[Tensor]:
        """Encode what `narrow` gave."""
        x = self.reduce[1:](self._padded(x))
        stages: list[Tensor] = []
        for stage in self.encoder:
            x = stage(F.max_pool2d(stages[-1], 2) if stages else x)
            stages.append(x)
        return [*stages[:-1], self.dropout(stages[-1])]

    def decode(self, stages: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Segment what `encode` gave of an input of this size (h, w); see `forward`."""
        return _decoded(stages, size, self.decoder, self.head)

    def new_branch(self) -> Branch:
        """Give another decoder for the maps of this encoder, untrained, on the CPU."""
        return Branch(self._settings)

    def _padded(self, x: Tensor) -> Tensor:
        # Two cells a side at the bottom, so that a batch of one window still has statistics there.
        bottom, right = (max(-size % self.factor, 2 * self.factor - size) for size in x.shape[-2:])
        return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


class Branch(nn.Module):
    """Decoder beside that of a U-Net, of the same form, with weights of its own.

    Parameters
    ----------
    settings : NetworkSettings
        Those of the U-Net.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.decoder = _up_stages(settings)
        self.head = _head(settings)

    def forward(self, stages: Sequence[Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Segment what the U-Net's `encode` gave; see `UNet.decode`."""
        return _decoded(stages, size, self.decoder, self.head)


class _UpStage(nn.Module):
    """Enlarge by two, mix channels, join the encoder's map of that size, convolve twice."""

    def __init__(self, below: int, here: int, block: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.mix = nn.Conv2d(below, here, kernel_size=1)
        self.convolve = block(2 * here, here)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # The 1x1 convolution commutes with the interpolation; on the small map it costs a quarter.
        x = F.interpolate(self.mix(x), size=skip.shape[-2:], mode="bilinear", align_corners=False)
        joined: Tensor = self.convolve(torch.cat([skip, x], dim=1))
        return joined


def _widths(settings: NetworkSettings) -> list[int]:
    """Channels of each stage, finest first."""
    return [settings.width * 2**stage for stage in range(settings.depth + 1)]


def _up_stages(settings: NetworkSettings) -> nn.ModuleList:
    widths, block = _widths(settings), functools.partial(_convolutions, norm=settings.norm)
    return nn.ModuleList(
        _UpStage(below, here, block) for below, here in zip(widths[:0:-1], widths[-2::-1], strict=True)
    )


def _head(settings: NetworkSettings, logits: int = 1) -> nn.Module:
    return nn.Conv2d(settings.width, logits, kernel_size=1)


def _decoded(
    stages: Sequence[Tensor], size: Sequence[int], decoder: nn.ModuleList, head: nn.Module
) -> tuple[Tensor, Tensor]:
    x = stages[-1]
    for stage, skip in zip(decoder, stages[-2::-1], strict=True):
        x = stage(x, skip)
    features = x[..., : size[0], : size[1]]
    logits: Tensor = head(features)
    return logits, features


def _convolutions(before: int, after: int, *, norm: str, kernels: tuple[int, ...] = (3, 3)) -> nn.Sequential:
    """Convolutions that keep the size, each normalised and rectified."""
    layers: list[nn.Module] = []
    for kernel in kernels:
        # Bias is left to the normalisation, which would cancel it.
        layers.append(nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False))
        layers += [_normalisation(after, norm), nn.ReLU(inplace=True)]
        before = after
    return nn.Sequential(*layers)


def _normalisation(channels: int, norm: str) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(channels, 4), channels)
