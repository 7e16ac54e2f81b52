"""Two decoders that teach each other (Luo et al., Scribble-Supervised Medical Image Segmentation, MICCAI 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsipipe.config import DualBranchSettings
from wsipipe.models.losses import dice_loss, partial_cross_entropy
from wsipipe.models.methods.base import Batch, Losses, Method
from wsipipe.models.segmentation import SegmentationModel
from wsipipe.models.unet import Branch


class DualBranch(Method):
    """One encoder, two decoders; their randomly mixed opinion, made hard, is a pseudo label for both.

    As in the source and its published code: the second decoder is given maps with channels dropped out at random; the
    share of the mixture is drawn anew at each step; the loss is the mean of both partial cross-entropies plus 0.5
    times the mean of both Dice losses to the pseudo label, which carries no gradient. What was decided here: the
    pseudo label covers the valid cells, and the second decoder is kept beside the network: prediction has the main
    one alone, as there.
    """

    def __init__(self, settings: DualBranchSettings) -> None:
        self.settings = settings
        self._branch: Branch | None = None

    @property
    def branch(self) -> Branch:
        """The second decoder."""
        if self._branch is None:
            raise TypeError("attach comes before the second decoder is used")
        return self._branch

    def attach(self, model: SegmentationModel) -> Iterable[nn.Parameter]:
        """See `Method.attach`; a second decoder with weights of its own."""
        self._branch = model.unet.new_branch().to(model.mean.device)
        return self._branch.parameters()

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`."""
        size, stages = batch.inputs.shape[-2:], model.encode(batch.inputs)
        main, _ = model.decode(stages, size)
        second, _ = self.branch([F.dropout2d(stage, self.settings.dropout) for stage in stages], size)
        both = (main, second)
        label = mixed_label(main, second, float(torch.rand(())))
        points = torch.stack([partial_cross_entropy(logits, batch.labels) for logits in both]).mean()
        dice = torch.stack([dice_loss(logits, label, batch.valid) for logits in both]).mean()
        return Losses(points=points, second=self.settings.weight * dice)

    def state(self) -> Mapping[str, Tensor]:
        """See `Method.state`."""
        return self.branch.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Method.load_state`."""
        self.branch.load_state_dict(dict(state))


def mixed_label(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Hard label (n, h, w) of share x first + (1 - share) x second probability, from logits (n, 1, h, w)."""
    y1, y2 = (torch.sigmoid(logits.detach().float())[:, 0] for logits in (first, second))
    return share * y1 + (1.0 - share) * y2 > 0.5
