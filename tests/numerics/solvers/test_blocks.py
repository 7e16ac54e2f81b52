"""Maps in bands that live in a scratch store: the undivided map's result bit for bit, whatever the cuts."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from wsipipe.errors import NumericsError
from wsipipe.numerics.solvers.blocks import solve_blocks
from wsipipe.numerics.solvers.field import LargeMap
from wsipipe.numerics.solvers.scratch import MemoryScratch
from wsipipe.numerics.solvers.tasks import SolverSettings
from wsipipe.numerics.variational import solve_cvm

SCALARS = ("c1", "c2", "energy", "gap", "iterations", "status")


def noisy(shape, *, seed=0):
    rng = np.random.default_rng(seed)
    z = 0.3 + 0.4 * (gaussian_filter(rng.normal(size=shape), 3) > 0) + 0.25 * rng.normal(size=shape)
    return z.astype(np.float32)


def masked(shape, *, seed=0):
    rng = np.random.default_rng(seed)
    valid = gaussian_filter(rng.normal(size=shape), 2) > -0.1
    valid.flat[rng.integers(valid.size)] = True
    return valid


def whole(large, chosen):
    z, valid = large.z[:][None], large.valid
    return solve_cvm(
        z,
        lam=large.lam,
        means=large.means,
        extra=large.extra,
        valid=valid,
        **{name: getattr(chosen, name) for name in ("beta", "tol", "neighbourhood", "max_iter", "sweep", "keep_dual")},
        threads=1,
    )


def assert_equal_bit_for_bit(found, lam, expected):
    np.testing.assert_array_equal(found.u.view(np.uint32), expected.u[0].view(np.uint32))
    assert [getattr(found, name) for name in SCALARS] == [getattr(expected, name)[0] for name in SCALARS]
    np.testing.assert_array_equal(lam, expected.lam[0])
    if expected.dual is not None:
        np.testing.assert_array_equal(found.dual, expected.dual[0])


class Shuffled:
    """Visits bands in any order, and some of them twice, as a cluster that loses workers does."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def __call__(self, visit, bands):
        order = [*bands, *self.random.sample(list(bands), len(bands) // 2)]
        self.random.shuffle(order)
        results = {band: visit(band) for band in order}
        return [results[band] for band in bands]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 24)),
    bands=st.integers(1, 9),
    sweep=st.integers(1, 12),
    kind=st.sampled_from(["crofton", "isotropic"]),
    options=st.fixed_dictionaries(
        {"valid": st.booleans(), "extra": st.booleans(), "lam": st.booleans(), "means": st.booleans()}
    ),
    keep_dual=st.booleans(),
    max_iter=st.integers(1, 90),
    seed=st.integers(0, 5),
)
def test_bands_give_the_undivided_result(shape, bands, sweep, kind, options, keep_dual, max_iter, seed):
    large = LargeMap(
        noisy(shape, seed=seed),
        valid=masked(shape, seed=seed) if options["valid"] else None,
        extra=0.5 * noisy(shape, seed=seed + 1) if options["extra"] else None,
        lam=3.0 if options["lam"] else None,
        means=(0.6, 0.2) if options["means"] else None,
    )
    chosen = SolverSettings(neighbourhood=kind, sweep=sweep, tol=1e-4, max_iter=max_iter, keep_dual=keep_dual)
    found, lam = solve_blocks(large, MemoryScratch(), chosen, bands=bands, run=Shuffled(seed))
    assert_equal_bit_for_bit(found, lam, whole(large, chosen))


@pytest.mark.parametrize("kind", ["crofton", "isotropic"])
def test_threads_give_it_to_convergence(kind):
    large = LargeMap(noisy((300, 70)), valid=masked((300, 70)))
    chosen = SolverSettings(neighbourhood=kind, sweep=7)
    with ThreadPoolExecutor(3) as pool:
        found, lam = solve_blocks(large, MemoryScratch(), chosen, bands=8, run=pool.map)
    assert found.status == "converged"
    assert_equal_bit_for_bit(found, lam, whole(large, chosen))


def test_maps_on_disk_are_read_and_written_by_rows(tmp_path):
    z, valid = noisy((90, 40)), masked((90, 40))
    np.save(tmp_path / "z.npy", z)
    out = np.lib.format.open_memmap(tmp_path / "u.npy", "w+", np.float32, z.shape)
    source = Watched(np.load(tmp_path / "z.npy", mmap_mode="r"))
    chosen = SolverSettings(sweep=5)
    found, lam = solve_blocks(LargeMap(source, valid=valid), MemoryScratch(), chosen, bands=6, out=out)
    assert found.u is out
    assert max(source.asked) <= 90 // 6 + 2
    assert sum(source.asked) <= 90 + 2 * 5
    assert_equal_bit_for_bit(found, lam, whole(LargeMap(z, valid=valid), chosen))


