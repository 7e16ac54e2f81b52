"""Settings: pydantic models, frozen and validated; YAML in, one clear line out when something is wrong."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from wsipipe.errors import ConfigError


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no silent coercion of nonsense."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """Hash of every setting, for recognising finished work; 16 hexadecimal digits."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class TissueSettings(Settings):
    """How tissue is told from glass."""

    detect: bool = Field(
        default=True, description="false: all of the picture is tissue, as where fields are cut from inside a section"
    )
    mpp: float = Field(
        8.0, gt=0.5, le=64, description="resolution of the detection, um per px; of large slides down to twice that"
    )
    min_area_um2: float = Field(50_000, ge=0, description="smaller pieces of tissue are specks")
    min_hole_um2: float = Field(20_000, ge=0, description="smaller holes in tissue are closed")


class TileSettings(Settings):
    """Which patches of a slide are looked at."""

    mpp: float | None = Field(
        0.5, gt=0.02, le=64, description="target resolution, um per px; null: the image's own pixels"
    )
    patch_size_px: int = Field(256, ge=16, le=8192, description="side of a patch in target px")
    overlap_px: int = Field(0, ge=0, description="overlap of neighbouring patches in target px")
    min_tissue: float = Field(0.1, ge=0, le=1, description="smallest tissue fraction of a patch that is kept")
    tissue: TissueSettings = TissueSettings()

    @model_validator(mode="after")
    def _overlap_below_patch(self) -> Self:
        if self.overlap_px >= self.patch_size_px:
            raise ValueError(f"overlap_px {self.overlap_px} must be smaller than patch_size_px {self.patch_size_px}")
        return self

    @property
    def stride_px(self) -> int:
        """Step between patches in target px."""
        return self.patch_size_px - self.overlap_px


# Settings of an encoder that say how it is tuned; maps of the weights at hand do not depend on them.
TUNING = ("trainable", "tuned_stages", "rate_ratio")
USER_CODE = "python:"  # encoders whose name begins so are code of the user's own


class EncoderSettings(Settings):
    """Where features come from."""

    name: str = Field(
        "resnet34",
        description="resnet18/34/50, filterbank, timm:MODEL, timm:hf-hub:OWNER/MODEL, python:package.module.function, "
        "or none: images go to the network as they are",
    )
    kind: Literal["patch", "dense"] = Field("patch", description="one vector per patch, or a convolutional map")
    weights: str = Field("imagenet", description="imagenet or hub (published ones), none (random, seeded), or a file")
    stride_px: int = Field(16, ge=1, le=512, description="dense: step between map cells in target px")
    backend: Literal["torch", "onnx", "auto"] = Field(
        "torch",
        exclude=True,  # the features are the same up to rounding: no other work, and no matter of a trained model
        description="what runs a resnet: torch, onnx (ONNX Runtime, on the CPU), or auto: onnx where it can",
    )
    trainable: bool = Field(default=False, description="tune the encoder along with the network, on pixels read anew")
    tuned_stages: int | None = Field(1, ge=1, description="tuned: its last so many stages (ResNet: layers); null: all")
    rate_ratio: float = Field(0.1, gt=0, description="tuned: its learning rate, in those of the network")

    @model_validator(mode="after")
    def _tunes_something(self) -> Self:
        if self.trainable and self.name in ("none", "filterbank"):
            raise ValueError(f"encoder {self.name!r} has no weights that could be tuned, set trainable to false")
        return self

    @property
    def uses_images(self) -> bool:
        """Whether images skip the encoder."""
        return self.name == "none"


class StainSettings(Settings):
    """One look for all slides: a change of colours that is fitted once per slide, on a sample of its tissue."""

    method: Literal["none", "macenko", "reinhard"] = Field("none", description="for slides of H&E")
    reference: str = Field(
        "published", description="whose look slides are given: published, a picture or slide, or given (by target)"
    )
    target: tuple[float, ...] | None = Field(
        None, description="what the method's fit says of the reference; filled in where that is a picture"
    )

    @model_validator(mode="after")
    def _target_fits(self) -> Self:
        if (self.reference == "given") != (self.target is not None):
            raise ValueError("a target goes with reference: given, and reference: given with a target")
        if self.method == "none" and self.reference != "published":
            raise ValueError(f"reference {self.reference!r} needs a method, macenko or reinhard")
        wanted = {"macenko": 8, "reinhard": 6}.get(self.method)
        if self.target is not None and len(self.target) != wanted:
            raise ValueError(f"method {self.method!r} has a target of {wanted} numbers, got {len(self.target)}")
        return self


