from __future__ import annotations

import math

import numpy as np
import pytest

from wsipipe.numerics.metrics import METRICS
from wsipipe.pipeline.ablation import draw_ablation
from wsipipe.pipeline.crossval_report import as_latex, as_markdown, summarise
from wsipipe.pipeline.text_tables import latex_text, markdown_table, shown


def row(variant, fold, slide, patient, value, **other):
    figures = {name: str(value) for name in METRICS} | {name: str(text) for name, text in other.items()}
    return {"variant": variant, "fold": str(fold), "slide": slide, "patient": patient, **figures}


# Two folds of two images: means of folds 0.5 and 0.8 for cvm, 0.3 and 0.8 for crf; full is above both.
ROWS = [
    row("cvm", 1, "a", "P1", 0.4),
    row("cvm", 1, "b", "P2", 0.6),
    row("cvm", 2, "c", "P3", 0.7, auc=""),
    row("cvm", 2, "d", "P3", 0.9),
    row("crf", 1, "a", "P1", 0.2),
    row("crf", 1, "b", "P2", 0.4),
    row("crf", 2, "c", "P3", 0.7, auc=""),
    row("crf", 2, "d", "P3", 0.9),
    *(
        row("full", 1 + (key in "cd"), key, patient, 0.95)
        for key, patient in zip("abcd", ("P1", "P2", "P3", "P3"), strict=True)
    ),
]


@pytest.fixture
def summaries():
    return summarise(ROWS, ["crf", "full", "cvm", "cosine"], baseline="cvm", seed=0)


def test_mean_and_deviation_are_those_of_the_folds(summaries):
    assert [summary.variant for summary in summaries] == ["crf", "full", "cvm"]
    cvm = summaries[2]
    assert (cvm.folds, cvm.images) == (2, 4)
    assert cvm.figures["dice"].mean == pytest.approx(0.65)
    assert cvm.figures["dice"].deviation == pytest.approx(np.std([0.5, 0.8], ddof=1))


def test_undefined_figures_are_left_out_and_counted(summaries):
    auc = summaries[2].figures["auc"]
    assert auc.undefined == 1
    assert auc.mean == pytest.approx((0.5 + 0.9) / 2)
    assert summaries[2].figures["dice"].undefined == 0


def test_differences_are_paired_by_image(summaries):
    crf, full, cvm = summaries
    assert cvm.figures["dice"].difference is None
    gap = crf.figures["dice"].difference
    assert gap.mean == pytest.approx(-0.1)  # -0.2, -0.2, 0, 0
    assert (gap.images, gap.patients) == (4, 3)
    assert (gap.low, gap.high) == pytest.approx((-0.2, 0.0))
    assert crf.figures["auc"].difference.images == 3
    assert full.figures["dice"].difference.mean == pytest.approx(0.3)


def test_order_of_the_rows_does_not_matter(summaries):
    assert summarise(ROWS[::-1], ["crf", "full", "cvm"], baseline="cvm", seed=0) == summaries


def test_a_single_fold_has_no_deviation_and_a_missing_baseline_no_difference():
    (crf,) = summarise(
        [of for of in ROWS if of["variant"] == "crf" and of["fold"] == "1"], ["crf", "cvm"], baseline="cvm", seed=0
    )
    assert math.isnan(crf.figures["dice"].deviation)
    assert crf.figures["dice"].difference is None
    text = as_markdown([crf], folds=2, patients=2, baseline="cvm", seed=0)
    assert "| crf (1 of 2 folds) | 0.300 |" in text
    assert "Difference" not in text


def test_markdown_marks_the_best_but_full(summaries):
    text = as_markdown(summaries, folds=2, patients=3, baseline="cvm", seed=0)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["method", "Dice", "Accuracy", "Precision", "Recall", "Cohen's kappa", "AUC"]
    assert lines[2][:2] == ["crf", "0.550 ± 0.354"]
    assert lines[3][:2] == ["full", "0.950 ± 0.000"]
    assert lines[4][:2] == ["cvm", "**0.650 ± 0.212**"]
    assert lines[7][:2] == ["crf", "-0.100 [-0.200, +0.000]"]
    assert "4 images of 3 patients" in text
    assert "AUC of 1 of 4 images under `crf`" in text


def test_latex_is_a_booktabs_table(summaries):
    text = as_latex(summaries)
    assert text.startswith("\\begin{tabular}{lcccccc}\n\\toprule\nMethod & Dice ")
    assert "cvm & $\\mathbf{0.650 \\pm 0.212}$ & " in text
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert text.count("\\\\\n") == 4
    assert latex_text("partial_ce & 5%") == r"partial\_ce \& 5\%"


def test_text_tables():
    assert markdown_table(["a", "b"], [["x|y", "1"]]) == "| a    |   b |\n| ---- | --: |\n| x\\|y |   1 |\n"
    assert [shown(value) for value in (0.12345, None, math.nan)] == ["0.123", "", ""]


def test_ablation_plot_shows_one_line_per_kind():
    rows = [
        row(f"pairs-{count}{end}", fold, key, key, 0.1 * count + 0.05 * fold)
        for count in (2, 3)
        for end in ("", "-hard")
        for fold, key in ((1, "a"), (2, "b"))
    ]
    names = list(dict.fromkeys(of["variant"] for of in rows))
    picture = draw_ablation(summarise(rows, names, baseline="pairs-3", seed=0), label="pairs of points")
    assert picture.dtype == np.uint8
    colours = {tuple(colour) for colour in picture.reshape(-1, 3)[::7].tolist()}
    assert {(31, 119, 180), (255, 127, 14)} <= colours
