"""Beyond the paper: a contrast-based variational teacher that learns from the points of all windows at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.config import CvmPlusSettings
from wsipipe.models.losses import partial_cross_entropy, soft_cross_entropy
from wsipipe.models.methods.base import Batch, Losses, Method, Scene
from wsipipe.models.pooled_prior import PooledPrior, enlarged, seen
from wsipipe.models.segmentation import SegmentationModel
from wsipipe.numerics.grading import bounded_means
from wsipipe.numerics.pooled_contrast import Moments, PooledContrast, Prototypes, Standard, point_means
from wsipipe.numerics.variational import solve_cvm

Floats = NDArray[np.float32]


class PooledCvmTeacher(Method):
    """`cvm_plus`: contrast of pooled points, joined by the network's own opinion, segmented by eq. 6.

    Where the faithful `cvm` is limited with few points per image (docs/methods.md has the figures): its contrast maps
    know the points of one image; eq. 5's min-max stretch is set by the neighbourhood of the point; features of an
    untrained network tell nothing, so the first teacher is wrong and its mistakes are learnt. Here instead:

    * Points of all training windows are pooled (`wsipipe.numerics.pooled_contrast`): each has a correlation map on
      every window, and a ridge finds the weights of their contrast. A window's own points are trusted more.
    * Features are those of the input: a filter bank on RGB windows, the feature map itself on slides. They are there
      before the first step, so nothing warms up.
    * Eq. 6 segments the logistic of the contrast. The target is u, softened by that logistic, and learnt from by plain
      cross-entropy: the uncertainty weight of eq. 2 would take all cells that are not yet sure out of the loss (u alone
      is binary and gives it nothing to do).
    * The teacher is asked once: with a say of the network in it, it gets worse (docs/glas.md).
    * The model that predicts is the contrast to the training points (`PooledPrior`) and a little of the network: each
      is wrong elsewhere, and a network is too sure of itself on other patients. In training it stands alone.
    """

    ready_at_once = True

    def __init__(self, settings: CvmPlusSettings) -> None:
        self.settings = settings
        self._targets: dict[str, Floats] = {}

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`."""
        logits, _ = model(batch.inputs)
        return Losses(
            points=partial_cross_entropy(logits, batch.labels),
            second=soft_cross_entropy(logits, batch.target, batch.target_valid),
        )

    def prepare(self, model: SegmentationModel, scenes: Iterable[Scene]) -> None:
        """See `Method.prepare`; two passes over the windows, whose features are never in memory together."""
        settings = self.settings
        stride = 0 if model.empty_cells else settings.stride
        standard, points = self._pool(scenes, stride)
        contrast = PooledContrast(points, reach=settings.reach, noise=settings.noise, own=settings.own)
        for group, scene in enumerate(scenes):
            values = np.float32(settings.gain) * contrast.of(standard.apply(_cells(scene, stride)), group=group)
            fine = enlarged(torch.from_numpy(values)[None, None], stride, scene.valid.shape)
            z = torch.sigmoid(fine[0, 0]).numpy()
            self._targets[scene.name] = settings.soft * z + (1 - settings.soft) * self._segmented(z, scene.valid)
        prior = PooledPrior.of(contrast, standard, gain=settings.gain, stride=stride, student=settings.student)
        model.prior = prior.to(model.mean.device)

    def target(self, name: str) -> Floats | None:
        """See `Method.target`."""
        return self._targets.get(name)

    def state(self) -> Mapping[str, Tensor]:
        """See `Method.state`."""
        return {name: torch.from_numpy(u) for name, u in self._targets.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Method.load_state`."""
        self._targets = {name: u.numpy() for name, u in state.items()}

    def _pool(self, scenes: Iterable[Scene], stride: int) -> tuple[Standard, Prototypes]:
        """Points of all windows by their standardised features."""
        moments, vectors, labels, groups = Moments(), [], [], []
        for group, scene in enumerate(scenes):
            features = _cells(scene, stride)
            moments.add(features[_valid(scene, stride)])
            cells = np.concatenate([scene.in_target, scene.out_of_target]) // max(1, stride)
            vectors.append(point_means(features, cells, side=self.settings.prototype))
            labels.append(np.repeat([1, 0], [len(scene.in_target), len(scene.out_of_target)]))
            groups.append(np.full(len(cells), group))
        standard = moments.standard()
        points = Prototypes(standard.apply(np.concatenate(vectors)), np.concatenate(labels), np.concatenate(groups))
        return standard, points.thinned(self.settings.points_most, seed=0)

    def _segmented(self, z: Floats, valid: NDArray[np.bool_]) -> Floats:
        """Segment a map of probabilities by eq. 6; not into two where it shows one phase only."""
        settings = self.settings
        solve = partial(solve_cvm, z[None], lam_rel=settings.lam_rel, beta=settings.beta, tol=settings.tol, valid=valid)
        solution = solve()
        means = bounded_means(float(solution.c1[0]), float(solution.c2[0]))
        if means is not None:
            solution = solve(means=means)
        return np.asarray(solution.u[0])


def _cells(scene: Scene, stride: int) -> Floats:
    """Features (rows, cols, dim) of a window that points are compared by."""
    return np.ascontiguousarray(seen(scene.inputs.float(), stride)[0].permute(1, 2, 0).cpu().numpy())


def _valid(scene: Scene, stride: int) -> NDArray[np.bool_]:
    """Which of those cells hold something."""
    if not stride:
        return scene.valid
    fill = [(0, -side % stride) for side in scene.valid.shape]
    grown = np.pad(scene.valid, fill)
    rows, cols = (side // stride for side in grown.shape)
    return np.asarray(grown.reshape(rows, stride, cols, stride).any(axis=(1, 3)))
