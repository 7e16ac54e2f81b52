"""Full supervision: the reference masks instead of the points."""

from __future__ import annotations

from wsipipe.models.losses import partial_cross_entropy
from wsipipe.models.methods.base import Batch, Losses, Method
from wsipipe.models.segmentation import SegmentationModel


class FullSupervision(Method):
    """Cross-entropy over every cell of the reference mask; what points can at best come close to."""

    needs_masks = True

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`; eq. 3 with every cell of the mask as its set S."""
        logits, _ = model(batch.inputs)
        return Losses(points=partial_cross_entropy(logits, batch.truth), second=logits.sum() * 0.0)
