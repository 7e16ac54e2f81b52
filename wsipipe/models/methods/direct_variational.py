"""The variational model of eq. 1 on the network's own output: the paper's "Direct Variational Regularization"."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from wsipipe.config import DirectVariationalSettings
from wsipipe.models.losses import partial_cross_entropy
from wsipipe.models.losses_variational import variational_energy
from wsipipe.models.methods.base import Batch, Losses, Method, Scene
from wsipipe.models.methods.guide import guide_image
from wsipipe.models.methods.teacher import Teacher, shared_out
from wsipipe.models.segmentation import SegmentationModel, probabilities
from wsipipe.numerics.variational import solve_cvm


class DirectVariationalTeacher(Teacher):
    """The network's probability map, segmented by eq. 1, supervises the network.

    Section 5.3: the method "directly applies the edge-aware variational model (Eq.1) on the segmentation output of the
    deep segmentation model and the corresponding result is used to supervise the training". So f is the probability
    map of a window, u its minimiser (with the (1 - u) form, lambda and g as in the contrast-based model, so that the
    two differ in what is segmented), and u is learnt from like that of the contrast-based model: weighted divergence,
    asked again at a new lowest validation loss. The paper says neither of the last two of this method. Points are not
    needed; a u that is constant says nothing. Of several classes, f is the probability of each in turn.
    """

    def __init__(self, settings: DirectVariationalSettings) -> None:
        super().__init__()
        self.settings = settings

    def opinion(self, model: SegmentationModel, scene: Scene) -> NDArray[np.float32] | None:
        """See `Teacher.opinion`; eq. 1."""
        settings = self.settings
        u = solve_cvm(
            probability(model, scene),
            lam=settings.lam,
            lam_rel=settings.lam_rel,
            beta=settings.beta,
            tol=settings.tol,
            valid=scene.valid,
        ).u
        if scene.classes:
            return shared_out([*u], scene.valid)
        return None if np.ptp(u[0][scene.valid]) == 0 else u[0]


class DirectVariationalEnergy(Method):
    """The energy of eq. 1 of the network's output on the input image, as a loss beside the points.

    The other reading of "regularization", and what Kim and Ye (IEEE TIP 2019) do: u is the output itself, f the image
    (a feature map: its main axes, see `guide_image`).
    """

    def __init__(self, settings: DirectVariationalSettings) -> None:
        self.settings = settings

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`; eq. 1."""
        settings = self.settings
        logits, _ = model(batch.inputs)
        energy = variational_energy(
            torch.sigmoid(logits[:, 0].float()),
            guide_image(model, batch),
            batch.valid,
            lam=settings.lam,
            lam_rel=settings.lam_rel,
            beta=settings.beta,
        )
        return Losses(points=partial_cross_entropy(logits, batch.labels), second=settings.weight * energy)


@torch.no_grad()
def probability(model: SegmentationModel, scene: Scene) -> NDArray[np.float32]:
    """Probability (1, h, w) of being in target, or (K, h, w) of each class, the model in evaluation mode."""
    logits, _ = model(scene.inputs)
    return probabilities(logits.float())[0].cpu().numpy()