class Watched:
    """Counts the rows that are asked for at once."""

    def __init__(self, values):
        self.values, self.shape, self.asked = values, values.shape, []

    def __getitem__(self, rows):
        self.asked.append(rows.stop - rows.start)
        return self.values[rows]


class Counting(MemoryScratch):
    """Remembers what was kept at the same time."""

    def __init__(self):
        super().__init__()
        self.most, self.names = 0, set()

    def put(self, name, planes):
        super().put(name, planes)
        self.names.add(name)
        self.most = max(self.most, len({name.rpartition("-")[0] for name in self.names}))

    def drop(self, name):
        super().drop(name)
        self.names.discard(name)


def test_two_generations_are_kept_at_most():
    scratch = Counting()
    solve_blocks(LargeMap(noisy((60, 30))), scratch, SolverSettings(sweep=4), bands=4)
    assert scratch.most == 3  # the map and two generations
    assert len(scratch.names) == 8


def test_progress_tells_iterations_and_the_gap():
    told = []
    found, _ = solve_blocks(
        LargeMap(noisy((60, 30))),
        MemoryScratch(),
        SolverSettings(sweep=4),
        bands=4,
        tell=lambda done, gap: told.append((done, gap)),
    )
    assert told[0] == (4, None)
    assert told[-1] == (found.iterations, found.gap)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_cells_that_do_not_count_may_hold_anything():
    z, valid = noisy((40, 30)), masked((40, 30))
    dirty, chosen = np.where(valid, z, np.nan), SolverSettings(sweep=4)
    found, lam = solve_blocks(LargeMap(dirty, valid=valid), MemoryScratch(), chosen, bands=3)
    assert_equal_bit_for_bit(found, lam, whole(LargeMap(z, valid=valid), chosen))


@pytest.mark.parametrize(
    ("known", "status"),
    [({}, "constant"), ({"means": (0.5, 0.2)}, "full"), ({"extra": np.full((30, 20), 0.1, np.float32)}, "empty")],
)
def test_a_constant_map_is_told(known, status):
    large, chosen = LargeMap(np.full((30, 20), 0.5, np.float32), **known), SolverSettings(keep_dual=True)
    found, lam = solve_blocks(large, MemoryScratch(), chosen, bands=3)
    assert found.status == status
    assert_equal_bit_for_bit(found, lam, whole(large, chosen))


def test_values_that_cannot_be_used_are_refused():
    z, chosen = noisy((40, 30)), SolverSettings()
    bad = z.copy()
    bad[33, 7] = np.inf
    for large, told in (
        (LargeMap(bad), "z holds values that are not finite"),
        (LargeMap(z, extra=bad), "extra holds values that are not finite"),
        (LargeMap(1e13 * z), "z holds values as large as"),
        (LargeMap(z, valid=np.zeros(z.shape, bool)), "no cell is valid"),
    ):
        with pytest.raises(NumericsError, match=told):
            solve_blocks(large, MemoryScratch(), chosen, bands=3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"z": np.zeros(4, np.float32)}, r"a map is \(rows, cols\), got \(4,\)"),
        ({"valid": np.ones((3, 4), bool)}, r"valid has the shape of z, \(4, 4\), got \(3, 4\)"),
        ({"extra": np.ones((4, 3), np.float32)}, r"extra has the shape of z, \(4, 4\), got \(4, 3\)"),
        ({"lam": 0.0}, "lam is positive, got 0.0"),
        ({"means": (0.5, 0.5)}, r"differ, got \(0.5, 0.5\)"),
    ],
)
def test_impossible_maps_are_refused(given, told):
    with pytest.raises(NumericsError, match=told):
        LargeMap(**({"z": np.zeros((4, 4), np.float32)} | given))


@pytest.mark.parametrize(
    "other",
    [{"backend": "reference"}, {"scheme": "aos", "neighbourhood": "isotropic"}, {"levels": 1}, {"device": "cuda"}],
)
def test_settings_of_other_solvers_are_refused(other):
    with pytest.raises(NumericsError, match="solved by the compiled primal-dual iteration"):
        solve_blocks(LargeMap(noisy((20, 20))), MemoryScratch(), SolverSettings(**other), bands=2)
