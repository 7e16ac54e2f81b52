"""What every method offers, and what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wsipipe.models.losses import partial_cross_entropy
from wsipipe.models.segmentation import SegmentationModel


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows as the network sees them, augmented, on its device.

    Parameters
    ----------
    inputs : (n, c, h, w) float tensor
        Features, or RGB in [0, 1].
    labels : (n, h, w) int8 tensor
        1 in-target, 0 out-of-target, -1 unlabelled; of K classes, 0 to K - 1 and -1.
    valid : (n, h, w) bool tensor
        Cells that hold something and belong to their window.
    target : (n, h, w) float32 tensor
        What `Method.target` said; 0 where it said nothing. Of K classes, (n, K, h, w).
    target_valid : (n, h, w) bool tensor
        Where it said something, on valid cells.
    truth : (n, h, w) int8 tensor
        Reference mask in the same labels, -1 where there is none.
    progress : float
        Share of the steps after the warm-up that are done, in [0, 1); for what rises or falls during the training.
    """

    inputs: Tensor
    labels: Tensor
    valid: Tensor
    target: Tensor
    target_valid: Tensor
    truth: Tensor
    progress: float = 0.0


@dataclass(frozen=True, eq=False)
class Losses:
    """The two terms of eq. 2, scalar tensors; `second` is zero where a method has none."""

    points: Tensor
    second: Tensor


@dataclass(frozen=True, eq=False)
class Scene:
    """A training window as a teacher sees it: whole, not augmented.

    Parameters
    ----------
    name : str
        Names the window in the run.
    inputs : (1, c, h, w) float tensor
        On the network's device.
    valid : (h, w) bool array
        Cells that hold something.
    in_target, out_of_target : (p, 2), (q, 2) int64 arrays
        Points as (row, col) cells of the window.
    classes : tuple of (p, 2) int64 arrays
        Points of each of several classes, where these are told apart; `in_target` and `out_of_target` are empty then.
    """

    name: str
    inputs: Tensor
    valid: NDArray[np.bool_]
    in_target: NDArray[np.int64]
    out_of_target: NDArray[np.int64]
    classes: tuple[NDArray[np.int64], ...] = ()

    def against_rest(self) -> Iterator[Scene]:
        """Show the window to each class in turn: its own points in target, those of all others out of target."""
        for own, points in enumerate(self.classes):
            others = [other for label, other in enumerate(self.classes) if label != own]
            yield replace(self, in_target=points, out_of_target=np.concatenate(others), classes=())


class Method:
    """Learning from points alone (partial cross-entropy), and the frame for everything beyond.

    The trainer calls `attach` once, `prepare` once before the first step, `loss` and then `after_step` at each step,
    and `refresh` when the validation partial cross-entropy reaches a new minimum after the warm-up; `state` and
    `load_state` carry a method over an interruption. During the warm-up, `Losses.second` is not learnt from, unless the
    method is `ready_at_once`. Random numbers are torch's own, which the trainer seeds. What predicts is the
    model alone.

    Attributes
    ----------
    needs_masks : bool
        Reference masks are learnt from.
    has_teacher : bool
        `refresh` does something.
    ready_at_once : bool
        The second term needs no warm-up: what it learns from does not come from the network.
    paced : bool
        The loss depends on `Batch.progress`, so that a run of more epochs is another run from its first step.
    """

    needs_masks = False
    has_teacher = False
    ready_at_once = False
    paced = False

    def attach(self, model: SegmentationModel) -> Iterable[nn.Parameter]:
        """Make what the method keeps beside the network (an average of its weights, a second decoder).

        Returns
        -------
        iterable of Parameter
            What is to be trained along with the network, on its device.
        """
        return ()

    def prepare(self, model: SegmentationModel, scenes: Iterable[Scene]) -> None:
        """Learn what can be learnt of the training windows before the first step.

        Parameters
        ----------
        model : SegmentationModel
            Untrained, in evaluation mode.
        scenes : iterable of Scene
            The training windows; may be gone through several times.
        """

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """Losses of a batch, to be differentiated; eq. 3 alone."""
        logits, _ = model(batch.inputs)
        return Losses(points=partial_cross_entropy(logits, batch.labels), second=logits.sum() * 0.0)

    def after_step(self, model: SegmentationModel) -> None:
        """Follow the network after an optimiser step (an average of weights, say)."""

    def refresh(self, model: SegmentationModel, scenes: Iterable[Scene]) -> None:
        """Ask the teacher again for every training window; the model is in evaluation mode."""

    def target(self, name: str) -> NDArray[np.float32] | None:
        """Tell what the teacher last said of a window, (h, w) in [0, 1]; None where it has said nothing.

        Of K classes, (K, h, w), of sum 1 on valid cells.
        """
        return None

    def state(self) -> Mapping[str, Tensor]:
        """Tensors that an interrupted run needs to go on the same."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
