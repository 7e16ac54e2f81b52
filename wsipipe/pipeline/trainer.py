"""The optimiser's loop: epochs, validation, teacher, state."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsipipe.config import Recipe, TrainingSettings
from wsipipe.errors import NumericsError
from wsipipe.models.methods.base import Batch, Method, Scene
from wsipipe.models.methods.registry import build_method
from wsipipe.models.segmentation import SegmentationModel, build_model
from wsipipe.pipeline.batches import Loader, truth_map
from wsipipe.pipeline.preparation import TrainingSet
from wsipipe.pipeline.samples import Sample, WindowCache, label_map
from wsipipe.pipeline.scoring import decided, labelled_losses, mean_dice
from wsipipe.pipeline.training_state import VERSION, Memory, trained_settings
from wsipipe.pipeline.tuning import EncoderTuner
from wsipipe.progress import Progress, Report

# Windows that statistics of a tuned encoder are taken from, at most: of its batch norms after each epoch, of its
# features at the start.
_SETTLING = 64


@dataclass(frozen=True)
class Scores:
    """Validation of one epoch.

    Parameters
    ----------
    pce : float
        Partial cross-entropy, mean over the labelled cells.
    dice : float or None
        Over all cells of windows with a reference mask together (many windows hold no target at all, so a mean over
        windows would mislead), the mean over several classes; None where there are none.
    """

    pce: float
    dice: float | None


class Trainer:
    """A run in progress. Its next epoch depends on `state` and the training set alone.

    Random numbers of an epoch come from the seed and the epoch's number, so that a run that was interrupted ends
    like one that was not, on the CPU bit by bit.

    Parameters
    ----------
    data : TrainingSet
        Windows to train and to validate on.
    recipe : Recipe
        Settings.
    device : torch.device
        Where the network is.
    item : str
        Names the run in progress reports.
    report : Report
        Told every step.
    """

    def __init__(self, data: TrainingSet, recipe: Recipe, *, device: torch.device, item: str, report: Report) -> None:
        self.data = data
        self.recipe = recipe
        half = recipe.training.mixed_precision and device.type == "cuda"
        self.tuner = EncoderTuner(recipe, device=device, half=half) if recipe.encoder.trainable else None
        self.loader = Loader(WindowCache(), device, recipe.training, self.tuner)
        self.memory = Memory()
        self.method: Method = build_method(recipe)
        training = recipe.training
        with _seeded(training.seed, 0, torch.device("cpu")):
            self.model = _new_model(data, recipe, self.loader).to(device)
            beside = self.method.attach(self.model)
        groups: list[dict[str, Any]] = [{"params": [*self.model.parameters(), *beside], "ratio": 1.0}]
        if self.tuner is not None:
            groups.append({"params": list(self.tuner.parameters), "ratio": recipe.encoder.rate_ratio})
        self._optimizer = torch.optim.Adam(groups, lr=training.learning_rate, weight_decay=training.weight_decay)
        self._half = half
        self._scaler = torch.amp.GradScaler(device.type, enabled=half)
        self._item, self._report = item, report

    @property
    def settings(self) -> TrainingSettings:
        """Settings of the training."""
        return self.recipe.training

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.memory.epoch >= self.settings.epochs

    def run_epoch(self) -> dict[str, Any]:
        """Train one epoch, validate, and ask the teacher where it is time to.

        Returns
        -------
        dict
            The epoch's row of figures.

        Raises
        ------
        NumericsError
            The loss, of training or of validation, is no longer finite.
        """
        began, memory = time.perf_counter(), self.memory
        if memory.epoch == 0:
            self.model.eval()
            self.method.prepare(self.model, _Scenes(self))
        memory.epoch += 1
        losses = self._train()
        scores = self.validate()
        if not math.isfinite(scores.pce):
            raise self._not_finite("validation loss", scores.pce)
        if scores.pce < memory.best_pce:
            memory.best_epoch, memory.best_pce = memory.epoch, scores.pce
        refreshed = self._ask_teacher(scores.pce)
        row = {
            "epoch": memory.epoch,
            "loss_points": losses[0],
            "loss_second": losses[1],
            "val_pce": scores.pce,
            "val_dice": scores.dice,
            "learning_rate": learning_rate(self.settings, memory.epoch),
            "refreshed": int(refreshed),
            "best": int(memory.best_epoch == memory.epoch),
            "seconds": round(time.perf_counter() - began, 3),
        }
        memory.history.append(row)
        return row

    def _train(self) -> tuple[float, float]:
        """One pass; mean of the two loss terms."""
        epoch, count = self.memory.epoch, len(self.data.train)
        rate, steps = learning_rate(self.settings, epoch), self.loader.steps(count)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("ratio", 1.0)
        total = np.zeros(2)
        self.model.train()
        with _seeded(self.settings.seed, epoch, self.loader.device) as rng:
            batches = self.loader.epoch(self.data.train, self.method, rng, epoch=epoch)
            for step, batch in enumerate(batches, start=1):
                total += self._step(batch)
                done = (epoch - 1) * steps + step
                self._report(Progress(self._item, "train", done, self.settings.epochs * steps))
        self.loader.settle(_some(self.data.train))
        return float(total[0] / steps), float(total[1] / steps)

    def _step(self, batch: Batch) -> tuple[float, float]:
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.loader.device.type, enabled=self._half):
            losses = self.method.loss(self.model, batch)
        counts = self.method.ready_at_once or self.memory.epoch > self.settings.warmup_epochs
        second = losses.second if counts else 0.0 * losses.second
        loss = losses.points + self.settings.kl_weight * second
        if not torch.isfinite(loss):
            raise self._not_finite("loss", loss.item())
        scaled: Tensor = self._scaler.scale(loss)
        torch.autograd.backward(scaled)
        if self.tuner is not None:
            self.tuner.backpropagate()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.method.after_step(self.model)
        return losses.points.item(), second.item()

    def _not_finite(self, name: str, value: float) -> NumericsError:
        epoch = self.memory.epoch
        return NumericsError(
            f"the {name} is {value} in epoch {epoch} at a learning rate of {learning_rate(self.settings, epoch):g}",
            remedy="use a lower learning rate",
        )

    def validate(self) -> Scores:
        """Partial cross-entropy and Dice of the validation windows, in evaluation mode."""
        self.model.eval()
        losses, masks, truths = [np.zeros(0)], [np.zeros(0, np.int8)], [np.zeros(0, np.int8)]
        for sample in self.data.validation:
            data = self.loader.cache.get(sample)
            logits, labels = self.logits(sample), torch.from_numpy(label_map(sample, data.valid))
            losses.append(labelled_losses(logits, labels))
            truth = truth_map(data)
            masks.append(decided(logits)[truth >= 0])
            truths.append(truth[truth >= 0])
        mask, truth, classes = np.concatenate(masks), np.concatenate(truths), len(self.settings.classes or ())
        return Scores(float(np.concatenate(losses).mean()), mean_dice(mask, truth, classes) if truth.size else None)

    @torch.no_grad()
    def logits(self, sample: Sample) -> Tensor:
        """Logits (h, w) of a window, (K, h, w) of several classes, on the CPU."""
        self.model.eval()
        logits: Tensor = self.model(self.loader.scene(sample).inputs)[0][0]
        return (logits if sample.classes else logits[0]).float().cpu()

    def _ask_teacher(self, pce: float) -> bool:
        memory = self.memory
        if not self.method.has_teacher or memory.epoch < self.settings.warmup_epochs or pce >= memory.teacher_pce:
            return False
        memory.teacher_pce, memory.teacher_epoch = pce, memory.epoch
        self.model.eval()
        self.method.refresh(self.model, _Scenes(self))
        return True

    def told_scenes(self) -> Iterator[Scene]:
        """Training windows as a teacher sees them, one after the other; progress is reported."""
        count = len(self.data.train)
        for done, sample in enumerate(self.data.train):
            self._report(Progress(self._item, "teacher", done, count))
            yield self.loader.scene(sample)
        self._report(Progress(self._item, "teacher", count, count))

    def state(self) -> dict[str, Any]:
        """Everything the next epoch depends on."""
        return {
            "version": VERSION,
            "settings": trained_settings(self.recipe),
            "digest": self.data.digest,
            "memory": asdict(self.memory),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "method": dict(self.method.state()),
        } | ({} if self.tuner is None else {"encoder": self.tuner.state()})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.memory = Memory(**state["memory"])
        self.model.load(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.method.load_state(state["method"])
        if self.tuner is not None:
            self.tuner.load_state(state["encoder"])


@dataclass(frozen=True, eq=False)
class _Scenes:
    """The training windows of a run, read anew each time somebody goes through them."""

    trainer: Trainer

    def __iter__(self) -> Iterator[Scene]:
        return self.trainer.told_scenes()


def learning_rate(settings: TrainingSettings, epoch: int) -> float:
    """Learning rate of an epoch, the first being 1; the cosine reaches zero after the last."""
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / settings.epochs))


def _new_model(data: TrainingSet, recipe: Recipe, loader: Loader) -> SegmentationModel:
    model = build_model(data.facts["in_channels"], recipe)
    samples = data.train if loader.tuner is None else _some(data.train)
    loader.settle(samples)
    model.set_statistics(*feature_statistics(samples, loader))
    return model


def _some(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Give every so many-th window: enough to tell what an encoder makes of the training set."""
    return samples[:: -(-len(samples) // _SETTLING)]


def feature_statistics(samples: Sequence[Sample], loader: Loader) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (c,) over the valid cells of windows, each in memory once."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for sample in samples:
        values = _valid_values(sample, loader).astype(np.float64)
        count, total, squares = count + values.shape[1], total + values.sum(axis=1), squares + (values**2).sum(axis=1)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _valid_values(sample: Sample, loader: Loader) -> NDArray[np.float32]:
    """Input (c, n) of the network on the valid cells of a window: as stored, or as the encoder in training sees it."""
    data = loader.cache.get(sample)
    if loader.tuner is None:
        return data.inputs()[:, data.valid]
    return np.asarray(loader.tuner.look(sample, data.valid).cpu().numpy()[:, data.valid])


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[np.random.Generator]:
    """Random numbers of one epoch, numpy's and torch's; torch's global state is put back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        sequence = np.random.SeedSequence([seed, epoch])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        yield np.random.default_rng(sequence)
