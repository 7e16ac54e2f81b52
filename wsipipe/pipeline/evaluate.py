"""The `evaluate` command: predicted masks against reference masks or polygons, with memory that stays flat."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsipipe.annotations.classes import ClassMap
from wsipipe.errors import StoreError, WsipipeError
from wsipipe.geometry import CellGrid
from wsipipe.numerics.metrics import METRICS, Counts, auc_of_histograms
from wsipipe.parallel import map_items
from wsipipe.pipeline.evaluation_pairs import Pair, Pairs, is_annotation
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.pipeline.references import class_bands, mask_bands, polygon_bands
from wsipipe.pipeline.text_tables import HEADINGS, markdown_table, shown
from wsipipe.progress import Progress, Report, silent
from wsipipe.store.atomic import write_text
from wsipipe.store.label_raster import LabelRaster
from wsipipe.store.pyramid import regroup
from wsipipe.store.raster import iter_bands, own_raster_info, raster_info
from wsipipe.store.tables import read_json, write_csv, write_json

FILE_TYPE, FILE_VERSION = "wsipipe.evaluation", 1
BINS = 256
"""Of a probability raster, whose pixels hold round(255 p): the AUC is that of probabilities in steps of 1/255."""

_BAND_ROWS = 512
_DECIMALS = 6
_LISTED = 5


@dataclass(frozen=True)
class Score:
    """How well one prediction, or several together, agree with their references.

    Parameters
    ----------
    name : str
        The slide, or what the slides together are called.
    counts : Counts
        Pixels of the prediction's raster.
    wanted, unwanted : tuple of int or None
        Pixels in target by the reference, and others, by probability (256 steps); None without a probability raster.
    """

    name: str
    counts: Counts
    wanted: tuple[int, ...] | None = None
    unwanted: tuple[int, ...] | None = None

    def figures(self) -> dict[str, float]:
        """All figures of `METRICS`; nan where one is undefined."""
        told = self.counts.agreement()
        if self.wanted is None or self.unwanted is None:
            return told | {"auc": math.nan}
        return told | {"auc": auc_of_histograms(self.wanted, self.unwanted)}


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Parameters
    ----------
    scores : tuple of Score
        One per slide, by name; of masks of several classes, one for each class.
    failed : tuple of SlideOutcome
        Slides that could not be compared.
    notes : tuple of str
        What the user should know.
    """

    scores: tuple[Score, ...]
    failed: tuple[SlideOutcome, ...]
    notes: tuple[str, ...]


def evaluate(
    found: Pairs,
    *,
    classes: ClassMap | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    report: Report = silent,
) -> Evaluation:
    """Compare every pair; one that cannot be compared does not stop the others.

    Parameters
    ----------
    found : Pairs
        See `find_pairs`.
    classes : ClassMap, optional
        Which classes of polygons are in target; the usual ones where None.
    workers, scheduler
        Slides compared at once, see `map_items`.
    report : Report
        Told the rows compared.

    Returns
    -------
    Evaluation
        What has no partner is left out, and noted.
    """
    task = functools.partial(_guarded, classes=classes or ClassMap())
    results = dict(map_items(task, found.pairs, workers=workers, scheduler=scheduler, report=report))
    outcomes = [
        SlideOutcome(found.pairs[index].key, "failed", str(result)) if isinstance(result, WsipipeError) else result
        for index, result in sorted(results.items())
    ]
    scores = [score for result in outcomes if not isinstance(result, SlideOutcome) for score in result]
    unpaired = (
        ("references without a prediction", found.unpredicted),
        ("predictions without a reference", found.unreferenced),
    )
    return Evaluation(
        tuple(scores),
        tuple(outcome for outcome in outcomes if isinstance(outcome, SlideOutcome)),
        tuple(f"left out, {what}: {_some(keys)}" for what, keys in unpaired if keys),
    )


def _some(keys: Sequence[str]) -> str:
    return f"{len(keys)} ({', '.join(keys[:_LISTED])}{', ...' if len(keys) > _LISTED else ''})"


