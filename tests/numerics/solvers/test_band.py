"""Bands of a map: cuts, sums that are those of the whole, and halos that last as long as they are wide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsipipe.numerics.solvers import compiled
from wsipipe.numerics.solvers.band import (
    VALUE_BITS,
    Band,
    Extent,
    added,
    cut_rows,
    energy_of,
    fixed_scale,
    measures_of,
    region_of,
    views,
)
from wsipipe.numerics.solvers.problem import Problem, Start

MEANS = 0.7, 0.2
LAM = 0.5


@given(rows=st.integers(1, 500), bands=st.integers(1, 40), halo=st.integers(0, 40))
def test_cuts_part_the_rows(rows, bands, halo):
    cuts = cut_rows(rows, bands=bands, halo=halo)
    assert 1 <= len(cuts) <= bands
    assert [row for cut in cuts for row in range(rows)[cut.core]] == list(range(rows))
    sizes = [cut.core.stop - cut.core.start for cut in cuts]
    assert max(sizes) - min(sizes) <= 1
    assert len(cuts) == 1 or min(sizes) >= halo
    for cut in cuts:
        assert (cut.held.start, cut.held.stop) == (max(0, cut.core.start - halo), min(rows, cut.core.stop + halo))
        assert range(cut.held.stop)[cut.held][cut.rows[0] - 1] == cut.core.start


def case(kind, shape=(40, 23), *, seed=0):
    rng = np.random.default_rng(seed)
    z, u = rng.random((2, *shape)).astype(np.float32)
    extra = np.float32(0.2) * rng.normal(size=shape).astype(np.float32)
    valid = rng.random(shape) > 0.1
    z, extra = np.where(valid, z, np.float32(0)), np.where(valid, extra, np.float32(0))
    g = compiled.edge_weights(z, beta=10.0, valid=valid)
    problem = Problem(z, g, LAM, kind, valid, extra)
    return problem, Start(np.where(valid, u, np.float32(0)), *MEANS)


def bands_of(problem, start, *, bands, halo):
    cuts = cut_rows(len(problem.z), bands=bands, halo=halo)
    extent = Extent(*(float(edge(problem.z[problem.valid])) for edge in (np.min, np.max)), np.abs(problem.extra).max())
    return [
        Band(*parts, extent, cut.rows) for cut, parts in zip(cuts, views(problem, start, cuts), strict=True)
    ], extent


@pytest.mark.parametrize("kind", ["crofton", "isotropic"])
def test_bands_stay_exact_for_as_many_iterations_as_the_halo_has_rows(kind):
    problem, start = case(kind)
    (whole,), _ = bands_of(problem, start, bands=1, halo=0)
    bands, _ = bands_of(problem, start, bands=4, halo=6)
    assert added([band.advance(*MEANS, 6) for band in bands]) == whole.advance(*MEANS, 6)
    np.testing.assert_array_equal(np.concatenate([band.segmentation() for band in bands]), whole.segmentation())
    np.testing.assert_array_equal(np.concatenate([band.dual() for band in bands], axis=1), whole.dual())
    for band in (whole, *bands):  # what is wrong spreads by a row in an iteration, where nothing is clipped
        band.advance(*MEANS, 2)
    assert (np.concatenate([band.dual() for band in bands], axis=1) != whole.dual()).any()


@pytest.mark.parametrize("kind", ["crofton", "isotropic"])
def test_certificate_and_energy_need_one_row_more(kind):
    problem, start = case(kind)
    (whole,), extent = bands_of(problem, start, bands=1, halo=0)
    bands, _ = bands_of(problem, start, bands=4, halo=7)
    for band in (whole, *bands):
        band.advance(*MEANS, 6)
    for sums in (Band.measure, Band.energy):
        assert added([sums(band, *MEANS) for band in bands]) == sums(whole, *MEANS)
    measures = measures_of(whole.measure(*MEANS), extent, LAM, *MEANS)
    assert 0 < measures.excess < measures.scale
    assert energy_of(whole.energy(*MEANS), extent, LAM, *MEANS) > 0


def test_neighbours_make_a_spent_halo_good():
    problem, start = case("crofton")
    (whole,), extent = bands_of(problem, start, bands=1, halo=0)
    (upper, lower), _ = bands_of(problem, start, bands=2, halo=5)
    for _ in range(3):
        mass = region_of(added([band.advance(*MEANS, 5) for band in (upper, lower)]), extent).mass
        above, below = lower.first_rows(5), upper.last_rows(5)
        upper.take(None, above)
        lower.take(below, None)
        assert mass == region_of(whole.advance(*MEANS, 5), extent).mass
    np.testing.assert_array_equal(np.concatenate([upper.segmentation(), lower.segmentation()]), whole.segmentation())


@given(st.floats(1e-20, 1e20))
def test_values_fit_their_whole_numbers(largest):
    scaled = largest * fixed_scale(largest)
    assert scaled * (1 + 1e-12) >= 2 ** (VALUE_BITS - 1)
    assert scaled <= 2**VALUE_BITS
