"""Checkpoints: tensors in safetensors with a validated recipe beside them; loading one runs no code from it."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wsipipe.config import Recipe, parse_recipe
from wsipipe.errors import CheckpointError, ConfigError
from wsipipe.store.atomic import write_bytes
from wsipipe.store.tables import plain

FILE_TYPE, FILE_VERSION = "wsipipe.checkpoint", 1
_ENTRY = "wsipipe"
_REMEDY = "give the .safetensors file that `wsipipe train` wrote"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained network and where it comes from.

    Parameters
    ----------
    tensors : dict of str to Tensor
        The network's state.
    recipe : Recipe
        Settings it was trained with.
    provenance : dict
        JSON-able facts: in_channels, encoder, weights digest, mpp, stride, epoch, metrics, ...
    """

    tensors: dict[str, Tensor]
    recipe: Recipe
    provenance: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises
    ------
    StoreError
        The provenance is not JSON-able, or the file cannot be written.
    """
    told = {
        "type": FILE_TYPE,
        "version": FILE_VERSION,
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "provenance": plain(checkpoint.provenance, path=path, where="provenance"),
    }
    # Copies, because safetensors refuses views that share memory (tied weights).
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in checkpoint.tensors.items()}
    # One entry, because safetensors orders several by chance: equal checkpoints, equal bytes.
    write_bytes(path, safetensors.torch.save(tensors, {_ENTRY: json.dumps(told, allow_nan=False)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises
    ------
    CheckpointError
        The file is missing, cut off, no checkpoint of ours, of another version, or its recipe is invalid.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("no such checkpoint", path=path, remedy=_REMEDY)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            told = _checked(path, file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"is cut off or no checkpoint: {error}", path=path, remedy=_REMEDY) from error
    recipe, provenance = _parsed(path, told)
    return Checkpoint(tensors, recipe, provenance)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what resuming a training needs (optimiser, epoch, random states), whole or not at all.

    Parameters
    ----------
    path : Path
        File to write.
    state : dict
        Tensors, numbers, strings, and containers of them: what `load_state` takes.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU; data only, no code.

    Raises
    ------
    CheckpointError
        The file is missing, cut off, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("no such training state", path=path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        problem = f"is cut off or no training state: {str(error).splitlines()[0] if str(error) else error!r}"
        raise CheckpointError(problem, path=path, remedy="start the training anew") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"holds {type(state).__name__}, not a training state", path=path)
    return state


def _checked(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    try:
        told = json.loads((metadata or {}).get(_ENTRY, "{}"))
    except ValueError as error:
        raise CheckpointError(f"has damaged metadata: {error}", path=path) from error
    if not isinstance(told, dict) or told.get("type") != FILE_TYPE:
        raise CheckpointError("holds tensors, but is no checkpoint of ours", path=path, remedy=_REMEDY)
    if told.get("version") != FILE_VERSION:
        problem = f"has version {told.get('version')}, this program reads {FILE_VERSION}"
        raise CheckpointError(problem, path=path, remedy="train again, or use the program that wrote it")
    return told


def _parsed(path: Path, told: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    recipe, provenance = told.get("recipe"), told.get("provenance")
    if not isinstance(recipe, dict) or not isinstance(provenance, dict):
        raise CheckpointError("has damaged metadata: recipe or provenance is no mapping", path=path)
    try:
        return parse_recipe(recipe), provenance
    except ConfigError as error:
        raise CheckpointError(f"has an invalid recipe: {error}", path=path) from error
