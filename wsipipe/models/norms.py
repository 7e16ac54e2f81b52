"""Batch norms of a network in training: they normalise by the batch, or by statistics that were taken from the data.

The statistics are those of networks as they are afterwards ("precise", Wu and Johnson, Rethinking "Batch" in BatchNorm,
2021): running averages lag behind the weights, and remember the last few batches only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(modules: Iterable[nn.Module]) -> tuple[_BatchNorm, ...]:
    """Find the batch norms in modules that keep statistics, of whatever library."""
    parts = [part for module in modules for part in module.modules()]
    return tuple(part for part in parts if isinstance(part, _BatchNorm) and part.track_running_stats)


@contextmanager
def normalising_by_batch(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Norms normalise each batch by itself, and their running statistics follow; afterwards they use those."""
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for norm in norms:
            norm.eval()


@contextmanager
def estimating(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Statistics become the mean over all batches that pass through the network meanwhile; one at least has to."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's own sign for a plain mean over all batches
    try:
        with normalising_by_batch(norms):
            yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
