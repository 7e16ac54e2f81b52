"""Folds of a cross-validation: patients stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from wsipipe.errors import ConfigError


def assign_folds(patients: Sequence[str], *, folds: int, seed: int) -> tuple[int, ...]:
    """Fold of every image.

    Parameters
    ----------
    patients : sequence of str
        Patient of every image.
    folds : int
        At least 2.
    seed : int
        Of the draw.

    Returns
    -------
    tuple of int
        From 1 to `folds`. Patients come in random order, each to the fold that has the fewest images so far, so that
        folds are about equally large however unequal the patients are; no fold is empty.

    Raises
    ------
    ConfigError
        There are fewer than two folds, or fewer patients than folds.
    """
    images = Counter(patients)
    if folds < 2:
        raise ConfigError(f"cannot divide into {folds} fold", remedy="use --folds 2 or more")
    if len(images) < folds:
        raise ConfigError(
            f"{len(images)} patients cannot be divided into {folds} folds",
            remedy=f"use --folds {len(images)} or fewer, and check the manifest's patient column",
        )
    names = sorted(images)
    sizes, chosen = np.zeros(folds, dtype=np.int64), {}
    for index in np.random.default_rng(seed).permutation(len(names)):
        fold = int(np.argmin(sizes))
        sizes[fold] += images[names[index]]
        chosen[names[index]] = fold + 1
    return tuple(chosen[patient] for patient in patients)
