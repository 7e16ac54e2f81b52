"""Losses on cells: cross-entropies (eq. 3), the uncertainty-weighted divergence, squared error and Dice.

All work on logits, so that they stay finite however sure the network is, and in at least float32, so that mixed
precision does not round them away. Three of them take logits of several classes, too: see `losses_classes`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wsipipe.models.losses_classes import class_cross_entropy, soft_class_cross_entropy, weighted_class_kl


def partial_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the labelled cells alone (eq. 3).

    Parameters
    ----------
    logits : (n, 1, h, w) or (n, h, w) tensor
        Logits of being in target; (n, K, h, w): of K classes.
    labels : (n, h, w) integer tensor
        1 in-target, 0 out-of-target, -1 unlabelled; of K classes, 0 to K - 1.

    Returns
    -------
    scalar tensor
        Mean over the labelled cells of the batch; zero, still differentiable, where there are none.
    """
    if _of_classes(logits):
        return class_cross_entropy(logits, labels)
    flat = _flat(logits, labels)
    labelled = labels >= 0
    if not labelled.any():
        return flat.sum() * 0.0
    return F.binary_cross_entropy_with_logits(flat[labelled], labels[labelled].to(flat.dtype))


def soft_cross_entropy(logits: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
    """Cross-entropy to soft targets over chosen cells.

    Parameters
    ----------
    logits : (n, 1, h, w) or (n, h, w) tensor
        Logits of being in target; (n, K, h, w): of K classes.
    target : (n, h, w) tensor
        Probabilities in [0, 1]; no gradient goes into them. Of K classes, (n, K, h, w).
    chosen : (n, h, w) bool tensor
        Cells that count.

    Returns
    -------
    scalar tensor
        Mean over the chosen cells of the batch; zero, still differentiable, where there are none.
    """
    if _of_classes(logits):
        return soft_class_cross_entropy(logits, target, chosen)
    flat = _flat(logits, target)
    loss = F.binary_cross_entropy_with_logits(flat, target.detach().to(flat.dtype), reduction="none")
    return _mean(loss, chosen)


def squared_error(logits: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
    """Squared difference of probabilities, (y - target)^2, over chosen cells (Brier score).

    Of two classes, this is the mean of the squares over both. Parameters and result as for `soft_cross_entropy`.
    """
    flat = _flat(logits, target)
    return _mean((torch.sigmoid(flat) - target.detach().to(flat.dtype)) ** 2, chosen)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - Dice of two classes, with squares in the denominator (Milletari, Navab and Ahmadi, 3DV 2016).

        mean over the classes k of 1 - (2 sum y_k t_k + s) / (sum y_k^2 + sum t_k^2 + s),   s = 1e-5

    Parameters
    ----------
    logits : (n, 1, h, w) or (n, h, w) tensor
        Logits of being in target.
    target : (n, h, w) bool tensor
        Cells in target.
    valid : (n, h, w) bool tensor
        Cells that count.

    Returns
    -------
    scalar tensor
        In [0, 1]; sums go over the whole batch, as in the published code of Luo et al.
    """
    flat = _flat(logits, target)
    y, t = torch.sigmoid(flat), target.to(flat.dtype)
    terms = [
        1.0 - (2.0 * _total(a * b, valid) + 1e-5) / (_total(a**2, valid) + _total(b**2, valid) + 1e-5)
        for a, b in ((y, t), (1.0 - y, 1.0 - t))
    ]
    return torch.stack(terms).mean()


def entropy(u: Tensor) -> Tensor:
    """Entropy h of each probability in nats, 0 at u = 0 and u = 1."""
    h: Tensor = torch.special.entr(u) + torch.special.entr(1.0 - u)
    return h


def weighted_kl(logits: Tensor, u: Tensor, valid: Tensor | None = None) -> Tensor:
    """Divergence D(u || y) of a soft target u, weighted by how sure the target is, w = exp(-2h).

    The paper prints a minus sign in front of the sum, with which a perfect fit would be the worst; the divergence
    meant is the usual, positive one.

    Parameters
    ----------
    logits : (n, 1, h, w) or (n, h, w) tensor
        Logits of the network's probability y; (n, K, h, w): of K classes.
    u : (n, h, w) tensor
        Target probabilities in [0, 1]; no gradient goes into them. Of K classes, (n, K, h, w).
    valid : (n, h, w) bool tensor, optional
        Cells that count (the set K); all where None.

    Returns
    -------
    scalar tensor
        Mean over the valid cells of the batch, >= 0; zero where there are none.
    """
    if _of_classes(logits):
        return weighted_class_kl(logits, u, valid)
    flat = _flat(logits, u)
    target = u.detach().to(flat.dtype)
    h = entropy(target)
    cross_entropy = -(target * F.logsigmoid(flat) + (1.0 - target) * F.logsigmoid(-flat))
    divergence = torch.exp(-2.0 * h) * (cross_entropy - h)
    if valid is None:
        return divergence.mean()
    return _mean(divergence, valid)


def _of_classes(logits: Tensor) -> bool:
    return logits.ndim == 4 and logits.shape[1] > 1


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return _total(values, chosen) / chosen.sum().clamp(min=1)


def _total(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum()


def _flat(logits: Tensor, like: Tensor) -> Tensor:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return precise.reshape(like.shape)