def _guarded(pair: Pair, report: Report, *, classes: ClassMap) -> list[Score] | SlideOutcome:
    try:
        several = _classes(pair.prediction)
        if several:
            return score_classes(pair, several, report=report)
        return [score_pair(pair, classes=classes, report=report)]
    except WsipipeError as error:
        return SlideOutcome(pair.key, "failed", str(error))
    except MemoryError:
        return SlideOutcome(pair.key, "failed", "out of memory (use fewer --workers)")
    except OSError as error:
        return SlideOutcome(pair.key, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")


def score_pair(pair: Pair, *, classes: ClassMap | None = None, report: Report = silent) -> Score:
    """Compare one prediction with its reference, on the pixels of the prediction.

    Raises
    ------
    WsipipeError
        A file cannot be read, or prediction and reference have not the same proportions.
    """
    prediction = _Prediction(pair)
    truth = _reference(pair, prediction, classes or ClassMap())
    tally, done, total = _Tally(), 0, prediction.grid.rows
    for mask, wanted, probability in zip(prediction.bands(), truth, prediction.probabilities(), strict=True):
        tally.add(mask != 0, wanted, probability)
        done += len(mask)
        report(Progress(pair.key, "evaluate", done, total))
    return tally.score(pair.key, ranked=prediction.has_probability)


def score_classes(pair: Pair, names: Sequence[str], *, report: Report = silent) -> list[Score]:
    """Compare a mask of several classes with a reference of the same labels, each class against the rest.

    Parameters
    ----------
    pair : Pair
        The reference is a mask: 1 for the first class, and so on; pixels of value 0 do not count.
    names : sequence of str
        Classes of the prediction, in the order of their values.

    Raises
    ------
    WsipipeError
        A file cannot be read, prediction and reference have not the same proportions, or the reference is no mask or
        says nothing of any pixel.
    """
    remedy = f"give a mask with the values 1 to {len(names)} for {', '.join(names)}, 0 where nothing is known"
    if is_annotation(pair.reference):
        raise StoreError("is no mask: several classes are compared with a mask", path=pair.reference, remedy=remedy)
    prediction = _Prediction(pair)
    raster, size = LabelRaster(pair.reference), prediction.slide_size
    truth = class_bands(raster, prediction.grid, size, classes=len(names), rows=_BAND_ROWS)
    tallies, done, total = [_Tally() for _ in names], 0, prediction.grid.rows
    for mask, wanted, probability in zip(prediction.bands(), truth, prediction.probabilities(), strict=True):
        known = wanted > 0
        for value, tally in enumerate(tallies, start=1):
            scores = None if probability is None else probability[known, value - 1]
            tally.add(mask[known] == value, wanted[known] == value, scores)
        done += len(mask)
        report(Progress(pair.key, "evaluate", done, total))
    if not tallies[0].counts.total:
        raise StoreError("says nothing of any pixel of the prediction", path=pair.reference, remedy=remedy)
    ranked = prediction.has_probability
    return [tally.score(f"{pair.key}: {name}", ranked=ranked) for tally, name in zip(tallies, names, strict=True)]


class _Tally:
    """Counts of pixels that add up over bands, and histograms of their probabilities."""

    def __init__(self) -> None:
        self.counts, self._histograms = Counts(), np.zeros((2, BINS), dtype=np.int64)

    def add(self, mask: NDArray[np.bool_], wanted: NDArray[np.bool_], probability: NDArray[np.uint8] | None) -> None:
        """Count a band, or pixels of one; none is no band."""
        if not mask.size:
            return
        self.counts += Counts.of(mask, wanted)
        if probability is not None:
            for row, part in enumerate((wanted, ~wanted)):
                self._histograms[row] += np.bincount(probability[part], minlength=BINS)

    def score(self, name: str, *, ranked: bool) -> Score:
        """Score of all that was counted, with histograms where there was a probability."""
        if not ranked:
            return Score(name, self.counts)
        return Score(name, self.counts, *(tuple(int(count) for count in part) for part in self._histograms))


class _Prediction:
    """A predicted mask in bands, its pixels over the slide, and the probability beside it."""

    def __init__(self, pair: Pair) -> None:
        self.path = pair.prediction
        raster, own = LabelRaster(pair.prediction), own_raster_info(pair.prediction)
        self._ours = own is not None
        # Masks of others are taken to be as fine as the slide.
        self.grid = CellGrid(raster.rows, raster.cols, 1.0) if own is None else own.grid
        told = read_json(pair.report) if pair.report.is_file() else {}
        width, height = told.get("size_px") or (self.grid.cols * self.grid.cell_px, self.grid.rows * self.grid.cell_px)
        self.slide_size = (float(width), float(height))
        x, y = told.get("geojson_frame", {}).get("origin", (0.0, 0.0))
        self.offset = (float(x), float(y))
        self._probability = pair.probability
        self.has_probability = pair.probability.is_file()
        if self.has_probability:
            beside = raster_info(pair.probability)
            if beside.grid != self.grid or (own is not None and beside.classes != own.classes):
                problem = "is of other pixels or classes than the mask"
                raise StoreError(problem, path=pair.probability, remedy="predict again")

    def bands(self) -> Iterator[NDArray[np.uint8]]:
        """Bands of the mask, 512 rows each, the last one lower: not zero is in target, or each value is a class."""
        if self._ours:
            return iter_bands(self.path, _BAND_ROWS)
        pixels = (band.astype(np.uint8) for band in LabelRaster(self.path).bands())
        return regroup(pixels, shape=self.grid.shape, channels=(), rows=_BAND_ROWS)

    def probabilities(self) -> Iterator[NDArray[np.uint8] | None]:
        """Bands of round(255 p), with a channel for each of several classes; or as many times None."""
        if self.has_probability:
            return iter_bands(self._probability, _BAND_ROWS)
        return iter([None] * -(-self.grid.rows // _BAND_ROWS))


def _classes(path: Path) -> list[str]:
    """Names of the classes of a mask that holds several, in the order of their values."""
    own = own_raster_info(path)
    return [] if own is None else [of.name for of in own.classes]


def _reference(pair: Pair, prediction: _Prediction, classes: ClassMap) -> Iterator[NDArray[np.bool_]]:
    if is_annotation(pair.reference):
        drawn = polygon_bands(pair.reference, prediction.grid, classes=classes, offset=prediction.offset)
        return drawn.bands(_BAND_ROWS)
    return mask_bands(LabelRaster(pair.reference), prediction.grid, prediction.slide_size, rows=_BAND_ROWS)


def pooled(scores: Sequence[Score]) -> Score:
    """All pixels of all slides together; the AUC over the slides that have a probability raster."""
    wanted, unwanted = (
        [part for score in scores if (part := getattr(score, name)) is not None] for name in ("wanted", "unwanted")
    )
    counts = sum((score.counts for score in scores), Counts())
    if not wanted:
        return Score("pooled", counts)
    sums = [tuple(int(count) for count in np.sum(parts, axis=0)) for parts in (wanted, unwanted)]
    return Score("pooled", counts, *sums)


def as_rows(scores: Sequence[Score]) -> list[dict[str, object]]:
    """Rows of the table: one per slide, the mean of the slides, and all pixels pooled; None where undefined."""
    rows = [_row(score) for score in scores]
    if len(scores) < 2:
        return rows
    figures = [score.figures() for score in scores]
    means: dict[str, object] = {name: _mean([of[name] for of in figures]) for name in METRICS}
    return [*rows, {"slide": "mean", **means}, _row(pooled(scores))]


def _row(score: Score) -> dict[str, object]:
    counts = score.counts
    told = {"slide": score.name, "pixels": counts.total, "target_share": round(counts.wanted / counts.total, _DECIMALS)}
    return told | {name: _finite(value) for name, value in score.figures().items()}


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return round(float(np.mean(known)), _DECIMALS) if known else None


def _finite(value: float) -> float | None:
    return round(value, _DECIMALS) if math.isfinite(value) else None


def as_markdown(rows: Sequence[dict[str, object]]) -> str:
    """Table for people."""
    cells = [[str(row["slide"]), *(_cell(row[name]) for name in METRICS)] for row in rows]
    text = markdown_table(["slide", *HEADINGS.values()], cells)
    lacking = {name: sum(row[name] is None for row in rows if "pixels" in row) for name in METRICS}
    told = [f"{HEADINGS[name]} of {count}" for name, count in lacking.items() if count]
    return text + (f"\nUndefined (one class only, or no probability raster): {', '.join(told)} rows.\n" if told else "")


def _cell(value: object) -> str:
    return shown(value) if isinstance(value, float) else ""


def write_evaluation(folder: Path, evaluation: Evaluation) -> tuple[Path, ...]:
    """Write `evaluation.md`, `evaluation.csv` and `evaluation.json`; nothing where no slide could be compared."""
    if not evaluation.scores:
        return ()
    rows = as_rows(evaluation.scores)
    markdown, table, data = (folder / f"evaluation.{suffix}" for suffix in ("md", "csv", "json"))
    write_text(markdown, "\n".join([as_markdown(rows), *(f"{note}\n" for note in evaluation.notes)]))
    write_csv(table, rows, columns=("slide", "pixels", "target_share", *METRICS))
    failed = {outcome.key: outcome.message for outcome in evaluation.failed}
    told = {"type": FILE_TYPE, "version": FILE_VERSION, "auc_resolution": 1 / (BINS - 1)}
    write_json(data, told | {"rows": rows, "failed": failed, "notes": list(evaluation.notes)})
    return markdown, table, data
