from __future__ import annotations

import numpy as np
import pytest

from wsipipe.numerics import nearest as module
from wsipipe.numerics.nearest import nearest


@pytest.mark.parametrize("block", [10, 1 << 22])
def test_neighbours_are_those_of_a_full_sort(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK_VALUES", block)
    rng = np.random.default_rng(0)
    queries, references = (rng.normal(size=(n, 7)).astype(np.float32) for n in (41, 23))
    squares, index = nearest(queries, references, 4)
    distance = ((queries[:, None].astype(np.float64) - references) ** 2).sum(2)
    np.testing.assert_array_equal(index, np.argsort(distance, axis=1)[:, :4])
    np.testing.assert_allclose(squares, np.sort(distance, axis=1)[:, :4], rtol=1e-4)


def test_equals_come_in_their_order_and_distances_are_never_negative():
    points = np.full((6, 3), 0.1, np.float32)
    squares, index = nearest(points, points, 6)
    np.testing.assert_array_equal(index, np.tile(np.arange(6), (6, 1)))
    assert (squares >= 0).all()
    assert (squares < 1e-6).all()
