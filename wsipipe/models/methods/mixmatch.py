"""MixMatch on cells (Berthelot et al., NeurIPS 2019; with points on slides: Gao et al., MICCAI 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wsipipe.config import MixMatchSettings
from wsipipe.models.losses import soft_cross_entropy, squared_error
from wsipipe.models.methods.base import Batch, Losses, Method
from wsipipe.models.methods.ramps import linear_rampup
from wsipipe.models.methods.views import draw_view
from wsipipe.models.segmentation import SegmentationModel


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows with a soft label on every cell.

    Parameters
    ----------
    inputs : (n, c, h, w) tensor
        Features or RGB.
    target : (n, h, w) float tensor
        Probability of being in target.
    known : (n, h, w) bool tensor
        Cells whose label was given.
    valid : (n, h, w) bool tensor
        Cells that count.
    """

    inputs: Tensor
    target: Tensor
    known: Tensor
    valid: Tensor


class MixMatch(Method):
    """Guessed labels, sharpened, and windows mixed with one another.

    MixMatch guesses the label of an unlabelled example from the mean prediction of K augmented copies, sharpens it
    (T), mixes all examples, labelled and guessed, with one another (MixUp), and adds the squared error on what is
    mostly unlabelled to the cross-entropy on what is mostly labelled. Gao et al. do this with patches: those at
    points are labelled, others are not. What was decided here, where a window has both kinds of cells:

    * A window enters once for its labelled cells and K times, turned and mirrored, for its unlabelled ones.
    * Guesses are made cell by cell: predictions of the turned copies are turned back and averaged.
    * Windows are mixed whole, inputs and labels with one share; a mixed cell counts as labelled or unlabelled after
      the window that has the larger share, as an example does in MixMatch. Both its cells must be valid.
    * Turns and mirrorings are the augmentation: the source has flips and shifts.
    * The source recommends to start from a weight of 100. That is for a squared error averaged over ten classes, whose
      sum it weighs by 10; to weigh the sum over two classes alike, their average takes 20.
    * The weight rises linearly over the training: the source's 16,000 steps are longer than a whole training here. No
      average of weights is kept for prediction, so that all rows of the table are networks as trained. With batch
      normalisation, the passes that guess count in its running statistics, which the source tunes afterwards.
    """

    paced = True

    def __init__(self, settings: MixMatchSettings) -> None:
        self.settings = settings

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`."""
        examples, count = self._examples(model, batch), len(batch.inputs)
        mixed = mix(examples, *self._partners(len(examples.inputs), like=examples.target))
        logits, _ = model(mixed.inputs)
        labelled, unlabelled = mixed.known & mixed.valid, ~mixed.known & mixed.valid
        weight = self.settings.weight * linear_rampup(batch.progress, self.settings.rampup)
        return Losses(
            points=soft_cross_entropy(logits[:count], mixed.target[:count], labelled[:count]),
            second=weight * squared_error(logits[count:], mixed.target[count:], unlabelled[count:]),
        )

    def _examples(self, model: SegmentationModel, batch: Batch) -> Examples:
        """Join the batch and `views` turned copies of it."""
        known = batch.labels >= 0
        target = torch.where(known, batch.labels.float(), self._guess(model, batch))
        # An empty cell mixed with a full one is the mean of the training set, which is what the network takes it for.
        inputs = torch.where(batch.valid[:, None], batch.inputs, model.mean[:, None, None].to(batch.inputs.dtype))
        views = [draw_view(inputs.shape[-2:]) for _ in range(self.settings.views)]
        inputs, target, known, valid = (
            torch.cat([plane, *(view.apply(plane) for view in views)]) for plane in (inputs, target, known, batch.valid)
        )
        return Examples(inputs, target, known, valid)

    @torch.no_grad()
    def _guess(self, model: SegmentationModel, batch: Batch) -> Tensor:
        """Sharpened mean prediction (n, h, w) of turned copies."""
        total = torch.zeros_like(batch.labels, dtype=torch.float32)
        for _ in range(self.settings.views):
            view = draw_view(batch.inputs.shape[-2:])
            logits, _ = model(view.apply(batch.inputs))
            total += view.undo(torch.sigmoid(logits[:, 0].float()))
        return sharpened(total / self.settings.views, self.settings.temperature)

    def _partners(self, count: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
        """For each example one to be mixed with, and its own share, the larger of the two."""
        concentration = torch.full((count,), self.settings.alpha)
        share = torch.distributions.Beta(concentration, concentration).sample()
        return torch.randperm(count).to(like.device), torch.maximum(share, 1.0 - share).to(like)


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / (p^(1/T) + (1 - p)^(1/T)): probabilities moved towards 0 and 1."""
    return torch.sigmoid(torch.logit(p, eps=1e-6) / temperature)


def mix(examples: Examples, partner: Tensor, share: Tensor) -> Examples:
    """Mix each example with another (MixUp: Zhang et al., ICLR 2018).

    Parameters
    ----------
    examples : Examples
        n windows.
    partner : (n,) int64 tensor
        Which other.
    share : (n,) float tensor
        Of the example itself; the other has 1 - share.
    """
    a, b = share[:, None, None], 1.0 - share[:, None, None]
    return Examples(
        inputs=a[:, None] * examples.inputs + b[:, None] * examples.inputs[partner],
        target=a * examples.target + b * examples.target[partner],
        known=examples.known,
        valid=examples.valid & examples.valid[partner],
    )
