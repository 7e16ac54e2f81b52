"""Settings of the methods of training, a section each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsipipe.config.base import Settings


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
