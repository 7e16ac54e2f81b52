"""A plot of a run's figures over its epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_curves(history: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
    """Plot losses, and Dice where it is known, over the epochs.

    Parameters
    ----------
    history : sequence of mappings
        Rows of `metrics.csv`.

    Returns
    -------
    (h, w, 3) uint8 array
    """
    from matplotlib.figure import Figure

    scored = any(row["val_dice"] is not None for row in history)
    figure = Figure(figsize=(11 if scored else 7, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    _draw_losses(axes[0], history)
    if scored:
        _draw_dice(axes[1], history)
    return rendered(figure)


def rendered(figure: Figure) -> NDArray[np.uint8]:
    """Pixels of a figure, (h, w, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _draw_losses(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) < 40 else None
    for name, label in (
        ("loss_points", "points, training"),
        ("val_pce", "points, validation"),
        ("loss_second", "second teacher"),
    ):
        if any(row[name] for row in history):
            # Before the teacher is asked there is no second loss, rather than one of zero.
            axes.plot(epochs, [row[name] or np.nan for row in history], label=label, marker=marker, markersize=3)
    axes.set_ylim(bottom=0)
    _mark_events(axes, history)
    axes.set(xlabel="epoch", title="loss")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_dice(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    axes.plot([row["epoch"] for row in history], [row["val_dice"] for row in history], color="tab:green")
    _mark_events(axes, history)
    axes.set(xlabel="epoch", title="Dice, validation", ylim=(0, 1))
    axes.grid(alpha=0.3)


def _mark_events(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """Thin lines where the teacher was asked, a thick one at the epoch that the checkpoint holds."""
    for row in history:
        if row["refreshed"]:
            axes.axvline(row["epoch"], color="0.85", linewidth=0.8, zorder=0)
    best = max((row["epoch"] for row in history if row["best"]), default=None)
    if best is not None:
        axes.axvline(best, color="0.4", linestyle="--", linewidth=1.2, label=f"checkpoint (epoch {best})", zorder=1)
