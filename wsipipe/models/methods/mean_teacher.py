"""Uncertainty-aware mean teacher (Yu et al., MICCAI 2019), on turned windows (Liu et al., Pattern Recognition 2022)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wsipipe.config import MeanTeacherSettings
from wsipipe.models.losses import entropy, partial_cross_entropy, squared_error
from wsipipe.models.methods.base import Batch, Losses, Method
from wsipipe.models.methods.ramps import sigmoid_rampup
from wsipipe.models.methods.views import View, draw_rotation
from wsipipe.models.segmentation import SegmentationModel

_STEPS = "steps"


class MeanTeacher(Method):
    """The network agrees with an average of itself wherever that is sure.

    The teacher's weights are an exponential average of the network's; its target comes from one noisy pass, its
    uncertainty is the entropy of the mean of eight. The squared difference counts on cells whose uncertainty is below
    (0.75 + 0.25 r) ln 2 and is weighted by 0.1 r, r = exp(-5 (1 - t)^2) over the training, as published. The paper's
    table cites Liu et al., who put Yu's loss beside sparse marks and let the teacher see the window turned by 0 to 3
    quarters: the default here; `rotate: false` is Yu's.

    What was decided here: noise is in deviations of each input channel, where the sources have images of unit
    deviation; both ramps last from the end of the warm-up to the end of the training; the weight is Yu's 0.1 (code
    for Liu's method by others has 1). The sources' networks have dropout, which also acts in the teacher's passes:
    `network.dropout` turns it on here; without it, the passes differ by their noise.
    """

    paced = True

    def __init__(self, settings: MeanTeacherSettings) -> None:
        self.settings = settings
        self._steps = 0
        self._teacher: SegmentationModel | None = None

    @property
    def teacher(self) -> SegmentationModel:
        """The averaged network."""
        if self._teacher is None:
            raise TypeError("attach comes before the teacher is used")
        return self._teacher

    def attach(self, model: SegmentationModel) -> Iterable[nn.Parameter]:
        """See `Method.attach`; a copy of the network, which no optimiser touches."""
        self._teacher = copy.deepcopy(model).requires_grad_(requires_grad=False).train()
        return ()

    def loss(self, model: SegmentationModel, batch: Batch) -> Losses:
        """See `Method.loss`."""
        logits, _ = model(batch.inputs)
        target, sure = self._opinion(batch, draw_rotation() if self.settings.rotate else View())
        weight = self.settings.weight * sigmoid_rampup(batch.progress)
        return Losses(
            points=partial_cross_entropy(logits, batch.labels),
            second=weight * squared_error(logits, target, sure & batch.valid),
        )

    @torch.no_grad()
    def after_step(self, model: SegmentationModel) -> None:
        """See `Method.after_step`; the true average until the exponential one is more correct."""
        decay = min(1.0 - 1.0 / (self._steps + 1), self.settings.decay)
        for average, value in zip(self.teacher.parameters(), model.parameters(), strict=True):
            average.lerp_(value, 1.0 - decay)
        self._steps += 1

    def state(self) -> Mapping[str, Tensor]:
        """See `Method.state`."""
        return {_STEPS: torch.tensor(self._steps), **self.teacher.state_dict()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Method.load_state`."""
        self._steps = int(state[_STEPS])
        self.teacher.load_state_dict({name: value for name, value in state.items() if name != _STEPS})

    @torch.no_grad()
    def _opinion(self, batch: Batch, view: View) -> tuple[Tensor, Tensor]:
        """Target probability (n, h, w), and where the teacher is sure of it."""
        inputs, valid = view.apply(batch.inputs), view.apply(batch.valid)
        target = self._pass(inputs, valid)
        mean = torch.stack([self._pass(inputs, valid) for _ in range(self.settings.passes)]).mean(dim=0)
        start = self.settings.threshold
        threshold = (start + (1.0 - start) * sigmoid_rampup(batch.progress)) * math.log(2)
        return view.undo(target), view.undo(entropy(mean) < threshold)

    def _pass(self, inputs: Tensor, valid: Tensor) -> Tensor:
        """Probability (n, h, w) of noisy inputs; cells without content stay without."""
        noise = self.settings.noise * torch.randn_like(inputs).clamp(-2.0, 2.0)
        shaken = inputs + noise * self.teacher.std[:, None, None] * valid[:, None]
        logits, _ = self.teacher(shaken)
        return torch.sigmoid(logits[:, 0].float())
