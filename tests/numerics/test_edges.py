from __future__ import annotations

import numpy as np
import pytest

from wsipipe.numerics.edges import edge_weights
from wsipipe.numerics.solvers import compiled


@pytest.fixture
def z():
    return np.random.default_rng(2).random((13, 17)).astype(np.float32)


def test_is_the_edge_detector_of_the_gradient(z):
    down, right = np.gradient(z.astype(np.float64))
    expected = 1 / (1 + 10 * (down**2 + right**2))
    np.testing.assert_allclose(edge_weights(z, beta=10.0)[1:-1, 1:-1], expected[1:-1, 1:-1], rtol=1e-5)


def test_beta_0_sees_no_edges(z):
    assert np.all(edge_weights(z, beta=0.0) == 1)


def test_the_border_of_valid_cells_is_no_edge():
    z = np.zeros((8, 8), np.float32)
    z[:, 4:] = 1
    valid = np.ones((8, 8), bool)
    valid[:, 4:] = False
    assert np.all(edge_weights(z, beta=10.0, valid=valid) == 1)
    assert edge_weights(z, beta=10.0)[3, 3] < 0.5


@pytest.mark.parametrize("move", [np.fliplr, np.flipud, np.transpose, np.rot90])
@pytest.mark.parametrize("weights", [edge_weights, compiled.edge_weights])
def test_follows_flips_and_transposes_exactly(z, move, weights):
    np.testing.assert_array_equal(
        weights(np.ascontiguousarray(move(z)), beta=10.0, valid=None), move(weights(z, beta=10.0, valid=None))
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (12, 19)])
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_agrees(shape, masked):
    rng = np.random.default_rng(1)
    z = rng.random(shape).astype(np.float32)
    valid = rng.random(shape) < 0.7 if masked else None
    expected = edge_weights(z, beta=10.0, valid=valid)
    np.testing.assert_allclose(compiled.edge_weights(z, beta=10.0, valid=valid), expected, rtol=1e-6)


def test_compiled_keeps_cells_behind_the_steepest_edges(z):
    assert np.all(compiled.edge_weights(z * np.float32(1e10), beta=1e20, valid=None) > 0)
