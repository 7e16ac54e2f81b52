from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wsipipe.errors import NumericsError
from wsipipe.numerics import energy
from wsipipe.numerics.contrast import stretched
from wsipipe.numerics.edges import edge_weights
from wsipipe.numerics.solvers.differences import OFFSETS, pair_slices
from wsipipe.numerics.variational import CvmCase, solve_cvm, solve_cvm_batch, variational_segmentation

KINDS = ["crofton", "isotropic"]
BACKENDS = ["reference", "compiled"]


def blobs(shape, *, seed=0, noise=0.25, size=6):
    """A map like a contrast map, (1, rows, cols), and the truth."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=shape), size) > 0
    z = np.clip(0.15 + 0.5 * truth + noise * rng.normal(size=shape), 0, 1) ** 2
    return ((z - z.min()) / (z.max() - z.min())).astype(np.float32)[None], truth


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def certificate(z, result, kind, valid=None, extra=None):
    """Energy and gap of the first map of a result, computed anew in float64."""
    g = edge_weights(z[0], beta=10.0, valid=valid)
    c1, c2, lam = result.c1[0], result.c2[0], result.lam[0]
    f = energy.force(z[0], c1=c1, c2=c2, lam=lam, valid=valid, extra=extra)
    primal = energy.primal_value(result.u[0], g, f, neighbourhood=kind, valid=valid)
    dual = energy.dual_value(energy.feasible(result.dual[0], g, neighbourhood=kind, valid=valid), f, neighbourhood=kind)
    case = {"c1": c1, "c2": c2, "lam": lam, "neighbourhood": kind, "valid": valid, "extra": extra}
    total = energy.energy(z[0], result.u[0], g, **case)
    return total, energy.relative_gap(primal, dual, f)


# --- what it finds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_truth_under_noise(kind):
    z, truth = blobs((120, 90))
    result = solve_cvm(z, neighbourhood=kind)
    assert result.status == ("converged",)
    assert dice(result.u[0] > 0.5, truth) > 0.98 > dice(z[0] > 0.5, truth)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_certificate_is_true(kind, backend, masked):
    """Energy, means and gap, computed anew by the referee, are those reported."""
    z, _ = blobs((60, 43), seed=1)
    valid = gaussian_filter(np.random.default_rng(2).normal(size=(60, 43)), 3) > -0.05 if masked else None
    result = solve_cvm(z, neighbourhood=kind, backend=backend, valid=valid, keep_dual=True, tol=1e-5)
    total, gap = certificate(z, result, kind, valid)
    assert result.energy[0] == pytest.approx(total, rel=1e-6)
    assert result.gap[0] == pytest.approx(gap, abs=1e-6)
    assert 0 <= gap < 1.1e-5
    means = energy.region_means(z[0], result.u[0], valid)
    assert (result.c1[0], result.c2[0]) == pytest.approx(means, abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_binary_mask_of_a_4_by_4_map_is_better(kind):
    """Brute force over all 65536 masks, for means held fixed."""
    z = np.random.default_rng(7).random((1, 4, 4)).astype(np.float32)
    masks = ((np.arange(65536)[:, None] >> np.arange(16)) & 1).reshape(-1, 4, 4).astype(np.float64)
    g = edge_weights(z[0], beta=10.0).astype(np.float64)
    f = energy.force(z[0], c1=0.7, c2=0.3, lam=12.0)
    lengths = np.zeros(len(masks))
    if kind == "crofton":
        for offset, weight in zip(OFFSETS[kind], energy.crofton_weights(g, np.ones((4, 4), bool)), strict=True):
            first, second = pair_slices(offset)
            step = np.abs(masks[(slice(None), *second)] - masks[(slice(None), *first)])
            lengths += np.sum(weight[first] * step, axis=(1, 2))
    else:
        padded = np.pad(masks, ((0, 0), (0, 1), (0, 1)), mode="edge")
        steps = np.hypot(padded[:, 1:, :-1] - masks, padded[:, :-1, 1:] - masks)
        lengths = np.sum(g * steps, axis=(1, 2))
    best = float(np.min(lengths + np.sum(f * masks, axis=(1, 2))))
    result = solve_cvm(z, lam=12.0, means=(0.7, 0.3), tol=1e-6, neighbourhood=kind, max_iter=5000)
    relaxed = energy.primal_value(result.u[0], g, f, neighbourhood=kind)
    mask = (result.u[0] > 0.5).astype(float)
    assert 0 < mask.sum() < 16
    assert relaxed <= best + result.gap[0] * np.abs(f).sum() + 1e-6
    if kind == "crofton":  # forward differences are not a sum over pairs: there the relaxation may be lower
        assert relaxed >= best - 1e-6
        assert energy.primal_value(mask, g, f, neighbourhood=kind) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("lam", [1.0, 5.0, 20.0])
def test_agrees_with_a_graph_cut(lam):
    """An independent solver: the minimum cut of the same eight-neighbour energy."""
    maxflow = pytest.importorskip("maxflow")
    z, _ = blobs((48, 61), seed=3, noise=0.4)
    result = solve_cvm(z, lam=lam, tol=1e-5, max_iter=5000)
    g = edge_weights(z[0], beta=10.0).astype(np.float64)
    f = energy.force(z[0], c1=result.c1[0], c2=result.c2[0], lam=lam)
    graph = maxflow.Graph[float]()
    nodes = graph.add_grid_nodes(z[0].shape)
    for offset, weight in zip(OFFSETS["crofton"], energy.crofton_weights(g, np.ones(g.shape, bool)), strict=True):
        first, second = pair_slices(offset)
        for a, b, w in zip(nodes[first].ravel(), nodes[second].ravel(), weight[first].ravel(), strict=True):
            graph.add_edge(int(a), int(b), float(w), float(w))
    graph.add_grid_tedges(nodes, np.maximum(-f, 0), np.maximum(f, 0))
    graph.maxflow()
    cut = ~graph.get_grid_segments(nodes)
    best = energy.primal_value(cut.astype(float), g, f, neighbourhood="crofton")
    scale = float(np.abs(f).sum())
    relaxed = energy.primal_value(result.u[0], g, f, neighbourhood="crofton")
    assert -1e-7 <= (relaxed - best) / scale <= result.gap[0] + 1e-7
    thresholded = energy.primal_value((result.u[0] > 0.5).astype(float), g, f, neighbourhood="crofton")
    assert (thresholded - best) / abs(best) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("settings", [{}, {"lam": 5.0}, {"means": (0.5, 0.1)}, {"levels": 2}, {"beta": 1000.0}])
def test_backends_agree(kind, masked, settings):
    """Float32 against float64: the same steps, so u agrees to 1e-3 everywhere and to 1e-5 on average."""
    z, _ = blobs((50, 71), seed=4)
    valid = np.random.default_rng(0).random((50, 71)) < 0.85 if masked else None
    first, second = (solve_cvm(z, backend=name, neighbourhood=kind, valid=valid, **settings) for name in BACKENDS)
    difference = np.abs(first.u - second.u)
    assert difference.max() < 1e-3
    assert difference.mean() < 1e-5
    assert first.status == second.status
    assert first.energy == pytest.approx(second.energy, rel=1e-5)
    assert first.gap == pytest.approx(second.gap, abs=1e-5)
    assert (first.c1[0], first.c2[0]) == pytest.approx((second.c1[0], second.c2[0]), abs=1e-5)


@pytest.mark.parametrize("move", [np.fliplr, np.flipud, np.transpose, np.rot90], ids=lambda move: move.__name__)
@pytest.mark.parametrize("masked", [False, True])
def test_flips_and_transposes_change_nothing(move, masked):
    """Bit for bit, with eight neighbours."""
    z, _ = blobs((67, 45), seed=5)
    valid = np.random.default_rng(0).random((67, 45)) < 0.9 if masked else None
    result = solve_cvm(z, valid=valid)
    moved = solve_cvm(np.ascontiguousarray(move(z[0]))[None], valid=None if valid is None else move(valid).copy())
    np.testing.assert_array_equal(moved.u[0], move(result.u[0]))
    for name in ("c1", "c2", "energy", "gap", "iterations", "lam"):
        assert getattr(moved, name)[0] == getattr(result, name)[0], name


@pytest.mark.parametrize("kind", KINDS)
def test_maps_and_threads_do_not_touch_one_another(kind):
    z = np.concatenate([blobs((40, 52), seed=s)[0] for s in range(5)])
    before = z.copy()
    one, many = (solve_cvm(z, threads=threads, neighbourhood=kind) for threads in (1, 4))
    np.testing.assert_array_equal(one.u, many.u)
    np.testing.assert_array_equal(one.energy, many.energy)
    for index in range(5):
        alone = solve_cvm(z[index : index + 1], neighbourhood=kind)
        np.testing.assert_array_equal(alone.u[0], one.u[index])
    np.testing.assert_array_equal(z, before)


def test_many_iterations_in_one_pass_are_the_same_as_one_by_one(monkeypatch):
    from wsipipe.numerics.solvers import band

    z, _ = blobs((40, 52))
    several = solve_cvm(z)
    monkeypatch.setattr(band, "CACHE_BYTES", 0)
    np.testing.assert_array_equal(solve_cvm(z).u, several.u)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_bands_in_threads_are_the_undivided_map(kind, masked, monkeypatch):
    """Bit for bit, with as many bands of rows as there are threads."""
    from wsipipe.numerics.solvers import compiled

    monkeypatch.setattr(compiled, "CELLS_PER_THREAD", 100)
    z, _ = blobs((61, 40), seed=3)
    valid = np.random.default_rng(0).random(z.shape[1:]) < 0.9 if masked else None
    one, three = (
        solve_cvm(z, valid=valid, neighbourhood=kind, keep_dual=True, threads=threads, levels=1) for threads in (1, 3)
    )
    np.testing.assert_array_equal(one.u, three.u)
    np.testing.assert_array_equal(one.dual[0], three.dual[0])
    for name in ("c1", "c2", "energy", "gap", "iterations", "status"):
        assert getattr(one, name) == getattr(three, name)


def test_maps_of_several_sizes_are_solved_at_once():
    cases = [
        CvmCase(np.concatenate([blobs((30, 22), seed=0)[0], blobs((30, 22), seed=1)[0]]), lam=[2.0, 3.0]),
        CvmCase(blobs((12, 50), seed=2)[0], means=(0.6, 0.1)),
        CvmCase(np.full((1, 5, 5), 0.3, np.float32)),
    ]
    together = solve_cvm_batch(cases, threads=2)
    for case, found in zip(cases, together, strict=True):
        alone = solve_cvm(case.z, lam=case.lam, means=case.means)
        np.testing.assert_array_equal(found.u, alone.u)
        assert found.status == alone.status
        assert found.energy.tolist() == alone.energy.tolist()


# --- an extra force ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("masked", [False, True])
def test_the_certificate_counts_an_extra_force(kind, backend, masked):
    z, _ = blobs((31, 42), seed=6)
    rng = np.random.default_rng(0)
    valid = rng.random(z.shape[1:]) < 0.8 if masked else None
    extra = rng.uniform(-1, 2, z.shape[1:]).astype(np.float32)
    settings = {"neighbourhood": kind, "backend": backend, "keep_dual": True}
    result = solve_cvm(z, extra=extra, valid=valid, **settings)
    total, gap = certificate(z, result, kind, valid, extra)
    assert result.status == ("converged",)
    assert result.gap[0] <= 1e-4
    assert gap == pytest.approx(result.gap[0], abs=2e-6)
    assert result.energy[0] == pytest.approx(total, rel=1e-6)
    assert not np.array_equal(result.u > 0.5, solve_cvm(z, valid=valid, **settings).u > 0.5)


def test_backends_agree_on_an_extra_force():
    z, _ = blobs((40, 52), seed=1)
    extra = np.linspace(0, 1, z.size, dtype=np.float32).reshape(z.shape)
    first, second = (solve_cvm(z, extra=extra, backend=backend, levels=1) for backend in BACKENDS)
    np.testing.assert_allclose(first.u, second.u, atol=1e-3)
    assert first.energy[0] == pytest.approx(second.energy[0], rel=1e-5)


@pytest.mark.parametrize("distance", ["euclidean", "geodesic"])
def test_a_distance_leaves_out_what_lies_far_from_the_points(distance):
    """Two like blobs, one of them marked: without a distance both are segmented."""
    rows, cols = np.mgrid[:40, :80]
    disks = [(rows - 20) ** 2 + (cols - centre) ** 2 < 100 for centre in (18, 62)]
    features = np.stack([disks[0] | disks[1], ~(disks[0] | disks[1])], axis=2).astype(np.float32)
    points = {"in_target": [(20, 18)], "out_of_target": [(2, 40)]}
    every = variational_segmentation(features, **points).u > 0.5
    near = variational_segmentation(features, **points, distance=distance, theta=2.0).u > 0.5
    assert dice(every, disks[0] | disks[1]) > 0.95
    assert dice(near, disks[0]) > 0.95


def test_operator_splitting_comes_near_the_optimum():
    z, _ = blobs((48, 64), seed=2)
    exact, split = (
        solve_cvm(z, lam=5.0, neighbourhood="isotropic", scheme=scheme) for scheme in ("primal_dual", "aos")
    )
    assert exact.energy[0] <= split.energy[0] <= 1.02 * exact.energy[0]
    assert 1e-4 < split.gap[0] < 0.05


# --- weights and starts ------------------------------------------------------------------------------------------


def test_relative_lambda_does_not_see_the_scale_of_the_map():
    z, _ = blobs((40, 52))
    whole, faint = solve_cvm(z, beta=0.0), solve_cvm(z / 1024, beta=0.0)
    assert faint.lam[0] == pytest.approx(1024**2 * whole.lam[0], rel=1e-5)
    np.testing.assert_allclose(faint.u, whole.u, atol=1e-4)


def test_relative_lambda_is_that_of_the_two_means():
    z = np.zeros((1, 20, 20), np.float32)
    z[0, 5:15, 5:15] = 0.5
    result = solve_cvm(z, lam_rel=3.0)
    assert result.lam[0] == pytest.approx(3.0 / 0.25)
    assert (result.c1[0], result.c2[0]) == pytest.approx((0.5, 0.0), abs=0.02)


def test_each_map_may_have_its_own_lambda_and_means():
    z = np.concatenate([blobs((30, 30), seed=s)[0] for s in (0, 1)])
    both = solve_cvm(z, lam=[2.0, 8.0], means=([0.6, 0.5], 0.1))
    second = solve_cvm(z[1:], lam=8.0, means=(0.5, 0.1))
    np.testing.assert_array_equal(both.u[1], second.u[0])
    assert both.lam.tolist() == [2.0, 8.0]
    assert (both.c1.tolist(), both.c2.tolist()) == (
        pytest.approx([0.6, 0.5], abs=1e-7),
        pytest.approx([0.1, 0.1], abs=1e-7),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_arrives_sooner_at_the_same_place(kind):
    z, _ = blobs((80, 80), noise=0.3)
    changed = np.clip(z + 0.01 * np.random.default_rng(0).normal(size=z.shape), 0, 1).astype(np.float32)
    settings = {"lam": 2.0, "neighbourhood": kind, "tol": 1e-5}
    cold = solve_cvm(changed, **settings)
    former = solve_cvm(z, keep_dual=True, **settings)
    warm = solve_cvm(changed, init=former, **settings)
    warm_u = solve_cvm(changed, init=former.u, **settings)
    assert warm.iterations[0] < cold.iterations[0]
    assert warm.energy[0] == pytest.approx(cold.energy[0], rel=1e-4)
    assert warm_u.energy[0] == pytest.approx(cold.energy[0], rel=1e-4)
    assert cold.dual is None


def test_a_solution_of_the_other_neighbourhood_lends_its_u():
    z, _ = blobs((30, 30))
    former = solve_cvm(z, neighbourhood="isotropic", keep_dual=True)
    assert solve_cvm(z, init=former).energy[0] == pytest.approx(solve_cvm(z).energy[0], rel=1e-3)


def test_an_empty_start_is_no_trap():
    z, _ = blobs((30, 30))
    np.testing.assert_allclose(solve_cvm(z, init=np.zeros_like(z), tol=1e-5).u, solve_cvm(z, tol=1e-5).u, atol=0.02)


@pytest.mark.parametrize("levels", [1, 3, 20])
def test_coarse_to_fine_ends_at_the_same_energy(levels):
    z, _ = blobs((75, 131), seed=2)
    valid = np.random.default_rng(0).random((75, 131)) < 0.95
    plain, fine = solve_cvm(z, lam=4.0, valid=valid), solve_cvm(z, lam=4.0, valid=valid, levels=levels)
    assert fine.energy[0] == pytest.approx(plain.energy[0], rel=1e-3)
    assert fine.iterations[0] < plain.iterations[0]
    fixed = {"lam": 4.0, "means": (0.5, 0.1), "tol": 1e-6}
    assert solve_cvm(z, levels=levels, **fixed).energy[0] == pytest.approx(solve_cvm(z, **fixed).energy[0], rel=1e-5)


# --- cells that do not count -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_valid_cells_do_not_see_the_others(kind, backend):
    """A map cut by a band of cells that do not count is two maps, whatever stands in the band, NaN included."""
    left, right = blobs((30, 20), seed=1)[0], blobs((30, 25), seed=2)[0]
    z = np.concatenate([left, np.full((1, 30, 4), np.nan, np.float32), right], axis=2)
    valid = np.isfinite(z[0])
    settings = {"lam": 3.0, "means": (0.5, 0.1), "tol": 1e-6, "neighbourhood": kind, "backend": backend}
    both = solve_cvm(z, valid=valid, **settings)
    np.testing.assert_allclose(both.u[0, :, :20], solve_cvm(left, **settings).u[0], atol=0.02)
    np.testing.assert_allclose(both.u[0, :, 24:], solve_cvm(right, **settings).u[0], atol=0.02)
    assert np.all(both.u[0, :, 20:24] == 0)
    parts = [solve_cvm(part, **settings).energy[0] for part in (left, right)]
    assert both.energy[0] == pytest.approx(sum(parts), rel=1e-5)


def test_cells_that_do_not_count_stay_out_of_the_means():
    z, _ = blobs((30, 30))
    padded = np.pad(z, ((0, 0), (0, 9), (0, 5)), constant_values=0.9)
    valid = np.zeros(padded.shape[1:], bool)
    valid[:30, :30] = True
    result = solve_cvm(padded, valid=valid)
    np.testing.assert_array_equal(result.u[0, :30, :30], solve_cvm(z).u[0])


# --- degenerate maps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_constant_map_is_empty_and_says_so(backend, value):
    result = solve_cvm(np.full((1, 5, 4), value, np.float32), backend=backend, keep_dual=True)
    assert result.status == ("constant",)
    assert np.all(result.u == 0)
    assert (result.energy[0], result.gap[0], result.iterations[0]) == (0, 0, 0)
    assert result.c1[0] == pytest.approx(value)
    assert np.isnan(result.lam[0])


@pytest.mark.parametrize("backend", [*BACKENDS, "torch"])
def test_a_constant_map_is_solved_where_means_or_a_force_say_more(backend):
    z = np.ones((1, 8, 8), np.float32)
    told = solve_cvm(z, means=(1, 0), lam=1.0, backend=backend)
    assert (told.status, told.energy[0], told.gap[0]) == (("full",), 0, 0)
    assert (told.u == 1).all()
    pulled = solve_cvm(z, extra=-z, backend=backend)
    assert (pulled.status, pulled.energy[0]) == (("full",), pytest.approx(-64, rel=1e-4))


def test_an_init_may_hold_anything_where_nothing_counts():
    z, _ = blobs((20, 30))
    valid = np.arange(30) < np.full((20, 1), 25)
    init = np.where(valid, np.float32(0.5), np.float32(np.nan))[None]
    assert solve_cvm(z, valid=valid, init=init).status == ("converged",)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (2, 2), (3, 50)])
def test_thin_maps_work(backend, kind, shape):
    z = np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(1, *shape)
    result = solve_cvm(z, lam=10.0, backend=backend, neighbourhood=kind, levels=2)
    if shape == (1, 1):
        assert result.status == ("constant",)
    else:
        assert result.status == ("converged",)
        assert result.u[0, -1, -1] > 0.9
        assert result.u[0, 0, 0] < 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_and_everything_are_flagged(backend):
    z, _ = blobs((20, 20))
    assert solve_cvm(z, lam=5.0, means=(9.0, 0.1), backend=backend).status == ("empty",)
    full = solve_cvm(z, lam=5.0, means=(0.1, 9.0), backend=backend)
    assert full.status == ("full",)
    assert full.u.min() > 0.999


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_speck_that_is_smoothed_away_leaves_an_empty_map(backend):
    z = np.zeros((1, 30, 30), np.float32)
    z[0, 15, 15] = 1
    result = solve_cvm(z, lam=0.1, backend=backend)
    assert result.status == ("empty",)
    assert result.u.max() < 1e-2
    assert result.gap[0] < 1e-4


@pytest.mark.parametrize("backend", [*BACKENDS, "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_phases_whose_means_meet_are_one(backend, kind):
    """Pure noise at a small lambda: one phase costs less than the two that are found, and soon is what is found."""
    z = np.random.default_rng(0).random((1, 40, 50)).astype(np.float32)
    result = solve_cvm(z, lam=1.0, backend=backend, neighbourhood=kind, keep_dual=True, max_iter=1000)
    assert result.status == ("empty",)
    assert result.iterations[0] < 1000
    assert not result.u.any()
    assert result.c1[0] == result.c2[0] == pytest.approx(z.mean(dtype=np.float64), abs=1e-6)
    assert result.energy[0] == pytest.approx(((z - z.mean(dtype=np.float64)) ** 2).sum(), rel=1e-6)
    assert certificate(z, result, kind)[1] == result.gap[0] == 0


@pytest.mark.parametrize("backend", [*BACKENDS, "torch"])
def test_where_the_means_meet_an_extra_force_decides(backend):
    z = np.random.default_rng(5).random((1, 40, 40)).astype(np.float32)
    result = solve_cvm(z, extra=np.full((40, 40), -0.2, np.float32), lam=0.05, backend=backend)
    assert result.status == ("full",)
    assert result.gap[0] <= 1e-4
    assert result.energy[0] == pytest.approx(0.05 * ((z - z.mean()) ** 2).sum() - 0.2 * z.size, rel=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_two_phases_that_cost_less_are_not_given_up(seed):
    """Noise and a small lambda, where the first drift of the means goes too far."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=(128, 128)), 4) > 0
    z = np.clip(0.3 + 0.3 * truth + 0.36 * rng.normal(size=truth.shape), 0, 1).astype(np.float32)[None]
    found, patient = solve_cvm(z, lam_rel=0.7), solve_cvm(z, lam_rel=0.7, sweep=50)
    assert found.energy[0] <= 1.005 * patient.energy[0]


