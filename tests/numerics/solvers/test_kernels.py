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


@pytest.mark.parametrize("planes", [4, 2], ids=["crofton", "isotropic"])
def test_sums_do_not_depend_on_where_the_map_lies(planes):
    """Sums are whole numbers: those of a map are exactly those of its parts, far from one another."""
    rng = np.random.default_rng(0)
    part_u, part_z, part_extra = rng.random((3, 2, 9, 9)).astype(np.float32)
    force, steps, units = (np.float32(-0.2), np.float32(0.07)), (np.float32(0.1), np.float32(1.6)), (np.float32(1),) * 2
    scale, rows = np.float32(2**25), (1, 10)

    def total(u, z, extra, g):
        fills = (0, 0, kernels.OUTSIDE, 0)
        u, z, g, extra = (np.pad(v, 1, constant_values=fill) for v, fill in zip((u, z, g, extra), fills, strict=True))
        p = np.zeros((planes, *u.shape), np.float32)
        ring = np.zeros((3, 2, u.shape[1]), np.float32)
        region = kernels.sweeps(u, z, g, extra, p, ring, force, steps, (scale, scale), rows)
        certificate = kernels.certificate(u, z, g, extra, p, force, units, scale, rows)
        scales = (2.0**25, 2.0**25)
        energy = kernels.energy64(u, z, g, extra, (0.5, 0.1), 5.0, (1.0, 1.0), scales, rows, planes == 4)
        return np.array([*region, *certificate, *energy])

    ones, gap = np.full((9, 9), 0.1, np.float32), np.full((9, 2), kernels.OUTSIDE)
    nothing = np.zeros((9, 2), np.float32)
    parts = sum(total(u, z, extra, ones) for u, z, extra in zip(part_u, part_z, part_extra, strict=True))
    whole = total(
        *(np.hstack([p[1], nothing, p[0]]) for p in (part_u, part_z, part_extra)), np.hstack([ones, gap, ones])
    )
    assert (whole != 0).all()
    np.testing.assert_array_equal(whole, parts)


def test_whole_numbers_are_the_nearest():
    assert [kernels.fixed(np.float32(v), np.float32(8)) for v in (0.125, 0.19, -0.19, -1.0)] == [1, 2, -2, -8]
