"""How long work says how far it is, without knowing who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` units of `stage` for `item` (a slide key, a run name)."""

    item: str
    stage: str
    done: int
    total: int


class Report(Protocol):
    """What a long function calls with its progress; picklable where it must cross processes."""

    def __call__(self, progress: Progress, /) -> None:
        """Take a report."""
        ...


def silent(progress: Progress, /) -> None:
    """Listen to nothing."""
