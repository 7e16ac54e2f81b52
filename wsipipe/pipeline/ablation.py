"""The ablations of the paper's section 5.4: number of pairs of points with and without weighted KL, and eta."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsipipe.errors import ConfigError
from wsipipe.pipeline.crossval_plan import Variant
from wsipipe.pipeline.curves import rendered

if TYPE_CHECKING:
    from wsipipe.pipeline.crossval_report import Summary

HARD = "-hard"


def pair_variants(pairs: Sequence[int]) -> tuple[Variant, ...]:
    """Vary the number of pairs of points, the fewer being among the more; each with weighted KL, and without (Fig. 3a).

    Without, u is cut at 0.5 and its cells serve as pseudo labels of a plain cross-entropy, as in the paper.

    Raises
    ------
    ConfigError
        A number is below 1, or there is one twice or none.
    """
    _check(pairs, "numbers of pairs", low=1)
    return tuple(
        Variant(f"pairs-{count}{end}", {"training": {"method": "cvm", "pairs": count}, "cvm": {"hard_labels": hard}})
        for end, hard in (("", False), (HARD, True))
        for count in sorted(pairs)
    )


def eta_variants(etas: Sequence[float]) -> tuple[Variant, ...]:
    """Vary eta of eq. 5 (Fig. 3b).

    Raises
    ------
    ConfigError
        One is not within 0 to 1, or there is one twice or none.
    """
    _check(etas, "values of eta", low=0, high=1)
    return tuple(Variant(f"eta-{eta:g}", {"training": {"method": "cvm"}, "cvm": {"eta": eta}}) for eta in sorted(etas))


def _check(values: Sequence[float], what: str, *, low: float, high: float = np.inf) -> None:
    if not values or len(set(values)) < len(values) or not all(low <= value <= high for value in values):
        given = ", ".join(f"{value:g}" for value in values) or "none"
        end = "" if np.isinf(high) else f" to {high:g}"
        raise ConfigError(f"cannot compare the {what} {given}", remedy=f"give each once, from {low:g}{end}")


def draw_ablation(summaries: Sequence[Summary], *, label: str) -> NDArray[np.uint8]:
    """Plot Dice, mean and standard deviation over the folds, against what was varied (Fig. 3).

    Parameters
    ----------
    summaries : sequence of Summary
        Of variants named "eta-0.6" or "pairs-3", those with hard labels with "-hard" at the end.
    label : str
        Of the axis.

    Returns
    -------
    (h, w, 3) uint8 array
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    lines = {"weighted KL": False, "hard pseudo labels": True}
    drawn = {title: [of for of in summaries if of.variant.endswith(HARD) == hard] for title, hard in lines.items()}
    axes.set_xticks(sorted({_value(summary) for summary in summaries}))
    for title, chosen in drawn.items():
        if chosen:
            values = [_value(summary) for summary in chosen]
            dice = [summary.figures["dice"] for summary in chosen]
            deviations = np.nan_to_num([of.deviation for of in dice])
            axes.errorbar(values, [of.mean for of in dice], yerr=deviations, marker="o", capsize=3, label=title)
    axes.set(xlabel=label, ylabel="Dice")
    axes.grid(alpha=0.3)
    if all(drawn.values()):
        axes.legend()
    return rendered(figure)


def _value(summary: Summary) -> float:
    return float(summary.variant.removesuffix(HARD).split("-", maxsplit=1)[1])