class CvmSettings(Settings):
    """The contrast-based variational model (eq. 4-7)."""

    eta: float = Field(0.6, ge=0, le=1, description="weight of the out-of-target correlation (eq. 5)")
    lam: float | None = Field(None, gt=0, description="fitting weight lambda (eq. 6); null: lam_rel / (c1 - c2)^2")
    lam_rel: float = Field(1.0, gt=0, description="scale-free fitting weight, used where lam is null")
    beta: float = Field(10.0, ge=0, description="edge detector g = 1 / (1 + beta |grad z|^2)")
    tol: float = Field(1e-4, gt=0, lt=1, description="relative duality gap at which the solver stops")
    prototype: Literal[1, 3, 5] = Field(3, description="a point's feature is the mean over this many cells squared")
    hard_labels: bool = Field(
        default=False, description="cut u at 0.5 and learn by plain cross-entropy, not by weighted KL (Fig. 3a)"
    )


class CvmPlusSettings(Settings):
    """The contrast-based variational model on the points of all windows at once, `cvm_plus`."""

    stride: int = Field(2, ge=2, le=64, description="images: px per cell of the filter bank that windows are seen by")
    prototype: Literal[1, 3, 5] = Field(3, description="a point's feature is the mean over this many cells squared")
    reach: float = Field(1.0, gt=0, description="how unlike features may be that still correlate, in deviations")
    noise: float = Field(0.3, gt=0, description="ridge on the points; larger trusts single points less")
    own: float = Field(10.0, ge=1, description="how many times more a point is trusted in its own window")
    points_most: int = Field(3000, ge=2, description="points that are pooled; of more, so many are drawn at random")
    gain: float = Field(1.5, gt=0, description="steepness of the logistic of the pooled contrast")
    student: float = Field(0.1, ge=0, description="weight of the network's logit beside that of the contrast")
    soft: float = Field(0.5, ge=0, le=1, description="share of the contrast itself in the target; the rest is u")
    lam_rel: float = Field(0.5, gt=0, description="scale-free fitting weight of the variational model")
    beta: float = Field(10.0, ge=0, description="edge detector g = 1 / (1 + beta |grad z|^2)")
    tol: float = Field(1e-3, gt=0, lt=1, description="relative duality gap at which the solver stops")


class NetworkSettings(Settings):
    """The U-Net on feature maps or images."""

    width: int = Field(32, ge=4, le=512, description="channels of the first stage; each further stage doubles them")
    depth: int = Field(4, ge=1, le=6, description="number of down-samplings")
    norm: Literal["group", "batch"] = Field(
        "group", description="normalisation; batch: larger batches, or windows that must not depend on their content"
    )
    dropout: float = Field(0.0, ge=0, lt=1)


class MixMatchSettings(Settings):
    """MixMatch (Berthelot et al., NeurIPS 2019) on cells; the starting values it recommends are the defaults."""

    views: int = Field(2, ge=1, le=8, description="turned views whose predictions make a guess (K)")
    temperature: float = Field(0.5, gt=0, le=1, description="of the sharpening of guesses (T); 1: none")
    alpha: float = Field(0.75, gt=0, description="of the Beta distribution of mixing shares")
    weight: float = Field(
        20.0, ge=0, description="of the squared error on unlabelled cells (lambda_U); 100 for the source's ten classes"
    )
    rampup: float = Field(1.0, gt=0, le=1, description="share of the training over which the weight rises from 0")


