"""What the points of a training set say of any map, beside a network: the pooled contrast as a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsipipe.models.filterbank import FilterBank
from wsipipe.numerics.pooled_contrast import CLIP, PooledContrast, Standard

BAND = 16_384  # cells that are compared with the points at once


class PooledPrior(nn.Module):
    """Logits of being in target from the correlation of every cell with the points, beside those of a network.

    The contrast is that of `PooledContrast`, on any device. `student` is the weight of the network's logits.

    All of it are buffers: nothing is trained, everything is kept in the checkpoint.

    Parameters
    ----------
    points, dim : int
        Number of points and length of their feature vectors.
    """

    mean: Tensor
    deviation: Tensor
    vectors: Tensor
    weights: Tensor
    scale: Tensor
    student: Tensor
    stride: Tensor

    def __init__(self, points: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.register_buffer("vectors", torch.zeros(points, dim))
        self.register_buffer("weights", torch.zeros(points))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("student", torch.ones(()))
        self.register_buffer("stride", torch.zeros((), dtype=torch.int64))

    @classmethod
    def of(
        cls, contrast: PooledContrast, standard: Standard, *, gain: float, stride: int, student: float
    ) -> PooledPrior:
        """Take what was found of a training set.

        Parameters
        ----------
        contrast : PooledContrast
            Weights of the points.
        standard : Standard
            Of the features.
        gain : float
            Logit per unit of contrast.
        stride : int
            px per cell of the filter bank that RGB windows are seen by; 0: maps of features, seen as they are.
        student : float
            Weight of the network's logits.
        """
        vectors = torch.from_numpy(contrast.vectors)
        prior = cls(*vectors.shape)
        prior.mean.copy_(torch.from_numpy(standard.mean))
        prior.deviation.copy_(torch.from_numpy(standard.deviation))
        prior.vectors.copy_(vectors)
        prior.weights.copy_(torch.from_numpy(gain * contrast.weights()).float())
        prior.scale.fill_(contrast.scale)
        prior.student.fill_(student)
        prior.stride.fill_(stride)
        return prior

    def join(self, logits: Tensor, x: Tensor) -> Tensor:
        """Logits of a network and of the contrast together, (n, 1, h, w), for what the network was given."""
        joined: Tensor = self.student * logits + self(x)
        return joined

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 1, h, w) of the contrast, from feature maps or RGB in [0, 1], (n, c, h, w)."""
        with torch.autocast(x.device.type, enabled=False):  # half precision would blur distances
            features = seen(x.float(), int(self.stride))
            cells = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
            logits = torch.cat(list(self._logits(cells)))
            coarse = logits.reshape(len(x), 1, *features.shape[2:])
            return enlarged(coarse, int(self.stride), x.shape[-2:])

    def _logits(self, cells: Tensor) -> Iterator[Tensor]:
        squares = self.vectors.square().sum(dim=1)
        for band in torch.split(cells, BAND):
            standard = ((band - self.mean) / self.deviation).clamp(-CLIP, CLIP)
            distance = standard.square().sum(dim=1, keepdim=True) + squares - 2 * standard @ self.vectors.T
            yield torch.exp(-self.scale * distance.clamp(min=0)) @ self.weights


def seen(x: Tensor, stride: int) -> Tensor:
    """Features that points are compared by.

    Parameters
    ----------
    x : (n, c, h, w) float tensor
        Feature maps, or RGB in [0, 1].
    stride : int
        0: the maps as they are. Otherwise the filter bank of `stride` px per cell, the image's edge repeated where
        the last cell is not whole.

    Returns
    -------
    (n, dim, rows, cols) float tensor
    """
    if not stride:
        return x
    bottom, right = (-size % stride for size in x.shape[-2:])
    pixels = (F.pad(x, (0, right, 0, bottom), mode="replicate") * 255).round().to(torch.uint8)
    return FilterBank(stride).encode(pixels.permute(0, 2, 3, 1))


def enlarged(values: Tensor, stride: int, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Values (n, c, rows, cols) on the cells that `seen` gives, on the cells (h, w) of what it was given."""
    if not stride:
        return values
    fine = F.interpolate(values, scale_factor=stride, mode="bilinear", align_corners=False)
    return fine[..., : size[0], : size[1]]


def prior_of(tensors: Mapping[str, Tensor], prefix: str) -> PooledPrior | None:
    """Empty prior for the tensors of a model, shaped like theirs; None where they have none."""
    vectors = tensors.get(f"{prefix}vectors")
    return None if vectors is None or vectors.ndim != 2 else PooledPrior(*vectors.shape)
