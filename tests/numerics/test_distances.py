"""Distances to the points: exact where they can be, the same under flips, and larger behind an edge."""

from __future__ import annotations

import numpy as np
import pytest

from wsipipe.errors import NumericsError
from wsipipe.numerics.distances import euclidean_distance, geodesic_distance

POINTS = [(3, 4), (11, 20)]
FLIPS = [lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.T]


def moved(points, shape, flip):
    """Cells of the points on the flipped map."""
    marks = np.zeros(shape, bool)
    marks[tuple(np.transpose(points))] = True
    return np.argwhere(flip(marks))


@pytest.fixture
def step():
    """A map of 15 x 24 cells with a soft edge between columns 11 and 12."""
    z = np.full((15, 24), 0.2, np.float32)
    z[:, 12:] = 0.8
    return z


# --- Euclidean -----------------------------------------------------------------------------------------------------


def test_euclidean_is_exact():
    rows, cols = np.mgrid[:15, :24]
    expected = np.min([np.hypot(rows - r, cols - c) for r, c in POINTS], axis=0)
    found = euclidean_distance((15, 24), POINTS)
    np.testing.assert_allclose(found, expected / expected.max(), atol=1e-6)
    assert found.dtype == np.float32


def test_euclidean_is_normalised_over_the_valid_cells():
    valid = np.zeros((15, 24), bool)
    valid[:, :12] = True
    found = euclidean_distance((15, 24), [(0, 0)], valid=valid)
    assert not found[~valid].any()
    assert found[14, 11] == found.max() == 1
    assert found[0, 6] == pytest.approx(6 / np.hypot(14, 11))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_narrow_maps(shape):
    line = np.linspace(0, 1, max(shape), dtype=np.float32).reshape(shape) if max(shape) > 1 else np.zeros(shape)
    np.testing.assert_allclose(euclidean_distance(shape, [(0, 0)]), line)
    np.testing.assert_allclose(geodesic_distance(np.zeros(shape), [(0, 0)], euclidean=0), line)


def test_all_cells_marked_are_at_no_distance():
    everywhere = np.argwhere(np.ones((2, 3), bool))
    assert not euclidean_distance((2, 3), everywhere).any()
    assert not geodesic_distance(np.random.default_rng(0).random((2, 3)), everywhere).any()


# --- geodesic ------------------------------------------------------------------------------------------------------


def test_on_a_flat_map_steps_to_the_eight_neighbours_count():
    found = geodesic_distance(np.full((5, 9), 0.3), [(2, 2)], euclidean=0)
    rows, cols = np.abs(np.mgrid[:5, :9] - np.array([2, 2])[:, None, None])
    octile = np.maximum(rows, cols) + (np.sqrt(2) - 1) * np.minimum(rows, cols)
    np.testing.assert_allclose(found, octile / octile.max(), atol=1e-6)


def test_distance_jumps_across_an_edge(step):
    """A cell behind the edge is further than one on this side that is more steps away."""
    found = geodesic_distance(step, [(7, 8)])
    assert found[7, 14] > 10 * found[7, 2]
    across = np.diff(found[7])
    assert 10 <= np.argmax(across) <= 12


def test_hand_computed_prices():
    """One row: slopes by central differences, a step costs the mean price of its cells."""
    z = np.array([[0.0, 0.0, 0.4, 0.4, 0.4]])
    price = 0.01 + 10 * np.array([0, 0.2, 0.2, 0, 0]) ** 2
    steps = np.cumsum([0, *(price[1:] + price[:-1]) / 2])
    found = geodesic_distance(z, [(0, 0)], beta=10, epsilon=0.01, euclidean=0, smoothing=0)
    np.testing.assert_allclose(found[0], steps / steps[-1], rtol=1e-6)


def test_the_euclidean_share_makes_far_cells_further():
    z = np.zeros((1, 50))
    without, with_share = (geodesic_distance(z, [(0, 0)], euclidean=share)[0] for share in (0, 0.1))
    assert without[25] == pytest.approx(25 / 49)
    assert with_share[25] < 0.3


def test_paths_go_round_what_is_not_valid():
    valid = np.ones((9, 9), bool)
    valid[:8, 4] = False  # a wall with a gap at the bottom
    z = np.where(valid, 0.5, np.nan)  # what lies on the wall does not matter
    found = geodesic_distance(z, [(0, 0)], euclidean=0, valid=valid)
    assert not found[~valid].any()
    assert found[0, 8] == 1
    assert found[0, 5] > found[8, 5]


def test_what_no_path_reaches_is_furthest():
    valid = np.ones((4, 9), bool)
    valid[:, 4] = False
    found = geodesic_distance(np.zeros((4, 9)), [(0, 0)], valid=valid)
    assert (found[:, 5:] == 1).all()
    assert found[3, 3] == 1


def test_smoothing_keeps_noise_from_counting_as_edges(step):
    """Where noise is everywhere an edge, the true one stands out less."""
    noisy = step + 0.1 * np.random.default_rng(2).standard_normal(step.shape).astype(np.float32)
    raw, smooth = (geodesic_distance(noisy, [(7, 2)], smoothing=s, euclidean=0) for s in (0, 1.5))
    assert smooth[:, :9].max() / smooth[:, 15:].min() < raw[:, :9].max() / raw[:, 15:].min()


@pytest.mark.parametrize("flip", FLIPS)
def test_flips_of_the_map_flip_the_distances(step, flip):
    z = step + 0.1 * np.random.default_rng(0).random(step.shape, np.float32)
    valid = np.random.default_rng(1).random(z.shape) > 0.1
    valid[tuple(np.transpose(POINTS))] = True
    there = moved(POINTS, z.shape, flip)
    for found, expected in (
        (geodesic_distance(flip(z), there, valid=flip(valid)), geodesic_distance(z, POINTS, valid=valid)),
        (euclidean_distance(flip(z).shape, there, valid=flip(valid)), euclidean_distance(z.shape, POINTS, valid=valid)),
    ):
        np.testing.assert_allclose(found, flip(expected), atol=1e-6)


def test_nothing_is_mutated(step):
    z, valid = step.copy(), np.ones(step.shape, bool)
    geodesic_distance(z, POINTS, valid=valid)
    np.testing.assert_array_equal(z, step)
    assert valid.all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"in_target": []}, "no in-target points"),
        ({"in_target": [(99, 0)]}, "row 99, col 0.*outside"),
        ({"z": np.zeros(5)}, r"\(rows, cols\).*\(5,\)"),
        ({"z": np.full((15, 24), np.nan)}, "not finite"),
        ({"beta": -1.0}, "beta.*-1"),
        ({"smoothing": np.nan}, "smoothing is 0 or more, got nan"),
        ({"epsilon": 0.0}, "epsilon is positive, got 0"),
        ({"valid": np.ones((2, 2), bool)}, r"bool array of shape \(15, 24\)"),
        ({"valid": np.arange(360).reshape(15, 24) == 0}, "no in-target point lies on a valid cell"),
    ],
)
def test_nonsense_is_refused(change, told):
    arguments = {"z": np.zeros((15, 24)), "in_target": POINTS} | change
    with pytest.raises(NumericsError, match=told):
        geodesic_distance(arguments.pop("z"), arguments.pop("in_target"), **arguments)
