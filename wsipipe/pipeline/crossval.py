"""The `crossval` command: methods compared on equal terms, the paper's Table 1 for any data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from wsipipe.config import Recipe, TrainingSettings
from wsipipe.errors import ConfigError, WsipipeError
from wsipipe.parallel import map_items
from wsipipe.pipeline.cases import read_cases
from wsipipe.pipeline.crossval_job import JobOutcome, run_job
from wsipipe.pipeline.crossval_plan import Job, Plan, Variant, make_plan
from wsipipe.pipeline.crossval_report import write_report
from wsipipe.pipeline.folds import assign_folds
from wsipipe.pipeline.preparation import Reading
from wsipipe.progress import Report, silent
from wsipipe.store.lock import FileLock


@dataclass(frozen=True)
class CrossvalResult:
    """What a comparison came to.

    Parameters
    ----------
    outcomes : tuple of JobOutcome
        In the order of the plan.
    files : tuple of Path
        Of the report, the Markdown table first; empty where no job is finished.
    """

    outcomes: tuple[JobOutcome, ...]
    files: tuple[Path, ...]


def known_methods() -> tuple[str, ...]:
    """Methods that `TrainingSettings.method` allows, in its order."""
    return tuple(get_args(TrainingSettings.model_fields["method"].annotation))


def method_variants(names: Sequence[str]) -> tuple[Variant, ...]:
    """Variants of a comparison of methods.

    Raises
    ------
    ConfigError
        There is none, one twice, or an unknown one.
    """
    known = known_methods()
    remedy = f"known methods: {', '.join(known)}"
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"cannot compare the methods {', '.join(names) or 'none'}", remedy=f"name each once; {remedy}"
        )
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"unknown method {unknown[0]!r}", remedy=remedy)
    return tuple(Variant(name, {"training": {"method": name}}) for name in names)


def compare(
    manifest: Path,
    recipe: Recipe,
    run: Path,
    variants: Sequence[Variant],
    *,
    folds: int = 4,
    baseline: str = "cvm",
    varied: str | None = None,
    out: Path,
    reading: Reading | None = None,
    force: bool = False,
    report: Report = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> CrossvalResult:
    """Train every variant on every fold, score the images held out, and write the tables; go on where it stopped.

    Parameters
    ----------
    manifest : Path
        Images with reference masks, see `read_cases`.
    recipe : Recipe
        Settings that all variants share. Its seed draws folds, points and everything in training, so every variant
        gets the same; `training.pairs` (or 3) points of each class are drawn per image, once, where the manifest has
        no points.
    run : Path
        Folder of the comparison: `plan.json`, `folds.csv`, `points/`, a run folder for each fold and variant
        (`fold-1/cvm/`), and the report (see `write_report`).
    variants : sequence of Variant
        What is compared.
    folds : int
        By patient; inside a fold's training part, training and validation are divided as `train` does.
    baseline : str
        Variant that the others' differences are told against.
    varied : str, optional
        What an ablation varies, for the axis of its plot; None: no ablation.
    out : Path
        Project folder; feature maps that are missing are made there.
    reading : Reading
        How slides are read, the device, and how many jobs run side by side.
    force : bool
        Forget what the folder holds.
    report : Report
        Told the progress of jobs.
    tell : callable
        Told one line per job, as it ends.

    Raises
    ------
    WsipipeError
        Nothing can be compared: the manifest, an image, a mask or points cannot be used, there are fewer patients
        than folds, or the folder holds another comparison. A job that fails stops nothing.
    """
    reading = reading or Reading()
    cases = read_cases(manifest)
    # A comparison that cannot be leaves no folder behind.
    assign_folds([case.patient for case in cases], folds=folds, seed=recipe.training.seed)
    lock = FileLock(run / "crossval")
    lock.acquire()
    try:
        plan = make_plan(
            cases,
            recipe,
            run,
            variants,
            folds=folds,
            out=out,
            reading=reading,
            force=force,
            report=report,
        )
        tell(f"{len(plan.images)} images in {folds} folds, {'; '.join(plan.notes)}")
        outcomes = dict(_outcomes(plan, reading, report=report, tell=tell))
        files = write_report(plan, [variant.name for variant in variants], baseline=baseline, varied=varied)
    finally:
        lock.release()
    return CrossvalResult(tuple(outcomes[index] for index in sorted(outcomes)), files)


def _outcomes(
    plan: Plan, reading: Reading, *, report: Report, tell: Callable[[str], None]
) -> Iterator[tuple[int, JobOutcome]]:
    spread = map_items(run_job, plan.jobs, workers=reading.workers, scheduler=reading.scheduler, report=report)
    for index, result in spread:
        outcome = _outcome(plan.jobs[index], result)
        tell(f"{outcome.name}: {outcome.status}, {outcome.message}")
        yield index, outcome


def _outcome(job: Job, result: JobOutcome | WsipipeError) -> JobOutcome:
    return JobOutcome(job.name, "failed", str(result)) if isinstance(result, WsipipeError) else result
