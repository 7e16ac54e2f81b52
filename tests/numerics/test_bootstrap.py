from __future__ import annotations

import math

import numpy as np
import pytest

from wsipipe.errors import NumericsError
from wsipipe.numerics.bootstrap import paired_difference


def test_a_constant_gap_has_no_width():
    base = np.random.default_rng(0).random(12)
    found = paired_difference(base + 0.25, base, [f"P{i % 4}" for i in range(12)], seed=0)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert (found.images, found.patients) == (12, 4)


def test_draws_follow_the_seed_alone():
    rng = np.random.default_rng(1)
    a, b, patients = rng.random(30), rng.random(30), [f"P{i % 6}" for i in range(30)]
    assert paired_difference(a, b, patients, seed=5) == paired_difference(a, b, patients, seed=5)
    assert paired_difference(a, b, patients, seed=5) != paired_difference(a, b, patients, seed=6)


def test_two_patients_leave_three_possible_means():
    """With gaps 0 (three images) and 1 (one image), draws give 0, 1/4 or 1: the interval ends at those."""
    found = paired_difference([0, 0, 0, 1], [0, 0, 0, 0], ["a", "a", "a", "b"], seed=0)
    assert found.mean == 0.25
    assert (found.low, found.high) == (0.0, 1.0)


def test_independent_images_give_the_textbook_interval():
    gaps = np.random.default_rng(2).normal(0.1, 1, 400)
    found = paired_difference(gaps, np.zeros(400), [str(i) for i in range(400)], seed=0)
    half = 1.96 * gaps.std() / 20
    assert (found.low, found.high) == pytest.approx((gaps.mean() - half, gaps.mean() + half), abs=0.01)


def test_images_of_one_patient_are_no_independent_evidence():
    """Ten copies of each gap leave the interval as it is with one."""
    gaps = np.random.default_rng(3).normal(0, 1, 20)
    names = [str(i) for i in range(20)]
    once = paired_difference(gaps, np.zeros(20), names, seed=0)
    tenfold = paired_difference(np.repeat(gaps, 10), np.zeros(200), list(np.repeat(names, 10)), seed=0)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    spread = paired_difference(np.repeat(gaps, 10), np.zeros(200), [str(i) for i in range(200)], seed=0)
    assert spread.high - spread.low < 0.5 * (once.high - once.low)


def test_undefined_figures_take_their_image_out_of_both():
    a, b = [0.5, math.nan, 0.7, 0.9], [0.4, 0.1, math.nan, 0.6]
    found = paired_difference(a, b, ["x", "x", "y", "z"], seed=0)
    assert found.mean == pytest.approx(0.2)
    assert (found.images, found.patients) == (2, 2)


def test_without_images_or_with_one_patient_there_is_no_interval():
    none = paired_difference([math.nan], [0.3], ["x"], seed=0)
    assert math.isnan(none.mean)
    assert none.images == 0
    one = paired_difference([0.5, 0.4], [0.3, 0.3], ["x", "x"], seed=0)
    assert one.mean == pytest.approx(0.15)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_lengths_must_match():
    with pytest.raises(NumericsError, match=r"got \(2,\), \(3,\) and 2"):
        paired_difference([1, 2], [1, 2, 3], ["a", "b"], seed=0)
