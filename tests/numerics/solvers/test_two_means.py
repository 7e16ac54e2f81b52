from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from wsipipe.numerics.solvers import compiled, reference
from wsipipe.numerics.solvers.two_means import two_means

BACKENDS = [reference, compiled]


def means(backend, z, valid=None):
    cells = z.ravel() if valid is None else z[valid]
    low, high = float(cells.min()), float(cells.max())
    return two_means(partial(backend.split, cells, largest=max(high, -low)), low=low, high=high)


@pytest.mark.parametrize("backend", BACKENDS)
def test_finds_two_clusters(backend):
    rng = np.random.default_rng(0)
    high = rng.random((30, 40)) < 0.2
    z = (np.where(high, 0.8, 0.1) + rng.uniform(-0.05, 0.05, high.shape)).astype(np.float32)
    assert means(backend, z) == pytest.approx((z[high].mean(), z[~high].mean()), abs=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_takes_only_cells_that_count(backend):
    z = np.array([[0.0, 0.25, 0.75, 1.0, 0.5]], np.float32)
    valid = np.array([[False, True, True, False, False]])
    assert means(backend, z, valid) == (0.75, 0.25)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("base", [0.0, 0.5, -3.0, 100.0])
def test_values_next_to_one_another_are_parted(backend, base):
    low = np.float32(base)
    z = np.array([[low, np.nextafter(low, np.float32(200)), low]], np.float32)
    c1, c2 = means(backend, z)
    assert c1 > c2


@pytest.mark.parametrize("threads", [1, 3])
def test_split_agrees(threads, monkeypatch):
    monkeypatch.setattr(compiled, "CELLS_PER_THREAD", 100)
    z = np.random.default_rng(4).normal(size=693).astype(np.float32)
    settings = {"largest": float(np.abs(z).max()), "threads": threads}
    first, second = (backend.split(z, 0.3, **settings) for backend in BACKENDS)
    assert (first.count_above, first.count) == (second.count_above, second.count)
    # Each value is rounded to 2^-29 of the power of two above the largest.
    assert (first.sum_above, first.total) == pytest.approx((second.sum_above, second.total), abs=z.size * 4 * 2**-30)
