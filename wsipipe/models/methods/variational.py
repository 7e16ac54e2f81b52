"""Teachers made from the decoder features and the points: the variational model, and the contrast map alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsipipe.config import CvmSettings
from wsipipe.models.losses import partial_cross_entropy, weighted_kl
from wsipipe.models.methods.base import Batch, Losses, Method, Scene
from wsipipe.numerics.contrast import contrast_map
from wsipipe.numerics.variational import variational_segmentation


class FeatureTeacher(Method):
    """A soft target u for each window, followed by the uncertainty-weighted divergence (eq. 2).

    Windows without points of both classes, and windows on which u comes out constant (the features do not tell the
    points apart yet), have no target: they are trained by their points alone.
    """

    has_teacher = True

    def __init__(self, settings: CvmSettings) -> None:
        self.settings = settings
        self._targets: dict[str, NDArray[np.float32]] = {}

    def segment(self, features: NDArray[np.float32], scene: Scene) -> NDArray[np.float32]:
        """Target u (h, w) in [0, 1] from decoder features (h, w, width)."""
        raise TypeError(f"{type(self).__name__} says how u is made")

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        """See `Method.loss`; eq. 2."""
        logits, _ = model(batch.inputs)
        return Losses(
            points=partial_cross_entropy(logits, batch.labels),
            second=weighted_kl(logits, batch.target, batch.target_valid),
        )

    def refresh(self, model: nn.Module, scenes: Iterable[Scene]) -> None:
        """See `Method.refresh`."""
        self._targets = {scene.name: u for scene in scenes if (u := self._opinion(model, scene)) is not None}

    def target(self, name: str) -> NDArray[np.float32] | None:
        """See `Method.target`."""
        return self._targets.get(name)

    def state(self) -> Mapping[str, Tensor]:
        """See `Method.state`."""
        return {name: torch.from_numpy(u) for name, u in self._targets.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Method.load_state`."""
        self._targets = {name: u.numpy() for name, u in state.items()}

    def _opinion(self, model: nn.Module, scene: Scene) -> NDArray[np.float32] | None:
        if not (len(scene.in_target) and len(scene.out_of_target)):
            return None
        with featureless_points_allowed():
            u = self.segment(decoder_features(model, scene.inputs), scene)
        return None if np.ptp(u[scene.valid]) == 0 else u


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
        return _stretched(contrast.mean(axis=0), scene.valid)


@contextmanager
def featureless_points_allowed() -> Iterator[None]:
    """Let points pass at which all channels are off, as early in training: their contrast maps are 0, say nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="in-target points on cells without features")
        yield


@torch.no_grad()
def decoder_features(model: nn.Module, inputs: Tensor) -> NDArray[np.float32]:
    """Last decoder feature map (h, w, width) of one window (1, c, h, w), the model in evaluation mode."""
    _, features = model(inputs)
    return np.ascontiguousarray(features[0].permute(1, 2, 0).float().cpu().numpy())


def _stretched(u: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    low, high = u[valid].min(), u[valid].max()
    scale = high - low if high > low else np.float32(1)
    return np.where(valid, (u - low) / scale, np.float32(0))
