"""What a model makes of some training windows, side by side, for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from wsipipe.annotations.classes import TissueClass
from wsipipe.annotations.points import IN_TARGET, OUT_OF_TARGET
from wsipipe.models.methods.teacher import Teacher
from wsipipe.models.methods.variational import FeatureTeacher, decoder_features, featureless_points_allowed
from wsipipe.numerics.contrast import contrast_map
from wsipipe.pipeline.curves import rendered
from wsipipe.pipeline.samples import Sample
from wsipipe.pipeline.trainer import Trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_WINDOWS = 4
_PANEL_INCHES, _DPI, _PICTURE_PX = 2.9, 110, 480
Kind = Literal["picture", "map", "mask", "labels"]


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a row.

    Parameters
    ----------
    title : str
        Above it.
    values : array
        (h, w, 3) uint8 for a picture or labels, (h, w) in [0, 1] for a map or a mask; NaN where there is nothing to
        show.
    kind : str
        How it is shown: points go on pictures, the 0.5 contour on maps.
    """

    title: str
    values: NDArray[np.generic]
    kind: Kind


def draw_preview(trainer: Trainer) -> NDArray[np.uint8]:
    """Draw image with points, contrast map, u, prediction and reference of up to four training windows.

    Of several classes, image with points, and the colours of u, prediction and reference.

    Returns
    -------
    (h, w, 3) uint8 array
        One row per window; columns that the method does not have are left out.
    """
    from matplotlib.figure import Figure

    samples = _spread(trainer.data.train)
    panels_of = _class_panels if trainer.data.classes else _panels
    rows = [(sample, panels_of(trainer, sample)) for sample in samples]
    heights = [min(2.0, max(0.4, sample.shape[0] / sample.shape[1])) for sample in samples]
    columns = max(len(panels) for _, panels in rows)
    size = (_PANEL_INCHES * columns, _PANEL_INCHES * sum(heights) + 0.35 * len(rows) + 0.4)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, (sample, panels) in zip(grid, rows, strict=True):
        _draw_row(axes, sample, panels, _point_colors(trainer))
    scores = trainer.memory.history[-1]
    figure.suptitle(f"epoch {scores['epoch']}, validation loss {scores['val_pce']:.4f}", fontsize=10)
    return rendered(figure)


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """Up to four samples, evenly over the list."""
    index = np.unique(np.linspace(0, len(samples) - 1, min(MAX_WINDOWS, len(samples))).round().astype(int))
    return [samples[i] for i in index]


def _panels(trainer: Trainer, sample: Sample) -> list[Panel]:
    data = trainer.loader.cache.get(sample)
    picture = sample.source.picture(sample.rows, sample.cols, long_side_px=_PICTURE_PX)
    panels = [Panel(sample.source.entry.key, picture, "picture")]
    if isinstance(trainer.method, FeatureTeacher):
        panels.append(Panel("contrast map", _contrast(trainer, sample), "map"))
    if isinstance(trainer.method, Teacher):
        u = trainer.method.target(sample.name)
        told = f"u after epoch {trainer.memory.teacher_epoch}" if trainer.memory.teacher_epoch else "u: not yet"
        panels.append(Panel(told, _or_nan(u, sample), "map"))
    probability = torch.sigmoid(trainer.logits(sample)).numpy()
    panels.append(Panel("prediction", np.where(data.valid, probability, np.nan), "map"))
    if data.truth is not None:
        panels.append(Panel("reference", data.truth.astype(np.float32), "mask"))
    return panels


def _class_panels(trainer: Trainer, sample: Sample) -> list[Panel]:
    data, classes = trainer.loader.cache.get(sample), trainer.data.classes
    picture = sample.source.picture(sample.rows, sample.cols, long_side_px=_PICTURE_PX)
    panels = [Panel(sample.source.entry.key, picture, "picture")]
    if isinstance(trainer.method, Teacher):
        u = trainer.method.target(sample.name)
        told = f"u after epoch {trainer.memory.teacher_epoch}" if trainer.memory.teacher_epoch else "u: not yet"
        shares = np.zeros((len(classes), *sample.shape)) if u is None else u
        panels.append(Panel(told, mixed_colors(shares, classes), "labels"))
    probability = torch.softmax(trainer.logits(sample), dim=0).numpy()
    panels.append(Panel("prediction", mixed_colors(probability * data.valid, classes), "labels"))
    if data.truth is not None:
        known = np.stack([data.truth == label for label in range(len(classes))])
        panels.append(Panel("reference", mixed_colors(known, classes), "labels"))
    return panels


