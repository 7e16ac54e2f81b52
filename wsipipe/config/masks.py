"""Settings of how masks are made, with a trained model and without."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from wsipipe.config.base import Settings


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
