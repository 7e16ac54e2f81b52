from __future__ import annotations

from types import SimpleNamespace

import numba
import numpy as np
import pytest

from wsipipe.numerics.solvers import kernels


def twice(value):
    return value + value


def test_compiles_where_there_is_no_folder_for_the_cache(monkeypatch):
    real, tried = numba.njit, []

    def read_only(**options):
        tried.append(options.pop("cache", False))
        if tried[-1]:
            raise RuntimeError("cannot cache function 'twice': no locator available")
        return real(**options)

    monkeypatch.setattr(kernels, "numba", SimpleNamespace(njit=read_only))
    assert kernels.compiled(twice)(21) == 42
    assert tried == [True, False]


@pytest.mark.parametrize("kind", ["crofton", "isotropic"])
def test_sums_do_not_depend_on_where_the_map_lies(kind):
    """Sums are whole numbers: those of a map are exactly those of its parts, far from one another."""
    rng = np.random.default_rng(0)
    planes = 4 if kind == "crofton" else 2
    sums = getattr(kernels, f"{kind}_sums")
    part_u, part_z = rng.random((2, 9, 9)).astype(np.float32), rng.random((2, 9, 9)).astype(np.float32)

    def total(u, z, g):
        padded = [np.pad(plane, 1, constant_values=fill) for plane, fill in ((u, 0), (z, 0), (g, kernels.OUTSIDE))]
        p = np.zeros((planes, *padded[0].shape), np.float32)
        return np.array(sums(*padded, p, (np.float32(-2), np.float32(0.7)), (2.0**40, 2.0**40, 2.0**40)))

    ones, gap = np.ones((9, 9), np.float32), np.full((9, 2), kernels.OUTSIDE)
    parts = sum(total(u, z, ones) for u, z in zip(part_u, part_z, strict=True))
    nothing = np.zeros((9, 2), np.float32)
    whole = total(
        np.hstack([part_u[1], nothing, part_u[0]]),
        np.hstack([part_z[1], nothing, part_z[0]]),
        np.hstack([ones, gap, ones]),
    )
    np.testing.assert_array_equal(whole, parts)