class MeanTeacherSettings(Settings):
    """Uncertainty-aware mean teacher (Yu et al., MICCAI 2019; Liu et al., Pattern Recognition 2022)."""

    decay: float = Field(0.99, ge=0, lt=1, description="of the teacher's average of weights, per step")
    passes: int = Field(8, ge=1, le=64, description="noisy passes of the teacher whose mean tells its uncertainty")
    noise: float = Field(
        0.1, ge=0, description="deviation of the teacher's input noise, in deviations of each channel; cut at twice"
    )
    threshold: float = Field(
        0.75, ge=0, le=1, description="largest uncertainty that counts at the start, of ln 2; rises to 1 at the end"
    )
    weight: float = Field(0.1, ge=0, description="of the consistency, reached at the end of the training")
    rotate: bool = Field(default=True, description="the teacher sees a quarter-turned window (Liu et al.); false: Yu")


class CrfSettings(Settings):
    """Dense CRF loss (Tang et al., ECCV 2018); defaults are those of its published code."""

    sigma_xy: float = Field(100.0, ge=1, description="reach of the kernel in map cells (or image px)")
    sigma_rgb: float = Field(15.0, ge=1, le=255, description="images: reach in colour, of 255")
    sigma_feature: float = Field(
        0.5, ge=0.05, description="feature maps: reach in their three main axes, in deviations of those"
    )
    shrink: int = Field(2, ge=1, le=16, description="the energy is that of cells averaged this many squared")
    weight: float = Field(
        8.66, ge=0, description="of the mean energy of a pair of cells; 2e-9 per pair of 256.5 x 256.5 px in the source"
    )


class DualBranchSettings(Settings):
    """Dual-branch network with mixed pseudo labels (Luo et al., MICCAI 2022)."""

    weight: float = Field(0.5, ge=0, description="of the Dice loss to the pseudo labels")
    dropout: float = Field(0.5, ge=0, lt=1, description="of channels that the second decoder is given, in training")


class CosineSettings(Settings):
    """Pseudo labels from cosine similarity maps, in the manner of Peng et al. (IEEE JBHI 2019)."""

    margin: float = Field(0.1, ge=0, lt=2, description="smaller differences of the two similarities give no label")
    weight: float = Field(1.0, ge=0, description="of the cross-entropy to the pseudo labels, reached at the end")


class DirectVariationalSettings(Settings):
    """The variational model of eq. 1 without contrast maps."""

    form: Literal["teacher", "energy"] = Field(
        "teacher",
        description="teacher: eq. 1 solved on the network's output, which then supervises it (section 5.3); "
        "energy: eq. 1 of the output on the input image, as a loss",
    )
    lam: float | None = Field(
        None, gt=0, description="fitting weight lambda; null: lam_rel / (c1 - c2)^2, for the energy lam_rel / variance"
    )
    lam_rel: float = Field(1.0, gt=0, description="scale-free fitting weight, used where lam is null")
    beta: float = Field(10.0, ge=0, description="edge detector g = 1 / (1 + beta |grad f|^2), as for cvm; 1 in eq. 1")
    tol: float = Field(1e-4, gt=0, lt=1, description="teacher: relative duality gap at which the solver stops")
    weight: float = Field(0.1, ge=0, description="energy: of the energy per cell")


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


class PredictSettings(Settings):
    """How a mask is made from a trained model."""

    threshold: float = Field(0.5, gt=0, lt=1)
    window: int = Field(256, ge=16, description="side of a prediction window in map cells (or image px)")
    overlap: int = Field(64, ge=0, description="overlap of neighbouring windows, blended away")
    views: Literal[1, 4] | None = Field(
        None, description="mirrored views of a window whose outputs are averaged; null: 4 for cvm_plus, else 1"
    )
    refine: bool | None = Field(
        None, description="segment the probability by the variational model (eq. 1); null: for cvm_plus alone"
    )
    lam_rel: float = Field(1.0, gt=0, description="scale-free fitting weight of that model")

    @model_validator(mode="after")
    def _overlap_below_window(self) -> Self:
        if self.overlap * 2 > self.window:
            raise ValueError(f"overlap {self.overlap} must be at most half of window {self.window}")
        return self


