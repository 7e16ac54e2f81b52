"""Losses on cells that are of one of several classes: cross-entropies and the uncertainty-weighted divergence.

All work on logits (n, K, h, w), one channel for each class, and their softmax. With two classes they equal those of
`wsipipe.models.losses` on the difference of the two logits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def class_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the labelled cells alone, eq. 3 for several classes.

    Parameters
    ----------
    logits : (n, K, h, w) tensor
    labels : (n, h, w) integer tensor
        Class of a cell, -1 unlabelled.

    Returns
    -------
    scalar tensor
        Mean over the labelled cells of the batch; zero, still differentiable, where there are none.
    """
    if not (labels >= 0).any():
        return _precise(logits).sum() * 0.0
    return F.cross_entropy(_precise(logits), labels.long(), ignore_index=-1)


def soft_class_cross_entropy(logits: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
    """Cross-entropy to soft targets over chosen cells.

    Parameters
    ----------
    logits : (n, K, h, w) tensor
    target : (n, K, h, w) tensor
        Probabilities; no gradient goes into them. Cells where all are 0 cost nothing.
    chosen : (n, h, w) bool tensor
        Cells that count.

    Returns
    -------
    scalar tensor
        Mean over the chosen cells of the batch; zero, still differentiable, where there are none.
    """
    return _mean(_cross_entropy(_precise(logits), target), chosen)


def weighted_class_kl(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Divergence D(t || y) of a soft target t, weighted by how sure the target is, w = exp(-2 h(t)).

    Parameters
    ----------
    logits : (n, K, h, w) tensor
        Of the network's probabilities y.
    target : (n, K, h, w) tensor
        Probabilities, of sum 1 in each cell that counts; no gradient goes into them.
    valid : (n, h, w) bool tensor, optional
        Cells that count; all where None.

    Returns
    -------
    scalar tensor
        Mean over the valid cells of the batch, >= 0; zero where there are none.
    """
    precise = _precise(logits)
    h = torch.special.entr(target.detach().to(precise.dtype)).sum(dim=1)
    divergence = torch.exp(-2.0 * h) * (_cross_entropy(precise, target) - h)
    return divergence.mean() if valid is None else _mean(divergence, valid)


def _cross_entropy(precise: Tensor, target: Tensor) -> Tensor:
    """Of each cell, (n, h, w)."""
    terms = target.detach().to(precise.dtype) * F.log_softmax(precise, dim=1)
    return -terms.sum(dim=1)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
