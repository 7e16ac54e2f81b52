"""What logits of windows are worth against labels and reference masks, of two classes or of several."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wsipipe.numerics.metrics import dice


def labelled_losses(logits: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Cross-entropy of each labelled cell.

    Parameters
    ----------
    logits : (h, w) or (K, h, w) tensor
        Of being in target, or of each of K classes.
    labels : (h, w) int8 tensor
        1 in-target, 0 out-of-target, or 0 to K - 1; -1 unlabelled.

    Returns
    -------
    (n,) float64 array
        Of the labelled cells, row by row.
    """
    known = labels >= 0
    if logits.ndim == 2:
        wanted = labels[known].to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits[known], wanted, reduction="none")
    else:
        losses = F.cross_entropy(logits[:, known].T, labels[known].long(), reduction="none")
    return np.asarray(losses.double().numpy())


def decided(logits: Tensor) -> NDArray[np.int8]:
    """Most probable label (h, w) of each cell, from logits as for `labelled_losses`."""
    chosen = logits > 0 if logits.ndim == 2 else logits.argmax(dim=0)
    return chosen.numpy().astype(np.int8)


def mean_dice(labels: NDArray[np.int8], truth: NDArray[np.int8], classes: int) -> float:
    """Dice of labels against a reference, any shape.

    Parameters
    ----------
    labels, truth : int8 arrays
        Of one shape, not empty.
    classes : int
        0: the Dice of label 1; K: the mean over the classes that either side has, each against the rest.
    """
    if not classes:
        return dice(labels == 1, truth == 1)
    present = np.union1d(labels, truth)
    return float(np.mean([dice(labels == label, truth == label) for label in present]))
