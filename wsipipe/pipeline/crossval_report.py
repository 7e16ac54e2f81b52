"""The tables of a comparison, made from the jobs' tables of images alone, so that they can be made again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsipipe.numerics.bootstrap import DRAWS, Difference, paired_difference
from wsipipe.numerics.metrics import METRICS
from wsipipe.pipeline.ablation import draw_ablation
from wsipipe.pipeline.crossval_job import COLUMNS, is_done, table_path
from wsipipe.pipeline.crossval_plan import Plan
from wsipipe.pipeline.heat_maps import draw_heat_maps
from wsipipe.pipeline.text_tables import HEADINGS, latex_table, latex_text, markdown_table, shown
from wsipipe.store.atomic import write_text
from wsipipe.store.images import write_png
from wsipipe.store.tables import read_csv, write_csv

LEVEL = 0.95
UPPER_BOUND = "full"
"""Method that learns from masks: in the tables, but not among those that can be the best."""

Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Figure:
    """One figure of one variant.

    Parameters
    ----------
    mean, deviation : float
        Of the folds, each the mean over its images; the sample standard deviation is nan for a single fold.
    undefined : int
        Images without this figure, left out of the means.
    difference : Difference or None
        To the baseline; None for the baseline itself, or without one.
    """

    mean: float
    deviation: float
    undefined: int
    difference: Difference | None


@dataclass(frozen=True)
class Summary:
    """A row of the table: what a variant came to.

    Parameters
    ----------
    variant : str
        Its name.
    folds, images : int
        That are scored.
    figures : mapping of str to Figure
        By name, those of `METRICS`.
    """

    variant: str
    folds: int
    images: int
    figures: Mapping[str, Figure]


def write_report(plan: Plan, variants: Sequence[str], *, baseline: str, varied: str | None = None) -> tuple[Path, ...]:
    """Write `table.md`, `table.csv`, `table.tex`, `images.csv` and `heatmaps.png` into the folder of a comparison.

    Parameters
    ----------
    plan : Plan
        The comparison; of its jobs, those that are finished count.
    variants : sequence of str
        Rows of the table, in this order.
    baseline : str
        See `summarise`.
    varied : str, optional
        What an ablation varies: its plot, `ablation.png`, is written too.

    Returns
    -------
    tuple of Path
        The files; none where no job is finished.
    """
    done = [job for job in plan.jobs if is_done(job)]
    rows = [row for job in done for row in read_csv(table_path(job), columns=COLUMNS)]
    if not rows:
        return ()
    summaries = summarise(rows, variants, baseline=baseline, seed=plan.seed)
    patients = len({row["patient"] for row in rows})
    texts = {
        "table.md": as_markdown(summaries, folds=plan.folds, patients=patients, baseline=baseline, seed=plan.seed),
        "table.tex": as_latex(summaries),
    }
    for name, text in texts.items():
        write_text(plan.run / name, text)
    write_csv(plan.run / "table.csv", [_flat(summary) for summary in summaries])
    write_csv(plan.run / "images.csv", rows, columns=COLUMNS)
    write_png(plan.run / "heatmaps.png", draw_heat_maps(plan, done, variants))
    names = ["table.md", "table.csv", "table.tex", "images.csv", "heatmaps.png"]
    if varied is not None:
        write_png(plan.run / "ablation.png", draw_ablation(summaries, label=varied))
        names.append("ablation.png")
    return tuple(plan.run / name for name in names)


def summarise(rows: Rows, variants: Sequence[str], *, baseline: str, seed: int) -> list[Summary]:
    """Figures of every variant that has scores, in the order of `variants`.

    Parameters
    ----------
    rows : sequence of mappings
        Of the tables of images, as `read_csv` gives them.
    variants : sequence of str
        Their names.
    baseline : str
        Variant that differences are taken to, image by image; where it has no scores there are none.
    seed : int
        Of the bootstrap.
    """
    by_variant = {name: [row for row in rows if row["variant"] == name] for name in variants}
    against = by_variant.get(baseline, [])
    return [_summary(name, own, against if name != baseline else [], seed) for name, own in by_variant.items() if own]


def _summary(name: str, rows: Rows, against: Rows, seed: int) -> Summary:
    figures = {metric: _figure(metric, rows, against, seed) for metric in METRICS}
    return Summary(name, len({row["fold"] for row in rows}), len(rows), figures)


def _figure(metric: str, rows: Rows, against: Rows, seed: int) -> Figure:
    values = np.array([_number(row[metric]) for row in rows])
    folds = np.array([row["fold"] for row in rows])
    known = np.isfinite(values)
    # A fold in which no image has the figure has no mean, rather than one of zero.
    means = [float(values[known & (folds == fold)].mean()) for fold in np.unique(folds[known])]
    return Figure(
        mean=float(np.mean(means)) if means else math.nan,
        deviation=float(np.std(means, ddof=1)) if len(means) > 1 else math.nan,
        undefined=int((~known).sum()),
        difference=_difference(metric, rows, against, seed) if against else None,
    )


def _difference(metric: str, rows: Rows, against: Rows, seed: int) -> Difference:
    other = {row["slide"]: _number(row[metric]) for row in against}
    # By name, so that the draws do not depend on the order in which folds were done.
    common = sorted((row for row in rows if row["slide"] in other), key=lambda row: row["slide"])
    return paired_difference(
        [_number(row[metric]) for row in common],
        [other[row["slide"]] for row in common],
        [row["patient"] for row in common],
        seed=seed,
        level=LEVEL,
    )


def _number(text: str) -> float:
    return float(text) if text else math.nan


def as_markdown(summaries: Sequence[Summary], *, folds: int, patients: int, baseline: str, seed: int) -> str:
    """Table 1, the differences to the baseline, and what was left out."""
    best = _best(summaries)
    header = ["method", *HEADINGS.values()]
    rows = [
        [_named(summary, folds), *(_mean(summary, metric, best, "**") for metric in METRICS)] for summary in summaries
    ]
    images = max(summary.images for summary in summaries)
    parts = [
        markdown_table(header, rows),
        f"Mean ± standard deviation over {folds} folds, each the mean over its images: {images} images of "
        f"{patients} patients. The best of each figure is bold, `{UPPER_BOUND}` apart.\n",
    ]
    compared = [summary for summary in summaries if any(of.difference for of in summary.figures.values())]
    if compared:
        rows = [
            [summary.variant, *(_gap(summary.figures[name].difference) for name in METRICS)] for summary in compared
        ]
        parts += [
            f"Difference to `{baseline}`, with {LEVEL:.0%} intervals (paired bootstrap over images, drawn by patient, "
            f"{DRAWS} draws, seed {seed}):\n",
            markdown_table(header, rows),
        ]
    return "\n".join([*parts, *_undefined(summaries)])


def _undefined(summaries: Sequence[Summary]) -> list[str]:
    told = [
        f"{HEADINGS[name]} of {of.undefined} of {summary.images} images under `{summary.variant}`"
        for summary in summaries
        for name, of in summary.figures.items()
        if of.undefined
    ]
    return [f"Undefined (one class only) and left out: {'; '.join(told)}.\n"] if told else []


def as_latex(summaries: Sequence[Summary]) -> str:
    """Table 1 for LaTeX with the package booktabs."""
    best = _best(summaries)
    rows = [
        [latex_text(summary.variant), *(_latex_mean(summary, metric, best) for metric in METRICS)]
        for summary in summaries
    ]
    return latex_table(["Method", *(latex_text(name) for name in HEADINGS.values())], rows)


def _best(summaries: Sequence[Summary]) -> dict[str, str]:
    """Name of the variant with the highest mean, by figure; none where there is nothing to choose from."""
    rivals = [summary for summary in summaries if summary.variant != UPPER_BOUND]
    if len(rivals) < 2:
        return {}
    means = {
        metric: {s.variant: s.figures[metric].mean for s in rivals if math.isfinite(s.figures[metric].mean)}
        for metric in METRICS
    }
    return {metric: max(found, key=lambda name: found[name]) for metric, found in means.items() if found}


def _named(summary: Summary, folds: int) -> str:
    return summary.variant + (f" ({summary.folds} of {folds} folds)" if summary.folds < folds else "")


def _mean(summary: Summary, metric: str, best: Mapping[str, str], mark: str) -> str:
    figure = summary.figures[metric]
    text = " ± ".join(filter(None, (shown(figure.mean), shown(figure.deviation))))
    return f"{mark}{text}{mark}" if best.get(metric) == summary.variant else text


def _latex_mean(summary: Summary, metric: str, best: Mapping[str, str]) -> str:
    figure = summary.figures[metric]
    text = r" \pm ".join(filter(None, (shown(figure.mean), shown(figure.deviation))))
    if not text:
        return ""
    return rf"$\mathbf{{{text}}}$" if best.get(metric) == summary.variant else f"${text}$"


def _gap(difference: Difference | None) -> str:
    if difference is None or not math.isfinite(difference.mean):
        return ""
    interval = "" if math.isnan(difference.low) else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"{difference.mean:+.3f}{interval}"


def _flat(summary: Summary) -> dict[str, object]:
    row: dict[str, object] = {"variant": summary.variant, "folds": summary.folds, "images": summary.images}
    for name, figure in summary.figures.items():
        gap = figure.difference
        told = {"mean": figure.mean, "sd": figure.deviation}
        if gap is not None:
            told |= {"difference": gap.mean, "low": gap.low, "high": gap.high}
        row |= {f"{name}_{part}": shown(value, 6) for part, value in told.items()}
        row[f"{name}_undefined"] = figure.undefined
    return row
