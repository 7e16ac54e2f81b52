"""The image that a window's edges and colours are read from, for losses that look at the input itself."""

from __future__ import annotations

import torch
from torch import Tensor

from wsipipe.models.losses_potts import on_axes
from wsipipe.models.methods.base import Batch
from wsipipe.models.segmentation import SegmentationModel

AXES = 3


@torch.no_grad()
def guide_image(model: SegmentationModel, batch: Batch) -> Tensor:
    """Image of each window, (n, c, h, w) float32.

    RGB windows are their own image, in [0, 1]. A feature map has no colours; its image are the three main axes of the
    standardised features of the window, scaled together so that their mean variance over the valid cells is 1.
    """
    if not model.empty_cells:
        return batch.inputs.float()
    with torch.autocast(batch.inputs.device.type, enabled=False):  # half precision has no eigenvectors
        standard = model.standardised(batch.inputs.float())
        return torch.stack([_main_axes(x, valid) for x, valid in zip(standard, batch.valid, strict=True)])


def _main_axes(x: Tensor, valid: Tensor) -> Tensor:
    """Turn features (c, h, w) onto main axes (at most AXES, h, w); 0 on cells that are not valid."""
    image = x.new_zeros(min(AXES, len(x)), *valid.shape)
    if not valid.any():
        return image
    axes = on_axes(x[:, valid].T)[:, :AXES]
    image[:, valid] = axes.T / axes.square().mean().sqrt().clamp(min=1e-6)
    return image
