"""Teachers that say u of whole windows now and then; what they said is learnt from until they are asked again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.models.losses import partial_cross_entropy, weighted_kl
from wsipipe.models.methods.base import Batch, Losses, Method, Scene
from wsipipe.models.segmentation import SegmentationModel
from wsipipe.numerics.class_shares import class_shares


class Teacher(Method):
    """A soft target u for each window, followed by the uncertainty-weighted divergence (eq. 2).

    Windows on which the teacher has no opinion have no target: they are trained by their points alone.
    """

    has_teacher = True

    def __init__(self) -> None:
        self._targets: dict[str, NDArray[np.float32]] = {}

    def opinion(self, model: SegmentationModel, scene: Scene) -> NDArray[np.float32] | None:
        """Target u (h, w) in [0, 1] of a window, the model in evaluation mode; None where there is none.

        Of K classes, (K, h, w), see `shared_out`.
        """
        raise TypeError(f"{type(self).__name__} says how u is made")

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`; eq. 2."""
        logits, _ = model(batch.inputs)
        return Losses(
            points=partial_cross_entropy(logits, batch.labels),
            second=weighted_kl(logits, batch.target, batch.target_valid),
        )

    def refresh(self, model: SegmentationModel, scenes: Iterable[Scene]) -> None:
        """See `Method.refresh`."""
        self._targets = {scene.name: u for scene in scenes if (u := self.opinion(model, scene)) is not None}

    def target(self, name: str) -> NDArray[np.float32] | None:
        """See `Method.target`."""
        return self._targets.get(name)

    def state(self) -> Mapping[str, Tensor]:
        """See `Method.state`."""
        return {name: torch.from_numpy(u) for name, u in self._targets.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Method.load_state`."""
        self._targets = {name: u.numpy() for name, u in state.items()}


def shared_out(u: Sequence[NDArray[np.float32] | None], valid: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Target over several classes from what is said of each against the rest, see `class_shares`.

    Parameters
    ----------
    u : sequence of (h, w) float32 arrays or None
        One for each class; None, and an array that is constant on the valid cells, says nothing.
    valid : (h, w) bool array
        Cells that count.

    Returns
    -------
    (K, h, w) float32 array or None
        None where nothing is said of any class.
    """
    telling = [of is not None and np.ptp(of[valid]) > 0 for of in u]
    if not any(telling):
        return None
    nothing = np.zeros(valid.shape, np.float32)
    return class_shares(
        np.stack([of if of is not None and tells else nothing for of, tells in zip(u, telling, strict=True)]), valid
    )