def test_a_coarse_map_on_which_nothing_stands_out_is_no_start():
    """Specks that the coarse map smooths away."""
    z = np.zeros((1, 128, 128), np.float32)
    for row in (8, 9):
        z[0, row::16, 8::16] = z[0, row::16, 9::16] = 1
    fine, coarse = solve_cvm(z), solve_cvm(z, levels=2)
    assert coarse.energy[0] == pytest.approx(fine.energy[0], rel=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cap_is_flagged_and_kept(backend):
    z, _ = blobs((40, 40), noise=0.4)
    result = solve_cvm(z, lam=0.5, tol=1e-6, max_iter=7, backend=backend)
    assert result.status == ("capped",)
    assert result.iterations[0] == 7
    assert result.gap[0] > 1e-6


# --- what it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_that_are_not_finite_are_refused(bad, backend):
    z = blobs((10, 10))[0]
    z[0, 3, 4] = bad
    with pytest.raises(NumericsError, match="not finite"):
        solve_cvm(z, backend=backend)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (np.zeros((4, 5), np.float32), r"\(4, 5\).*z\[None\]"),
        (np.zeros((1, 0, 5), np.float32), r"\(1, 0, 5\)"),
        (np.zeros((0, 4, 5), np.float32), r"\(0, 4, 5\)"),
        (np.zeros((1, 4, 5), np.uint8), "uint8"),
        ([[[0.5]]], "got list"),
        (np.full((1, 4, 5), 1e13), "as large as 1e\\+13"),
    ],
)
def test_other_maps_are_refused_with_what_was_given(z, message):
    with pytest.raises(NumericsError, match=message):
        solve_cvm(z)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lam": 0.0}, "lam is positive, got 0"),
        ({"lam": [1.0, 2.0, 3.0]}, r"one for each of 2 maps, got an array of \(3,\)"),
        ({"lam": np.nan}, "lam is finite"),
        ({"lam": 1e39}, "lam is at most 1e\\+12"),
        ({"means": (1e200, 0)}, "c1 is at most 1e\\+12"),
        ({"lam_rel": 1e200}, "lam_rel is positive and at most"),
        ({"backend": "compiled", "device": "cuda:7"}, "does not run on device cuda:7"),
        ({"scheme": "aos", "neighbourhood": "isotropic", "device": "cuda"}, "scheme aos with backend auto"),
        ({"lam_rel": -1.0}, "lam_rel is positive and at most .*, got -1"),
        ({"beta": -1.0}, "beta is 0 or more, got -1"),
        ({"tol": 0.0}, r"tol lies in \(0, 1\), got 0"),
        ({"max_iter": 0}, "max_iter is at least 1, got 0"),
        ({"levels": -1}, "levels is 0 or more, got -1"),
        ({"threads": 0}, "threads is at least 1, got 0"),
        ({"neighbourhood": "hexagons"}, "no neighbourhood 'hexagons'"),
        ({"backend": "abacus"}, "no backend 'abacus'"),
        ({"scheme": "finite elements"}, "no scheme 'finite elements'"),
        ({"scheme": "aos"}, "scheme aos works on rows and columns"),
        ({"backend": "torch", "levels": 1}, "levels 0"),
        ({"backend": "torch", "device": "cuda:77"}, "torch has no device 'cuda:77'"),
        ({"sweep": 0}, "sweep is at least 1, got 0"),
        ({"extra": np.zeros((9, 10), np.float32)}, r"extra has the shape of z, \(2, 10, 10\).*got \(9, 10\)"),
        ({"extra": np.full((10, 10), np.nan)}, "extra holds values that are not finite"),
        ({"means": (0.5,)}, "a pair"),
        ({"means": (0.5, 0.5)}, "differ"),
        ({"means": (0.5, np.inf)}, "c2 is finite"),
        ({"init": np.zeros((2, 9, 10), np.float32)}, r"\(2, 10, 10\), got \(2, 9, 10\)"),
        ({"init": np.full((2, 10, 10), np.nan)}, "init holds values that are not finite"),
        ({"valid": np.ones((9, 10), bool)}, r"got bool \(9, 10\)"),
    ],
)
def test_impossible_settings_are_refused_with_what_was_given(settings, message):
    z = np.concatenate([blobs((10, 10), seed=s)[0] for s in (0, 1)])
    with pytest.raises(NumericsError, match=message):
        solve_cvm(z, **settings)


