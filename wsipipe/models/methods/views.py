"""Windows turned and mirrored on the device, and turned back: several views of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """One of the eight symmetries of the square, applied to the last two axes (h, w).

    Parameters
    ----------
    quarters : int
        Quarter turns counter-clockwise.
    mirrored : bool
        Whether the turned window is flipped left to right.
    """

    quarters: int = 0
    mirrored: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """Turn a tensor."""
        turned = _turned(x, self.quarters)
        return turned.flip(-1) if self.mirrored else turned

    def undo(self, x: Tensor) -> Tensor:
        """Turn a tensor back."""
        straight = x.flip(-1) if self.mirrored else x
        return _turned(straight, -self.quarters)


def _turned(x: Tensor, quarters: int) -> Tensor:
    # torch copies even where nothing turns, and into another order of the channels.
    return torch.rot90(x, quarters, dims=(-2, -1)) if quarters else x


def draw_view(size: Sequence[int]) -> View:
    """Draw a symmetry that keeps windows of this size (h, w) at that size, with torch's random numbers."""
    step = 1 if size[0] == size[1] else 2
    return View(step * _below(4 // step), bool(_below(2)))


def draw_rotation() -> View:
    """Draw a number of quarter turns, with torch's random numbers."""
    return View(_below(4))


def _below(count: int) -> int:
    return int(torch.randint(count, ()))
