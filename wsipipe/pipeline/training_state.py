"""What a training run remembers between epochs, and whether it may go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsipipe.config import TUNING, Recipe
from wsipipe.errors import CheckpointError
from wsipipe.models.methods.registry import build_method

VERSION = 2


@dataclass
class Memory:
    """Figures that the next epoch depends on.

    Parameters
    ----------
    epoch : int
        Epochs finished.
    best_epoch : int
        The one whose model is the checkpoint; 0 before the first.
    best_pce : float
        Its validation partial cross-entropy, the lowest so far.
    teacher_epoch : int
        Epoch after which the teacher was last asked; 0 before.
    teacher_pce : float
        Validation partial cross-entropy then, the lowest since the warm-up.
    history : list of dict
        One row of figures per epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_pce: float = math.inf
    teacher_epoch: int = 0
    teacher_pce: float = math.inf
    history: list[dict[str, Any]] = field(default_factory=list)


def trained_settings(recipe: Recipe) -> dict[str, Any]:
    """Pick the settings that make a run what it is, by "section.name": not those of prediction, previews and length.

    Of the methods' own settings, those of the method trained count. More epochs at a constant learning rate continue a
    run; a schedule, and a method whose weights rise during the training, depend on their number.
    """
    plain, method = recipe.model_dump(mode="json"), recipe.training.method
    sections = {"tile", "encoder", "network", "cvm", "training", *({method, "stain"} & plain.keys())}
    settings = {f"{section}.{name}": value for section in sections for name, value in plain[section].items()}
    lasting = recipe.training.schedule == "constant" and not build_method(recipe).paced
    free = ["training.previews", "training.epochs" if lasting else ""]
    if not recipe.encoder.trainable:
        free += [f"encoder.{name}" for name in TUNING]
    return {name: value for name, value in settings.items() if name not in free}


def check_same_run(state: Mapping[str, Any], recipe: Recipe, digest: str, *, path: Path) -> None:
    """Refuse to go on with a run of other settings or another training set, or beyond the epochs asked for.

    Raises
    ------
    CheckpointError
        They differ (a setting that does is named with both values), or more epochs are trained than the recipe has.
    """
    remedy = "use another run folder, or --force to begin this one anew"
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"holds a training state of version {state.get('version')}, not {VERSION}", path=path, remedy=remedy
        )
    now, before = trained_settings(recipe), state["settings"]
    # The method first: its own settings follow from it.
    for name in sorted({*now, *before}, key=lambda name: (name != "training.method", name)):
        if now.get(name) != before.get(name):
            raise CheckpointError(
                f"was trained with {name} = {before.get(name)}, now it is {now.get(name)}", path=path, remedy=remedy
            )
    if state["digest"] != digest:
        raise CheckpointError("was trained on other slides, points, masks or features", path=path, remedy=remedy)
    trained, epochs = state["memory"]["epoch"], recipe.training.epochs
    if trained > epochs:
        raise CheckpointError(
            f"was trained for {trained} epochs already, now training.epochs is {epochs}", path=path, remedy=remedy
        )
