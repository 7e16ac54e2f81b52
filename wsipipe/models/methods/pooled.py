"""Beyond the paper: a contrast-based variational teacher that learns from the points of all windows at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from wsipipe.config import CvmPlusSettings
from wsipipe.models.losses import partial_cross_entropy, soft_cross_entropy
from wsipipe.models.methods.base import Batch, Losses, Scene
from wsipipe.models.methods.teacher import Teacher
from wsipipe.models.pooled_prior import PooledPrior, enlarged, seen
from wsipipe.models.segmentation import SegmentationModel
from wsipipe.numerics.pooled_contrast import Moments, PooledContrast, Prototypes, Standard, point_means
from wsipipe.numerics.variational import solve_cvm

_EVIDENCE, _TARGET = "evidence:", "target:"

Floats = NDArray[np.float32]


class PooledCvmTeacher(Teacher):
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
    * Asked again, from the end of the warm-up at each new lowest validation loss, the teacher adds the network's logit
      to that of the contrast and segments the sum.
    * The model that predicts is the network plus the contrast to the training points (`PooledPrior`): each is wrong
      elsewhere. The network's weight, in [0, 1], is the one with the lowest cross-entropy on the validation points: a
      network that is too sure of itself on other patients counts for less. In training it stands alone.
    """

    ready_at_once = True

    def __init__(self, settings: CvmPlusSettings) -> None:
        super().__init__()
        self.settings = settings
        self._evidence: dict[str, Floats] = {}

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
            self._evidence[scene.name] = np.ascontiguousarray(fine[0, 0].numpy())
            self._targets[scene.name] = self._segmented(self._evidence[scene.name], scene.valid)
        prior = PooledPrior.of(contrast, standard, gain=settings.gain, stride=stride)
        model.prior = prior.to(model.mean.device)

    def tune(self, model: SegmentationModel, held_out: Iterable[tuple[Scene, NDArray[np.int8]]]) -> None:
        """See `Method.tune`; the network's weight beside the prior."""
        if model.prior is None:
            return
        own, others, wanted = [], [], []
        for scene, labels in held_out:
            known = torch.from_numpy(labels >= 0)
            own.append(_alone(model, scene)[known])
            others.append(model.prior(scene.inputs)[0, 0].cpu()[known])
            wanted.append(torch.from_numpy(labels)[known].float())
        model.prior.student.fill_(best_share(torch.cat(own), torch.cat(others), torch.cat(wanted)))

    def opinion(self, model: SegmentationModel, scene: Scene) -> Floats | None:
        """See `Teacher.opinion`."""
        own = self.settings.student * _alone(model, scene)
        return self._segmented(self._evidence[scene.name] + own.numpy(), scene.valid)

    def state(self) -> Mapping[str, Tensor]:
        """See `Method.state`."""
        kept = {_EVIDENCE: self._evidence, _TARGET: self._targets}
        return {f"{kind}{name}": torch.from_numpy(a) for kind, maps in kept.items() for name, a in maps.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Method.load_state`."""
        self._evidence, self._targets = (
            {name.removeprefix(kind): a.numpy() for name, a in state.items() if name.startswith(kind)}
            for kind in (_EVIDENCE, _TARGET)
        )

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

    def _segmented(self, logit: Floats, valid: NDArray[np.bool_]) -> Floats:
        """Target from a map of logits: eq. 6 on its logistic, and a share of the logistic itself."""
        settings = self.settings
        z = torch.sigmoid(torch.from_numpy(logit)).numpy()
        u = solve_cvm(z[None], lam_rel=settings.lam_rel, beta=settings.beta, tol=settings.tol, valid=valid).u[0]
        return np.asarray(settings.soft * z + (1 - settings.soft) * u, np.float32)


@torch.no_grad()
def _alone(model: SegmentationModel, scene: Scene) -> Tensor:
    """Logits (h, w) of the network without the prior, on the CPU."""
    logits, _ = model.decode(model.encode(scene.inputs), scene.inputs.shape[-2:])
    return logits[0, 0].float().cpu()


def best_share(own: Tensor, others: Tensor, wanted: Tensor) -> float:
    """Find the s in [0, 1] with the lowest cross-entropy of s x own + others.

    Parameters
    ----------
    own, others : (n,) float tensors
        Logits.
    wanted : (n,) float tensor
        Labels, 0 or 1.
    """

    def cross_entropy(share: float) -> float:
        return float(F.binary_cross_entropy_with_logits(share * own.double() + others.double(), wanted.double()))

    return float(minimize_scalar(cross_entropy, bounds=(0.0, 1.0), method="bounded").x)


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
