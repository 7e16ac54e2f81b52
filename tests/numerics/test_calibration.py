"""A temperature is found again, order and mask stay, few points calibrate nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from wsipipe.errors import NumericsError
from wsipipe.numerics.calibration import (
    HOTTEST,
    MIN_POINTS,
    calibrated,
    expected_calibration_error,
    fit_calibration,
)


def drawn(temperature, count=20_000, shift=0.0, seed=0):
    """Logits of a network that is too sure by `temperature`, and labels drawn with the true probability."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, count)
    return true * temperature, (rng.random(count) < expit(true + shift)).astype(np.int64)


@pytest.mark.parametrize("temperature", [1.5, 4.0])
def test_the_temperature_of_drawn_labels_is_found(temperature):
    logits, label = drawn(temperature)
    found = fit_calibration(logits, label)
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.shift < 0.08
    assert (found.in_target, found.out_of_target) == (label.sum(), (1 - label).sum())
    assert not found.note


def test_a_network_is_never_made_surer():
    assert fit_calibration(*drawn(0.5)).temperature == pytest.approx(1.0, abs=1e-4)


def test_logits_that_say_nothing_are_cooled_down_as_far_as_it_goes():
    logits, label = drawn(1.0)
    assert fit_calibration(-logits, label).temperature == pytest.approx(HOTTEST, rel=1e-3)


def test_the_shift_is_its_size_and_its_error():
    assert fit_calibration(*drawn(2.0, shift=-0.8)).shift == pytest.approx(0.8, abs=0.1)
    few, many = (fit_calibration(*drawn(2.0, count)).shift for count in (60, 6000))
    assert few > 2 * many > 0.02


@pytest.mark.parametrize("inside", [0, MIN_POINTS - 1, MIN_POINTS])
def test_few_points_calibrate_nothing(inside):
    label = np.repeat([1, 0], [inside, 40])
    found = fit_calibration(np.where(label == 1, 0.1, -5.0) + np.arange(len(label)), label)
    if inside < MIN_POINTS:
        assert (found.temperature, found.shift) == (1.0, None)
        assert f"only {inside} in-target and 40 out-of-target points were held out" in found.note
    else:
        assert found.temperature > 1
        assert found.shift is not None


def test_points_that_are_all_told_apart_leave_a_wide_shift():
    label = np.repeat([1, 0], 12)
    found = fit_calibration(np.where(label == 1, 40.0, -40.0), label)
    assert found.temperature == pytest.approx(1.0, abs=1e-4)
    assert 1 < found.shift < 10


@pytest.mark.parametrize(
    ("logits", "label"), [([0.0, 1.0], [1]), ([0.0, np.nan], [1, 0]), ([0.0, 1.0], [1, 2]), ([[0.0]], [[1]])]
)
def test_wrong_arrays_are_refused(logits, label):
    with pytest.raises(NumericsError, match="n finite logits and n labels 0 or 1"):
        fit_calibration(logits, label)


def test_a_temperature_divides_the_logits_and_keeps_order_and_mask():
    logits = np.random.default_rng(0).normal(0, 4, (30, 40))
    p = expit(logits).astype(np.float32)
    found = calibrated(p, 2.5)
    np.testing.assert_allclose(found, expit(logits / 2.5), rtol=1e-4)
    np.testing.assert_array_equal(found >= 0.5, p >= 0.5)
    assert found.dtype == np.float32
    assert calibrated(p, 1.0) is p


def test_saturated_probabilities_are_cooled_down_too():
    np.testing.assert_allclose(calibrated(np.array([0, 0.5, 1], np.float32), 4.0), [0.0154, 0.5, 0.9846], atol=1e-3)


def test_calibration_error_falls_to_its_noise():
    logits, label = drawn(4.0)
    p = expit(logits).astype(np.float32)
    before, after = (expected_calibration_error(calibrated(p, t), label) for t in (1.0, 4.0))
    assert before > 0.08
    assert after < 0.015


def test_calibration_error_of_a_small_example():
    # Bins [0, .5) and [.5, 1]: said 0.2 and 0.9 on average, true 0 and 0.5.
    assert expected_calibration_error([0.1, 0.3, 0.8, 1.0], [0, 0, 1, 0], bins=2) == pytest.approx((0.2 + 0.4) / 2)