# --- from points -------------------------------------------------------------------------------------------------


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    truth = np.zeros((60, 80), bool)
    truth[15:45, 20:50] = True
    features = np.where(truth[..., None], [1.0, 0.0, 0.5, 0.2], [0.0, 1.0, 0.5, 0.2])
    return (features + 0.3 * rng.normal(size=features.shape)).astype(np.float32), truth


def test_segments_from_points(scene):
    features, truth = scene
    result = variational_segmentation(features, [[30, 30], [25, 40], [40, 25]], [[5, 5], [50, 70], [55, 20]])
    assert dice(result.u > 0.5, truth) > 0.95
    assert result.contrast.shape == result.cvm.u.shape == (3, 60, 80)
    np.testing.assert_allclose(result.u_mean, result.cvm.u.mean(axis=0), atol=1e-6)


def test_the_mean_is_stretched_and_kept(scene):
    features, _ = scene
    result = variational_segmentation(features, [[30, 30], [5, 60]], [[50, 70]])  # the second contradicts the first
    low, high = result.u_mean.min(), result.u_mean.max()
    assert result.u.min() == 0
    assert result.u.max() == 1
    np.testing.assert_allclose(result.u, (result.u_mean - low) / (high - low), atol=1e-6)


def test_segments_within_the_valid_cells(scene):
    features, truth = scene
    valid = np.ones(truth.shape, bool)
    valid[:, 60:] = False
    features[:, 60:] = 0
    result = variational_segmentation(features, [[30, 30]], [[5, 5]], valid=valid)
    assert np.all(result.u[~valid] == 0)
    assert dice(result.u > 0.5, truth) > 0.95


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_mean_is_not_stretched(value):

    mean = np.full((4, 5), value, np.float32)
    np.testing.assert_array_equal(stretched(mean, None), mean)


def test_importing_the_package_loads_neither_numba_nor_torch():
    code = "import sys, wsipipe.numerics.variational; print({'numba', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