def mixed_colors(shares: NDArray[np.generic], classes: Sequence[TissueClass]) -> NDArray[np.uint8]:
    """Colours of classes mixed by their shares, on white.

    Parameters
    ----------
    shares : (K, h, w) array
        Of sum 1, or less where little is said.
    classes : sequence of TissueClass
        In the same order.

    Returns
    -------
    (h, w, 3) uint8 array
    """
    colors = np.array([of.color for of in classes], dtype=np.float64)
    mixed = np.einsum("khw,kc->hwc", shares.astype(np.float64), colors - 255) + 255
    return np.asarray(np.rint(np.clip(mixed, 0, 255)).astype(np.uint8))


def _contrast(trainer: Trainer, sample: Sample) -> NDArray[np.float32]:
    """Mean contrast map of the network as it is now."""
    scene, cvm = trainer.loader.scene(sample), trainer.recipe.cvm
    if not (len(scene.in_target) and len(scene.out_of_target)):
        return _or_nan(None, sample)
    trainer.model.eval()
    features = decoder_features(trainer.model, scene.inputs)
    with featureless_points_allowed():
        maps = contrast_map(
            features, scene.in_target, scene.out_of_target, eta=cvm.eta, prototype=cvm.prototype, valid=scene.valid
        )
    return np.where(scene.valid, maps.mean(axis=0), np.float32(np.nan))


def _or_nan(values: NDArray[np.float32] | None, sample: Sample) -> NDArray[np.float32]:
    return np.full(sample.shape, np.nan, np.float32) if values is None else values


def _draw_row(axes: Sequence[Axes], sample: Sample, panels: Sequence[Panel], colors: Mapping[int, str]) -> None:
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, sample, panel, colors)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_facecolor("0.85")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)


def _draw_panel(axis: Axes, sample: Sample, panel: Panel, colors: Mapping[int, str]) -> None:
    rows, cols = sample.shape
    extent = (0, cols, rows, 0)
    axis.set_title(panel.title, fontsize=9)
    if panel.kind in ("picture", "labels"):
        axis.imshow(panel.values, extent=extent, interpolation="nearest" if panel.kind == "labels" else None)
        if panel.kind == "picture":
            _draw_points(axis, sample, colors)
        return
    cmap = "gray" if panel.kind == "mask" else "viridis"
    axis.imshow(panel.values, extent=extent, vmin=0, vmax=1, cmap=cmap, interpolation="nearest")
    if panel.kind == "map" and np.nanmin(_finite(panel.values)) < 0.5 < np.nanmax(_finite(panel.values)):
        centres = np.arange(cols) + 0.5, np.arange(rows) + 0.5
        axis.contour(*centres, np.nan_to_num(panel.values), levels=[0.5], colors="white", linewidths=0.7)


def _finite(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values if np.isfinite(values).any() else np.zeros_like(values)


def _point_colors(trainer: Trainer) -> Mapping[int, str]:
    """Red in target, blue out of it; of several classes, their own."""
    if trainer.data.classes:
        return {label: "#{:02x}{:02x}{:02x}".format(*of.color) for label, of in enumerate(trainer.data.classes)}
    return {OUT_OF_TARGET: "#1f5fff", IN_TARGET: "#ff1f1f"}


def _draw_points(axis: Axes, sample: Sample, colors: Mapping[int, str]) -> None:
    """Rings, so that what was clicked stays visible."""
    for label, color in colors.items():
        row, col = (sample.points.of(label) + 0.5).T
        axis.scatter(col, row, s=42, facecolors="none", edgecolors="white", linewidths=2.6)
        axis.scatter(col, row, s=42, facecolors="none", edgecolors=color, linewidths=1.4)
