"""A batch goes on past what is wrong with a slide, in this process and in workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsipipe.errors import SlideError
from wsipipe.pipeline.batch import run_batch
from wsipipe.pipeline.outcome import SlideOutcome
from wsipipe.progress import Progress
from wsipipe.slides import SlideEntry

ENTRIES = [SlideEntry(key, Path(f"{key}.svs"), None) for key in ("good", "bad", "memory", "torch", "disk")]


def task(entry, *, report):
    trouble = {
        "bad": SlideError("is cut off", path=entry.path),
        "memory": MemoryError(),
        "torch": RuntimeError("DefaultCPUAllocator: can't\nallocate memory"),
        "disk": OSError(28, "No space left on device"),
    }
    if entry.key in trouble:
        raise trouble[entry.key]
    report(Progress(entry.key, "work", 1, 1))
    return SlideOutcome(entry.key, "done")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [1, 2])
def test_every_slide_gets_an_outcome_in_order(workers):
    outcomes = run_batch(task, ENTRIES, workers=workers)
    assert [outcome.key for outcome in outcomes] == [entry.key for entry in ENTRIES]
    assert [outcome.status for outcome in outcomes] == ["done"] + ["failed"] * 4
    told = [outcome.message for outcome in outcomes]
    assert told[1] == "bad.svs: is cut off"
    assert "out of memory" in told[2]
    assert "can't allocate memory" in told[3]
    assert "No space left" in told[4]


def test_fail_fast_stops_at_the_first():
    assert [o.key for o in run_batch(task, ENTRIES, fail_fast=True)] == ["good", "bad"]
