"""Batches for the optimiser: windows, labels and targets, turned together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET
from wsipipe.config import TrainingSettings
from wsipipe.models.methods.base import Batch, Method, Scene
from wsipipe.pipeline.augmentation import Turn, draw_turn, jitter_colours, stacked
from wsipipe.pipeline.samples import Sample, WindowCache, WindowData, label_map
from wsipipe.pipeline.tuning import EncoderTuner


@dataclass(frozen=True, eq=False)
class Loader:
    """Reads samples into batches on a device.

    Parameters
    ----------
    cache : WindowCache
        Where windows are kept.
    device : torch.device
        Where batches go.
    settings : TrainingSettings
        Batch size, steps, augmentation.
    tuner : EncoderTuner or None
        What encodes windows anew, where the encoder is trained.
    """

    cache: WindowCache
    device: torch.device
    settings: TrainingSettings
    tuner: EncoderTuner | None = None

    def steps(self, count: int) -> int:
        """Optimiser steps of an epoch over `count` windows."""
        return self.settings.steps_per_epoch or -(-count // self.settings.batch_size)

    def epoch(
        self, samples: Sequence[Sample], method: Method, rng: np.random.Generator, *, epoch: int
    ) -> Iterator[Batch]:
        """Batches of one epoch, the first being 1, shuffled and augmented by `rng` alone."""
        steps, size = self.steps(len(samples)), self.settings.batch_size
        order = _shuffled(len(samples), steps * size if self.settings.steps_per_epoch else len(samples), rng)
        for step, start in enumerate(range(0, len(order), size)):
            chosen = [samples[index] for index in order[start : start + size]]
            yield self.batch(chosen, method, rng, progress=training_progress(self.settings, epoch - 1 + step / steps))

    def batch(
        self, samples: Sequence[Sample], method: Method, rng: np.random.Generator, *, progress: float = 0.0
    ) -> Batch:
        """Batch of the given samples; smaller windows are filled up with cells that do not count."""
        planes = [self._planes(sample, method, rng) for sample in samples]
        inputs, labels, valid, target, target_valid, truth = zip(*planes, strict=True)
        return Batch(
            inputs=self._inputs(samples, stacked(inputs, fill=None)),
            labels=self._tensor(stacked(labels, fill=-1)),
            valid=self._tensor(stacked(valid, fill=0)),
            target=self._tensor(stacked(target, fill=0)),
            target_valid=self._tensor(stacked(target_valid, fill=0)),
            truth=self._tensor(stacked(truth, fill=-1)),
            progress=progress,
        )

    def scene(self, sample: Sample) -> Scene:
        """Window as a teacher sees it."""
        data = self.cache.get(sample)
        tuner, of = self.tuner, sample.points.of
        classes = tuple(of(label) for label in range(sample.classes))
        nowhere = np.zeros((0, 2), np.int64)
        return Scene(
            name=sample.name,
            inputs=self._tensor(data.inputs()[None]) if tuner is None else tuner.look(sample, data.valid)[None],
            valid=data.valid,
            in_target=nowhere if classes else of(IN_TARGET),
            out_of_target=nowhere if classes else of(OUT_OF_TARGET),
            classes=classes,
        )

    def settle(self, samples: Sequence[Sample]) -> None:
        """Let an encoder that is trained take the statistics of its norms from windows, see `EncoderTuner.settle`."""
        if self.tuner is not None:
            self.tuner.settle((sample, self.cache.get(sample).valid) for sample in samples)

    def _planes(self, sample: Sample, method: Method, rng: np.random.Generator) -> tuple[NDArray[np.generic], ...]:
        data, u = self.cache.get(sample), method.target(sample.name)
        turn = draw_turn(rng) if self.settings.augment else Turn()
        inputs = self._seen(data, rng) if self.tuner is None else _numbered(sample.shape)
        said = (sample.classes, *sample.shape) if sample.classes else sample.shape
        target = np.zeros(said, np.float32) if u is None else u
        target_valid = data.valid & (u is not None)
        planes = (inputs, label_map(sample, data.valid), data.valid, target, target_valid, truth_map(data))
        return tuple(turn(plane) for plane in planes)

    def _seen(self, data: WindowData, rng: np.random.Generator) -> NDArray[np.float32]:
        """Input (c, h, w) of the network, an image in other colours each time."""
        inputs = data.inputs()
        if self.settings.augment and data.features.dtype == np.uint8:
            return jitter_colours(inputs, rng)
        return inputs

    def _inputs(self, samples: Sequence[Sample], planes: NDArray[np.generic]) -> Tensor:
        """Input of the network; where the encoder is trained, planes (n, 1, h, w) tell which cell lies where."""
        if self.tuner is None:
            return self._tensor(planes)
        encoded = [self.tuner.encode(sample, self.cache.get(sample).valid) for sample in samples]
        pairs = zip(encoded, self._tensor(planes), strict=True)
        return torch.stack([features.flatten(1)[:, numbers[0]] for features, numbers in pairs])

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)


def _numbered(shape: tuple[int, int]) -> NDArray[np.int64]:
    """Cells of a window in their order, (1, h, w)."""
    return np.arange(shape[0] * shape[1]).reshape(1, *shape)


def training_progress(settings: TrainingSettings, epochs: float) -> float:
    """Share of the training after its warm-up that is done after so many epochs, in [0, 1]."""
    left = settings.epochs - settings.warmup_epochs
    return min(1.0, max(0.0, epochs - settings.warmup_epochs) / left) if left > 0 else 0.0


def truth_map(data: WindowData) -> NDArray[np.int8]:
    """Give the reference (h, w) as labels; -1 on cells without content, or everywhere where there is no reference."""
    if data.truth is None:
        return np.full(data.valid.shape, -1, np.int8)
    return np.where(data.valid, data.truth, -1).astype(np.int8)


def _shuffled(count: int, length: int, rng: np.random.Generator) -> list[int]:
    """Draw `length` indices below `count` in random order, each as often as any other, give or take one."""
    order: list[int] = []
    while len(order) < length:
        order += rng.permutation(count).tolist()
    return order[:length]
