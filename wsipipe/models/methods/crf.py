"""Dense CRF loss beside the points (Tang et al., On Regularized Losses for Weakly-supervised CNN ..., ECCV 2018)."""

from __future__ import annotations

import torch

from wsipipe.config import CrfSettings
from wsipipe.models.losses import partial_cross_entropy
from wsipipe.models.losses_potts import potts_energy
from wsipipe.models.methods.base import Batch, Losses, Method
from wsipipe.models.methods.guide import guide_image
from wsipipe.models.segmentation import SegmentationModel


class CrfRegularisation(Method):
    """Partial cross-entropy plus the Potts energy of the output under a bilateral kernel over place and colour.

    As in the source and its published code (bandwidths of 15 grey values and 100 px, at half resolution, on the
    softmax output, no gradient into the image). What was decided here:

    * The energy is a mean over pairs of cells, not a sum: the published weight 2e-9 belongs to crops of 513 x 513 px,
      and a sum would grow with the square of the window. 2e-9 times the square of 256.5 x 256.5 is the default 8.66.
    * Unlabelled and labelled cells take part alike, as there; cells without content take none.
    * A feature map has no colours: three main axes of its features stand for them, see `guide_image`.
    * Both probability and image are averaged where the source takes every second pixel of the image.
    """

    def __init__(self, settings: CrfSettings) -> None:
        self.settings = settings

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`."""
        settings = self.settings
        logits, _ = model(batch.inputs)
        energy = potts_energy(
            torch.sigmoid(logits[:, 0].float()),
            guide_image(model, batch),
            batch.valid,
            sigma_xy=settings.sigma_xy,
            sigma_guide=settings.sigma_feature if model.empty_cells else settings.sigma_rgb / 255.0,
            shrink=settings.shrink,
        )
        return Losses(points=partial_cross_entropy(logits, batch.labels), second=settings.weight * energy)