class SegmentSettings(Settings):
    """Points to mask without training: filter bank, shaped features, contrast, variational model."""

    encoder: str = Field("filterbank", description="filterbank needs no weights; resnet34 and others as for extract")
    weights: str = Field("imagenet", description="of an encoder that has weights")
    mpp: float = Field(1.0, gt=0.02, le=64, description="target resolution, um per px")
    stride_px: int = Field(4, ge=2, le=64, description="side of a map cell in target px; resnets have 16 or more")
    landmarks: int = Field(1500, ge=10, le=20_000, description="random cells that stand for the slide, in each draw")
    draws: int = Field(3, ge=1, le=20, description="independent draws of landmarks, averaged")
    components: int = Field(40, ge=1, description="principal axes of the features in which cells are compared")
    neighbours: int = Field(10, ge=2, le=200, description="nearest landmarks that a landmark is linked with")
    rank: int = Field(32, ge=2, le=500, description="diffusion coordinates of a cell, in each draw")
    reach: float = Field(0.99, gt=0, lt=1, description="how far a label spreads along the graph of landmarks")
    prototype: Literal[1, 3, 5] = Field(3, description="a point's feature is the mean over this many cells squared")
    noise: float = Field(1.0, gt=0, description="ridge on the points; larger trusts single points less")
    gain: float = Field(2.0, gt=0, description="steepness of the contrast map's logistic")
    lam_rel: float = Field(1.0, gt=0, description="scale-free fitting weight of the variational model")
    beta: float = Field(10.0, ge=0, description="edge detector g = 1 / (1 + beta |grad z|^2)")
    means: tuple[float, float] | None = Field(None, description="fixed means c1, c2 of the contrast map; null: fitted")
    tol: float = Field(1e-3, gt=0, lt=1, description="relative duality gap at which the solver stops")
    seed: int = Field(0, ge=0, description="of the random landmarks")


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


def bundled_recipes() -> dict[str, Path]:
    """Recipes that come with wsipipe (the files of `configs/`), by name; from a checkout or an installed wheel."""
    folder = Path(__file__).parents[1] / "configs"
    files = sorted(folder.glob("*.yaml")) if folder.is_dir() else _installed_recipes()
    return {file.stem: file for file in files}


def _installed_recipes() -> list[Path]:
    listed = importlib.metadata.files("wsipipe") or []
    return [Path(str(file.locate())) for file in listed if file.match("share/wsipipe/configs/*.yaml")]


def load_recipe(source: str | Path) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    source : str or Path
        A YAML file, or the name of a bundled recipe ("slide").

    Raises
    ------
    ConfigError
        The file is missing or is no YAML mapping, or a setting is unknown or impossible; the message names the
        setting, its value and what is allowed.
    """
    path = bundled_recipes().get(str(source), Path(source))
    if not path.is_file():
        names = ", ".join(bundled_recipes())
        raise ConfigError("no such recipe", path=path, remedy=f"give a YAML file or one of: {names}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", path=path) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", path=path) from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"holds {type(data).__name__}, not settings", path=path, remedy="start from a file in configs/"
        )
    return parse_recipe(data, source=path)


def parse_recipe(data: dict[str, Any], *, source: str | Path | None = None) -> Recipe:
    """Validate settings from a mapping; see `load_recipe`."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_tell(item) for item in error.errors()), path=source) from error


def updated(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Copy of a recipe with changes like {"tile": {"mpp": 1.0}}, validated again; None values change nothing."""
    data = recipe.model_dump(mode="json")
    data["encoder"]["backend"] = recipe.encoder.backend  # is never dumped
    stain = data.get("stain", {})
    if stain.get("target") and any(value is not None for value in changes.get("stain", {}).values()):
        stain |= {"target": None, "reference": "published"}  # another method or reference makes another target
    for section, values in changes.items():
        data[section] = data.get(section, {}) | {key: value for key, value in values.items() if value is not None}
    return parse_recipe(data)


def _tell(item: ErrorDetails) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "settings"
    if item["type"] == "extra_forbidden":
        return f"unknown setting {where!r}"
    value = item["input"]
    shown = "" if isinstance(value, dict) else f", got {value!r}"
    return f"{where}: {item['msg'].removeprefix('Value error, ')}{shown}"
