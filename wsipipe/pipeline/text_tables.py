"""Tables of figures as text: Markdown for people, LaTeX for papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

HEADINGS: Mapping[str, str] = {
    "dice": "Dice",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "kappa": "Cohen's kappa",
    "auc": "AUC",
}
"""How tables call the figures of `numerics.metrics.METRICS`."""

_LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}


def shown(value: float | None, digits: int = 3) -> str:
    """Figure with fixed digits; empty where there is none."""
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Table in Markdown, the first column to the left and the others to the right, padded so that it reads as text."""
    cells = [[text.replace("|", r"\|") for text in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:])) + "\n"


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Table in LaTeX for the package booktabs; cells are LaTeX already, see `latex_text`."""
    body = [" & ".join(row) + r" \\" for row in rows]
    top = [rf"\begin{{tabular}}{{l{'c' * (len(header) - 1)}}}", r"\toprule", " & ".join(header) + r" \\", r"\midrule"]
    return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex_text(text: str) -> str:
    """Plain text with LaTeX's own characters escaped."""
    return "".join(_LATEX.get(char, char) for char in text)
