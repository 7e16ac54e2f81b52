"""What became of one slide of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class SlideOutcome:
    """Result of one command on one slide.

    Parameters
    ----------
    key : str
        The slide's stem, which names its files.
    status : str
        "done", "skipped" (finished before, with the same settings and content) or "failed".
    message : str
        One line: a figure worth telling, or why it failed.
    outputs : tuple of Path
        Files that now hold the result.
    """

    key: str
    status: Literal["done", "skipped", "failed"]
    message: str = ""
    outputs: tuple[Path, ...] = ()
