"""Teachers made from the decoder features and the points: the variational model, and the contrast map alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.config import CvmSettings
from wsipipe.models.losses import partial_cross_entropy, soft_cross_entropy
from wsipipe.models.methods.base import Batch, Losses, Scene
from wsipipe.models.methods.teacher import Teacher, shared_out
from wsipipe.models.segmentation import SegmentationModel
from wsipipe.numerics.contrast import contrast_map, stretched
from wsipipe.numerics.variational import variational_segmentation


class FeatureTeacher(Teacher):
    """A teacher that reads decoder features and points; of several classes, each against the rest.

    With `CvmSettings.hard_labels`, u is cut at 0.5 and learnt from by plain cross-entropy: section 5.4's ablation.

    Windows without points of both classes, and windows on which u comes out constant (the features do not tell the
    points apart yet), have no target.
    """

    def __init__(self, settings: CvmSettings) -> None:
        super().__init__()
        self.settings = settings

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`."""
        if not self.settings.hard_labels:
            return super().loss(model, batch)
        logits, _ = model(batch.inputs)
        return Losses(
            points=partial_cross_entropy(logits, batch.labels),
            second=soft_cross_entropy(logits, (batch.target > 0.5).float(), batch.target_valid),
        )

    def segment(self, features: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
        """Target u (h, w) in [0, 1] from decoder features (h, w, width)."""
        raise TypeError(f"{type(self).__name__} says how u is made")

    def opinion(self, model: SegmentationModel, scene: Scene) -> NDArray[np.float32] | None:
        """See `Teacher.opinion`."""
        scenes = [*scene.against_rest()] or [scene]
        if not any(_marked(one) for one in scenes):
            return None
        features = decoder_features(model, scene.inputs)
        with featureless_points_allowed():
            u = [self.segment(features, one) if _marked(one) else None for one in scenes]
        if scene.classes:
            return shared_out(u, scene.valid)
        return None if u[0] is None or np.ptp(u[0][scene.valid]) == 0 else u[0]


def _marked(scene: Scene) -> bool:
    """Whether there are points on both sides."""
    return bool(len(scene.in_target) and len(scene.out_of_target))


class CvmTeacher(FeatureTeacher):
    """The proposed method: u of eq. 7."""

    def segment(self, features: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
        """See `FeatureTeacher.segment`; eq. 4 to 7."""
        settings = self.settings
        return variational_segmentation(
            features,
            scene.in_target,
            scene.out_of_target,
            eta=settings.eta,
            prototype=settings.prototype,
            lam=settings.lam,
            lam_rel=settings.lam_rel,
            beta=settings.beta,
            tol=settings.tol,
            valid=scene.valid,
        ).u


class ContrastMapTeacher(FeatureTeacher):
    """The paper's "Supervised By Contrast Map": the mean contrast map itself as u.

    Stretched to [0, 1] as eq. 7 stretches the mean segmentation, so that the two teachers differ in the variational
    step alone.
    """

    def segment(self, features: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
        """See `FeatureTeacher.segment`; eq. 4 and 5."""
        settings = self.settings
        contrast = contrast_map(
            features,
            scene.in_target,
            scene.out_of_target,
            eta=settings.eta,
            prototype=settings.prototype,
            valid=scene.valid,
        )
        return stretched(contrast.mean(axis=0), scene.valid)


@contextmanager
def featureless_points_allowed() -> Iterator[None]:
    """Let points pass at which all channels are off, as early in training: their contrast maps are 0, say nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="in-target points on cells without features")
        yield


@torch.no_grad()
def decoder_features(model: SegmentationModel, inputs: Tensor) -> NDArray[np.float32]:
    """Last decoder feature map (h, w, width) of one window (1, c, h, w), the model in evaluation mode."""
    _, features = model(inputs)
    return np.ascontiguousarray(features[0].permute(1, 2, 0).float().cpu().numpy())
