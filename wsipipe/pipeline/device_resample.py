"""Resample on any device what `wsipipe.slides.resample` resamples on the CPU: the same taps, sums in the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wsipipe.slides.resample import Taps


def resample_on_device(source: Tensor, rows: Sequence[Taps], cols: Sequence[Taps]) -> Tensor:
    """Apply the taps of both axes to several images of one output size.

    Parameters
    ----------
    source : (n, h, w, 3) uint8 Tensor
        The images, each from the first px that its taps need; what lies behind the last is not looked at.
    rows, cols : sequence of n Taps
        One output size and ratio for all.

    Returns
    -------
    (n, rows, cols, 3) uint8 Tensor
        On the device of `source`; see `wsipipe.slides.resample.resample`.
    """
    high = _along_first(rows, source)
    wide = _along_first(cols, high.transpose(1, 2))
    return wide.round_().to(torch.uint8).transpose(1, 2).contiguous()


def _along_first(taps: Sequence[Taps], source: Tensor) -> Tensor:
    """Sum tap after tap, as the CPU does: products of float32 are rounded before they are added."""
    index = torch.from_numpy(np.stack([each.index - each.start for each in taps])).to(source.device)
    weight = torch.from_numpy(np.stack([each.weight for each in taps])).to(source.device)
    image = torch.arange(len(source), device=source.device)[:, None]
    total = source.new_zeros((*index.shape[:2], *source.shape[2:]), dtype=torch.float32)
    for tap in range(index.shape[2]):
        total += source[image, index[..., tap]].to(torch.float32) * weight[..., tap, None, None]
    return total
