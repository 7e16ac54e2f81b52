from __future__ import annotations

import numpy as np
import pytest

from wsipipe.numerics.grading import LEVELS, bounded_means, graded


@pytest.mark.parametrize("means", [(0.9, 0.1), (0.6, 0.4), (0.7, 0.2), (0.7, 0.45)])
def test_fitted_means_stand_where_their_level_is_near_a_half(means):
    assert bounded_means(*means) is None


@pytest.mark.parametrize(("means", "level"), [((0.3, 0.1), LEVELS[0]), ((0.95, 0.8), LEVELS[1])])
def test_level_is_held(means, level):
    c1, c2 = bounded_means(*means)
    assert (c1 + c2) / 2 == pytest.approx(level)
    assert 0 <= c2 < c1 <= 1


def test_graded_is_at_least_a_half_exactly_on_the_mask():
    rng = np.random.default_rng(0)
    u, z = rng.random((30, 40), np.float32), rng.random((30, 40), np.float32)
    z[0], u[1] = 1.0, 0.5
    found = graded(u, z)
    np.testing.assert_array_equal(found >= 0.5, u > 0.5)
    assert found.min() >= 0
    assert found.max() < 1
    order = np.argsort(z[u > 0.5])
    assert (np.diff(found[u > 0.5][order]) >= 0).all()
