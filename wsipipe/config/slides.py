"""Settings of what is read: tissue, patches, encoder, stain."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wsipipe.config.base import Settings


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
