from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from wsipipe.errors import NumericsError
from wsipipe.numerics.metrics import (
    METRICS,
    Counts,
    accuracy,
    auc,
    auc_of_histograms,
    cohen_kappa,
    dice,
    precision,
    recall,
)

# 3 hits, 1 false alarm, 2 misses, 4 rightly left out
MASK = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
TRUTH = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
EMPTY, FULL = np.zeros((2, 3), bool), np.ones((2, 3), bool)


def test_hand_made_case():
    assert dice(MASK, TRUTH) == pytest.approx(6 / 9)
    assert accuracy(MASK, TRUTH) == pytest.approx(0.7)
    assert precision(MASK, TRUTH) == pytest.approx(3 / 4)
    assert recall(MASK, TRUTH) == pytest.approx(3 / 5)
    by_chance = 0.4 * 0.5 + 0.6 * 0.5
    assert cohen_kappa(MASK, TRUTH) == pytest.approx((0.7 - by_chance) / (1 - by_chance))


def test_auc_counts_ordered_pairs():
    scores, truth = np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False])
    # pairs: 0.9 beats both; 0.4 ties with 0.4 and beats 0.1
    assert auc(scores, truth) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


def test_shapes_of_any_dimension_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    mask, truth = rng.random((7, 11)) > 0.6, rng.random((7, 11)) > 0.4
    a, b = mask.ravel(), truth.ravel()
    assert dice(mask, truth) == pytest.approx(reference.f1_score(b, a))
    assert precision(mask, truth) == pytest.approx(reference.precision_score(b, a))
    assert recall(mask, truth) == pytest.approx(reference.recall_score(b, a))
    assert accuracy(mask, truth) == pytest.approx(reference.accuracy_score(b, a))

    assert cohen_kappa(mask, truth) == pytest.approx(reference.cohen_kappa_score(b, a))


def test_counts_of_parts_add_up_to_those_of_the_whole():
    rng = np.random.default_rng(1)
    mask, truth = rng.random((40, 30)) > 0.7, rng.random((40, 30)) > 0.5
    parts = [Counts.of(mask[rows], truth[rows]) for rows in (slice(0, 7), slice(7, 32), slice(32, 40))]
    whole = sum(parts, Counts())
    assert whole == Counts.of(mask, truth)
    assert whole.total == 1200
    assert whole.wanted == truth.sum()
    told = {"dice": dice, "accuracy": accuracy, "precision": precision, "recall": recall, "kappa": cohen_kappa}
    assert whole.agreement() == pytest.approx({name: metric(mask, truth) for name, metric in told.items()})
    assert (*whole.agreement(), "auc") == METRICS


def test_counts_of_the_hand_made_case():
    assert Counts.of(MASK, TRUTH) == Counts(hits=3, false_alarms=1, misses=2, rejections=4)


def test_histograms_give_the_auc_of_the_scores_they_count():
    rng = np.random.default_rng(2)
    scores, truth = rng.integers(0, 256, 5000).astype(np.uint8), rng.random(5000) > 0.8
    inside, outside = (np.bincount(scores[part], minlength=256) for part in (truth, ~truth))
    assert auc_of_histograms(inside, outside) == pytest.approx(auc(scores, truth), abs=1e-12)
    assert math.isnan(auc_of_histograms(inside, np.zeros(256)))
    with pytest.raises(NumericsError, match="got 256 and 3 bins"):
        auc_of_histograms(inside, [1, 2, 3])


@pytest.mark.parametrize("metric", [dice, precision, recall, accuracy])
def test_two_empty_masks_agree_perfectly(metric):
    assert metric(EMPTY, EMPTY) == 1.0
    assert metric(FULL, FULL) == 1.0


def test_kappa_of_two_masks_of_one_class_is_undefined():
    assert math.isnan(cohen_kappa(EMPTY, EMPTY))
    assert math.isnan(cohen_kappa(FULL, FULL))


@pytest.mark.parametrize("metric", [dice, precision, recall, cohen_kappa, accuracy])
def test_nothing_in_common_scores_zero(metric):
    assert metric(EMPTY, FULL) == 0.0
    assert metric(FULL, EMPTY) == 0.0


def test_auc_of_one_class_is_undefined():
    assert math.isnan(auc(np.linspace(0, 1, 6), FULL))
    assert math.isnan(auc(np.linspace(0, 1, 6), EMPTY))


@pytest.mark.parametrize("metric", [dice, accuracy, precision, recall, cohen_kappa])
def test_bad_masks_are_named(metric):
    with pytest.raises(NumericsError, match="must be boolean, got uint8"):
        metric(np.ones(3, np.uint8), np.ones(3, bool))
    with pytest.raises(NumericsError, match=r"one shape, got \(3, 2\) and \(2, 3\)"):
        metric(np.ones((3, 2), bool), FULL)
    with pytest.raises(NumericsError, match="0 elements"):
        metric(np.ones(0, bool), np.ones(0, bool))


def test_bad_scores_are_named():
    with pytest.raises(NumericsError, match="finite"):
        auc(np.array([0.1, np.nan]), np.array([True, False]))
    with pytest.raises(NumericsError, match="got 3 and 2"):
        auc(np.zeros(3), np.array([True, False]))
