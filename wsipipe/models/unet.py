"""The U-Net on feature maps or images (Ronneberger, Fischer and Brox, MICCAI 2015)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

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
    """

    def __init__(self, in_channels: int, settings: NetworkSettings) -> None:
        super().__init__()
        widths = [settings.width * 2**stage for stage in range(settings.depth + 1)]
        block = functools.partial(_convolutions, norm=settings.norm)
        self.factor = 2**settings.depth
        self.reduce = block(in_channels, widths[0], kernels=(1,)) if in_channels > widths[0] else nn.Identity()
        self.encoder = nn.ModuleList(
            block(before, after)
            for before, after in zip([min(in_channels, widths[0]), *widths[:-1]], widths, strict=True)
        )
        self.dropout = nn.Dropout2d(settings.dropout)
        self.decoder = nn.ModuleList(
            _UpStage(below, here, block) for below, here in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], 1, kernel_size=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Segment.

        Parameters
        ----------
        x : (n, c, h, w) tensor
            Any h and w: padded inside to a multiple of 2**depth and cropped back.

        Returns
        -------
        logits : (n, 1, h, w) tensor
            Logits of being in target.
        features : (n, width, h, w) tensor
            The last decoder feature map, "Feature Map 2" of the paper's Fig. 2.
        """
        height, width = x.shape[-2:]
        features = self._decode(self._encode(self._padded(x)))[..., :height, :width]
        logits: Tensor = self.head(features)
        return logits, features

    def _padded(self, x: Tensor) -> Tensor:
        # Two cells a side at the bottom, so that a batch of one window still has statistics there.
        bottom, right = (max(-size % self.factor, 2 * self.factor - size) for size in x.shape[-2:])
        return F.pad(x, (0, right, 0, bottom), mode="replicate")

    def _encode(self, x: Tensor) -> list[Tensor]:
        x = self.reduce(x)
        stages: list[Tensor] = []
        for stage in self.encoder:
            x = stage(F.max_pool2d(stages[-1], 2) if stages else x)
            stages.append(x)
        return stages

    def _decode(self, stages: list[Tensor]) -> Tensor:
        x: Tensor = self.dropout(stages.pop())
        for stage in self.decoder:
            x = stage(x, stages.pop())
        return x


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
