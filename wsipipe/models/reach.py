"""How far a network of unknown make looks, found by a dry run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_HALO_PX = 1024  # larger halos cost more than they are worth: a core of 1024 px would be read nine times over


def find_halo(features: Callable[[Tensor], Tensor], stride: int) -> int | None:
    """Margin in px, a multiple of `stride`, after which the cells of a tile equal those of one undivided pass.

    Parameters
    ----------
    features : callable
        (n, 3, h, w) -> (n, dim, h / stride, w / stride) float tensors, for any h and w that are multiples of `stride`.
    stride : int
        px per cell.

    Returns
    -------
    int or None
        None where a cell sees everything (attention, squeeze and excitation), or more than `MAX_HALO_PX` px away.

    Notes
    -----
    NaN in one column of cells spreads to every cell that looks there, whatever the weights are: 0 * NaN is NaN. So
    one pass over a strip tells the exact reach along it. Strips lie along both axes.
    """
    cells = 2 * (MAX_HALO_PX // stride) + 3
    reaches = [_reach(features, stride, cells, along=axis) for axis in (2, 3)]
    far = max(reaches)
    return far * stride if far * stride <= MAX_HALO_PX else None


@torch.inference_mode()
def _reach(features: Callable[[Tensor], Tensor], stride: int, cells: int, *, along: int) -> int:
    """How many cells away from a column of NaN cells its values are seen; past the strip where it is too short."""
    shape = [1, 3, 2 * stride, 2 * stride]
    shape[along] = cells * stride
    strip = torch.zeros(shape)
    middle = cells // 2
    strip.narrow(along, middle * stride, stride).fill_(torch.nan)
    spoiled = features(strip).isnan().any(dim=1)[0].any(dim=3 - along)
    seen = torch.nonzero(spoiled).flatten()
    if len(seen) == 0 or seen[0] == 0 or seen[-1] == cells - 1:
        return cells  # nothing, or the ends, of the strip: the reach is unknown or longer
    return int(max(middle - seen[0], seen[-1] - middle))
