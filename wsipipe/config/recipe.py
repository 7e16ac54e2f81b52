"""A recipe: all settings together."""

from __future__ import annotations

from typing import Any, Self

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from wsipipe.config.base import Settings
from wsipipe.config.masks import PredictSettings, SegmentSettings
from wsipipe.config.methods import (
    CosineSettings,
    CrfSettings,
    CvmPlusSettings,
    CvmSettings,
    DirectVariationalSettings,
    DualBranchSettings,
    MeanTeacherSettings,
    MixMatchSettings,
)
from wsipipe.config.slides import EncoderSettings, StainSettings, TileSettings
from wsipipe.config.training import MANY_CLASSES, NetworkSettings, TrainingSettings


class Recipe(Settings):
    """Everything that one YAML in `configs/` can say."""

    tile: TileSettings = TileSettings()
    encoder: EncoderSettings = EncoderSettings()
    stain: StainSettings = StainSettings()
    network: NetworkSettings = NetworkSettings()
    cvm: CvmSettings = CvmSettings()
    cvm_plus: CvmPlusSettings = CvmPlusSettings()
    mixmatch: MixMatchSettings = MixMatchSettings()
    mean_teacher: MeanTeacherSettings = MeanTeacherSettings()
    crf: CrfSettings = CrfSettings()
    dual_branch: DualBranchSettings = DualBranchSettings()
    cosine: CosineSettings = CosineSettings()
    direct_variational: DirectVariationalSettings = DirectVariationalSettings()
    training: TrainingSettings = TrainingSettings()
    predict: PredictSettings = PredictSettings()
    segment: SegmentSettings = SegmentSettings()

    @model_validator(mode="after")
    def _same_features(self) -> Self:
        if self.encoder.trainable and self.training.method == "cvm_plus":
            raise ValueError("cvm_plus compares points by features that encoder.trainable changes, use cvm")
        return self

    @model_validator(mode="after")
    def _tells_classes_apart(self) -> Self:
        if not self.training.classes:
            return self
        energy = self.training.method == "direct_variational" and self.direct_variational.form == "energy"
        if self.training.method not in MANY_CLASSES or energy:
            told = "direct_variational as an energy" if energy else self.training.method
            raise ValueError(f"{told} learns target and rest alone, for training.classes use {', '.join(MANY_CLASSES)}")
        if self.predict.refine:
            raise ValueError("predict.refine segments target from rest, with training.classes leave it out")
        return self

    @model_serializer(mode="wrap")
    def _without_idle_stain(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what does nothing: digests of recipes from before there was a stain section stay the same."""
        data: dict[str, Any] = dump(self)
        if self.stain.method == "none":
            del data["stain"]
        return data

    def for_method(self) -> dict[str, dict[str, Any]]:
        """Give the settings that a training depends on, by section, as plain values: not those of other methods.

        Someone who changes one method's settings need not train the others again.
        """
        method = self.training.method
        own = {"contrast_map": "cvm"}.get(method, method)
        plain = self.model_dump(mode="json")
        return {name: of for name, of in plain.items() if name not in _OF_METHODS or name == own}

    @property
    def views(self) -> int:
        """Mirrored views that are averaged in prediction."""
        return self.predict.views or (4 if self.training.method == "cvm_plus" else 1)

    @property
    def refines(self) -> bool:
        """Whether the variational model segments the probability."""
        return self.training.method == "cvm_plus" if self.predict.refine is None else self.predict.refine


_OF_METHODS = frozenset({"cvm", "cvm_plus", "mixmatch", "mean_teacher", "crf", "dual_branch", "cosine"}) | {
    "direct_variational",
    "segment",
}
