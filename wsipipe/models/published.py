"""What some published models are built with: their hub's configuration leaves it to the words of the model card."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NOT_OF_TIMM = "is it a model of timm? wrap others in a function of your own, --encoder python:module.function"
_GATED_MLP = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_LAYER_SCALE = {"init_values": 1e-5}
_UNI2 = {
    "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
    "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8, **_GATED_MLP,
}  # fmt: skip
_BIOPTIMUS = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}

# Keys in lower case: the hub does not tell cases apart.
ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mahmoodlab/uni": _LAYER_SCALE,
        "mahmoodlab/uni2-h": _UNI2,
        "paige-ai/virchow": _GATED_MLP,
        "paige-ai/virchow2": _GATED_MLP,
        "bioptimus/h-optimus-0": _LAYER_SCALE,
        "bioptimus/h-optimus-1": _LAYER_SCALE,
        "bioptimus/h0-mini": _GATED_MLP,
    }
)
NORMALISATION: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"bioptimus/h-optimus-0": _BIOPTIMUS, "bioptimus/h-optimus-1": _BIOPTIMUS}
)


def arguments_of(repository: str) -> Mapping[str, Any]:
    """Give the arguments that a model of the hub is built with, beside its configuration; none for most."""
    return ARGUMENTS.get(_key(repository), {})


def normalisation_of(repository: str) -> Mapping[str, Any]:
    """Mean and std that the card gives; empty where the configuration holds them."""
    return NORMALISATION.get(_key(repository), {})


def _key(repository: str) -> str:
    return repository.partition("@")[0].lower()
