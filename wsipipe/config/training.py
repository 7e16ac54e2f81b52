"""Settings of the network and of its training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from wsipipe.config.base import Settings


class NetworkSettings(Settings):
    """The U-Net on feature maps or images."""

    width: int = Field(32, ge=4, le=512, description="channels of the first stage; each further stage doubles them")
    depth: int = Field(4, ge=1, le=6, description="number of down-samplings")
    norm: Literal["group", "batch"] = Field(
        "group", description="normalisation; batch: larger batches, or windows that must not depend on their content"
    )
    dropout: float = Field(0.0, ge=0, lt=1)


MethodName = Literal[
    "partial_ce",
    "mixmatch",
    "mean_teacher",
    "crf",
    "dual_branch",
    "cosine",
    "full",
    "direct_variational",
    "contrast_map",
    "cvm",
    "cvm_plus",
]


MANY_CLASSES: tuple[MethodName, ...] = ("partial_ce", "full", "direct_variational", "contrast_map", "cvm")
"""Methods that tell more than two classes apart."""


class ClassSettings(Settings):
    """One of several classes to be told apart."""

    name: str = Field(min_length=1, description="what it is called in masks and GeoJSON")
    patterns: tuple[str, ...] = Field(
        (), description="classes of points that belong to it, with * and ?, or re: and a regular expression; none: name"
    )


class TrainingSettings(Settings):
    """Loss and optimiser; the paper's values are the defaults."""

    method: MethodName = Field(
        "cvm",
        description="what is learnt beside the points: a row of Table 1, or cvm_plus; full: the masks of the manifest "
        "instead",
    )
    classes: tuple[ClassSettings, ...] | None = Field(
        None,
        min_length=2,
        max_length=64,
        description="several classes to be told apart, [Tumor, Stroma, ...] or {Tumor: [patterns], ...}; null: target "
        "and the rest",
    )
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(1, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="learning rate over the epochs; cosine falls to zero at the last one"
    )
    weight_decay: float = Field(1e-4, ge=0)
    window: int = Field(256, ge=16, description="largest side of a training window in map cells (or image px)")
    point_width: Literal[1, 3, 5] = Field(1, description="a point labels this many cells squared")
    pairs: int | None = Field(None, ge=1, description="points of each class used per slide or image; null: all")
    kl_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the uncertainty-weighted KL term (1 in eq. 2), or of the term that another method has "
        "in its place, on top of that method's own weight",
    )
    warmup_epochs: int = Field(0, ge=0, description="epochs on points alone before the second term begins")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="optimiser steps in an epoch; null: one pass over the windows"
    )
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share held out where the manifest has no split")
    augment: bool = True
    previews: int = Field(10, ge=0, description="about how often pictures of the run are drawn; 0: never")
    seed: int = Field(0, ge=0)
    mixed_precision: bool = Field(default=True, description="on CUDA; the CPU always computes in float32")

    @field_validator("classes", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """Take names alone, and names with their patterns."""
        if isinstance(value, dict):
            return [{"name": name, "patterns": patterns or ()} for name, patterns in value.items()]
        if isinstance(value, list | tuple):
            return [{"name": item} if isinstance(item, str) else item for item in value]
        return value

    @model_serializer(mode="wrap")
    def _without_classes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set: recipes of two classes have the digests that they had before there were more."""
        plain: dict[str, Any] = handler(self)
        return plain if self.classes else {name: value for name, value in plain.items() if name != "classes"}

    @property
    def logits(self) -> int:
        """Outputs of the network: one of being in target, or one for each of several classes."""
        return len(self.classes or ()) or 1
