"""Pseudo labels from cosine similarity maps, in the manner of Peng et al. (IEEE J Biomed Health Inform 24(8), 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wsipipe.config import CosineSettings
from wsipipe.models.losses import partial_cross_entropy, soft_cross_entropy
from wsipipe.models.methods.base import Batch, Losses, Method
from wsipipe.models.methods.ramps import sigmoid_rampup
from wsipipe.models.segmentation import SegmentationModel


class CosineSimilarity(Method):
    """Unlabelled cells take the label of the points whose features are most like theirs.

    The source was not at hand; known of it are its abstract (a network trained end to end from annotated and
    unannotated areas alike) and what the paper says (it "utilizes cosine similarity maps"). Decided here:

    * Features are those of the last decoder map, as for the contrast maps. The similarity of a cell to a class is the
      mean cosine to the cells that points of that class label in the same window (eq. 4, averaged). Windows without
      points of both classes have no pseudo labels.
    * A cell is labelled with the class it is more similar to, where the two similarities differ by `margin` or more.
    * Labels are made anew at each step and carry no gradient; their cross-entropy is a mean over the labelled cells,
      and its weight rises as exp(-5 (1 - t)^2) over the training: similarities say little at first.
    * Its Fisher loss, an addition of its own, is left out: the paper's table speaks of similarity maps alone.
    """

    paced = True

    def __init__(self, settings: CosineSettings) -> None:
        self.settings = settings

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`."""
        logits, features = model(batch.inputs)
        label, sure = pseudo_labels(features.detach().float(), batch.labels, margin=self.settings.margin)
        chosen = sure & batch.valid & (batch.labels < 0)
        weight = self.settings.weight * sigmoid_rampup(batch.progress)
        return Losses(
            points=partial_cross_entropy(logits, batch.labels),
            second=weight * soft_cross_entropy(logits, label.float(), chosen),
        )


def pseudo_labels(features: Tensor, labels: Tensor, *, margin: float) -> tuple[Tensor, Tensor]:
    """Label cells by their similarity to the labelled ones.

    Parameters
    ----------
    features : (n, c, h, w) float tensor
        Decoder features.
    labels : (n, h, w) integer tensor
        1 in-target, 0 out-of-target, -1 unlabelled.
    margin : float
        Least difference of similarities that tells something.

    Returns
    -------
    label, sure : (n, h, w) bool tensors
        In target, and where that is told.
    """
    with torch.autocast(features.device.type, enabled=False):  # half precision would blur the margin
        unit = F.normalize(features, dim=1)
        # The mean cosine to several cells is the product with the mean of their unit vectors.
        inside, outside = (_mean_direction(unit, labels == label) for label in (1, 0))
        contrast = torch.einsum("nchw,nc->nhw", unit, inside - outside)
    both = ((labels == 1).flatten(1).any(dim=1) & (labels == 0).flatten(1).any(dim=1))[:, None, None]
    return contrast > 0, both & (contrast != 0) & (contrast.abs() >= margin)


def _mean_direction(unit: Tensor, where: Tensor) -> Tensor:
    """Mean (n, c) of unit vectors (n, c, h, w) over cells of each window; 0 where there are none."""
    weight = where.to(unit.dtype)
    return torch.einsum("nchw,nhw->nc", unit, weight) / weight.sum(dim=(1, 2)).clamp(min=1)[:, None]
