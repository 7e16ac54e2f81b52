"""The folder of one training run: everything in it is whole at any moment, however the run ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import yaml
from numpy.typing import NDArray

from wsipipe.config import Recipe
from wsipipe.store.atomic import write_text, writing
from wsipipe.store.checkpoint import Checkpoint, load_checkpoint, load_state, save_checkpoint, save_state
from wsipipe.store.images import write_png
from wsipipe.store.lock import FileLock
from wsipipe.store.tables import write_csv

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunFolder:
    """A run folder, locked while it is open.

    Holds `checkpoint.safetensors` (the best model), `state.pt` (to go on after an interruption), `recipe.yaml`,
    `metrics.csv`, `curves.png`, `previews/epoch_*.png` and TensorBoard events in `tensorboard/`.

    Parameters
    ----------
    path : Path
        The folder; made if it is not there.

    Raises
    ------
    StoreError
        Another process trains into it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / "run")
        self._writer: SummaryWriter | None = None

    @property
    def checkpoint_path(self) -> Path:
        """The best model."""
        return self.path / "checkpoint.safetensors"

    @property
    def state_path(self) -> Path:
        """What an interrupted run needs to go on."""
        return self.path / "state.pt"

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._lock.release()

    def load_state(self) -> dict[str, Any] | None:
        """State of the last finished epoch; None where there is none.

        Raises
        ------
        StoreError
            The file is damaged.
        """
        return load_state(self.state_path) if self.state_path.exists() else None

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state of an epoch; it survives the process."""
        save_state(self.state_path, state)

    def clear(self) -> None:
        """Forget an earlier run: its state, checkpoint, previews and events."""
        with writing(self.path):
            previews, events = self.path / "previews", self.path / "tensorboard"
            for path in (self.state_path, self.checkpoint_path, *previews.glob("*.png"), *events.glob("events.*")):
                path.unlink(missing_ok=True)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write the best model."""
        save_checkpoint(self.checkpoint_path, checkpoint)

    def load_checkpoint(self) -> Checkpoint:
        """Read the best model."""
        return load_checkpoint(self.checkpoint_path)

    def write_recipe(self, recipe: Recipe) -> None:
        """Write every setting of the run, defaults included, as YAML that `load_recipe` reads."""
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        write_text(self.path / "recipe.yaml", text)

    def write_metrics(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write the figures of all epochs, one row each."""
        write_csv(self.path / "metrics.csv", rows)

    def write_curves(self, picture: NDArray[np.uint8]) -> None:
        """Write the plot of the metrics, (h, w, 3)."""
        write_png(self.path / "curves.png", picture)

    def write_preview(self, epoch: int, picture: NDArray[np.uint8]) -> None:
        """Write what the model makes of some windows after an epoch, (h, w, 3)."""
        write_png(self.path / "previews" / f"epoch_{epoch:04d}.png", picture)

    def log_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add figures to the TensorBoard events; what an interrupted run logged from this step on is superseded."""
        with writing(self.path / "tensorboard"):
            writer = self._events(step)
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

    def _events(self, step: int) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        return self._writer
