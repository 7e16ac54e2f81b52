"""Many slides: one task each, on past a bad one, with an outcome for every slide."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

from wsipipe.errors import WsipipeError
from wsipipe.parallel import map_items
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.progress import Report, silent
from wsipipe.slides import SlideEntry


class SlideTask(Protocol):
    """A command on one slide."""

    def __call__(self, entry: SlideEntry, *, report: Report) -> SlideOutcome:
        """Do the work, or raise `WsipipeError`."""
        ...


def run_batch(
    task: SlideTask,
    entries: Sequence[SlideEntry],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    fail_fast: bool = False,
    report: Report = silent,
) -> list[SlideOutcome]:
    """Run a command on every slide.

    A slide that cannot be done becomes a failed outcome and the others go on, unless `fail_fast`, which leaves out
    the slides that had not started.

    Returns
    -------
    list of SlideOutcome
        In the order of `entries`.
    """
    outcomes: dict[int, SlideOutcome] = {}
    guarded = functools.partial(_guarded, task)
    for index, result in map_items(guarded, entries, workers=workers, scheduler=scheduler, report=report):
        outcomes[index] = _outcome(entries[index], result)
        if fail_fast and outcomes[index].status == "failed":
            break
    return [outcomes[index] for index in sorted(outcomes)]


def _guarded(task: SlideTask, entry: SlideEntry, report: Report) -> SlideOutcome:
    """Turn what may go wrong with a slide into an outcome; programming errors still surface as such."""
    try:
        return task(entry, report=report)
    except WsipipeError as error:
        return _failed(entry, str(error))
    except MemoryError:
        return _failed(entry, f"{entry.path}: out of memory (use fewer --workers or a coarser --mpp)")
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch says that memory is out, among others
        return _failed(entry, f"{entry.path}: {type(error).__name__}: {' '.join(str(error).split())}")


def _outcome(entry: SlideEntry, result: SlideOutcome | WsipipeError) -> SlideOutcome:
    return _failed(entry, f"{entry.path}: {result}") if isinstance(result, WsipipeError) else result


def _failed(entry: SlideEntry, message: str) -> SlideOutcome:
    return SlideOutcome(entry.key, "failed", message)
