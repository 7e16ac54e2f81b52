"""The solver on torch against the compiled one, the float64 reference, and itself in other company.

Tolerances: while two backends do the same iterations, u agrees within 1e-4 and the means within 1e-6 of the range of z
(float32 rounding). A gap or a drift close to the tolerance can cost one of them a sweep more; then both are certified,
their energies lie within tol sum |f| of one another, and their means within 1e-4 of the range.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from wsipipe.errors import NumericsError
from wsipipe.numerics import energy as referee
from wsipipe.numerics.edges import edge_weights
from wsipipe.numerics.solvers import compiled, reference, torch_batch
from wsipipe.numerics.solvers.problem import Limits, Problem, Start
from wsipipe.numerics.solvers.torch_batch import BatchSolver, solve_batch, solve_maps
from wsipipe.numerics.solvers.torch_planes import Layout
from wsipipe.numerics.solvers.two_means import two_means

KINDS = ["crofton", "isotropic"]
LIMITS = Limits(1e-4, 1000, keep_dual=True)


def made_map(shape, seed, noise=0.25):
    """Two kinds of region under noise, in [0, 1]."""
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=shape), 4) > 0
    z = np.clip(0.2 + 0.5 * truth + noise * rng.normal(size=shape), 0, 1) ** 2
    return ((z - z.min()) / (z.max() - z.min())).astype(np.float32)


def case(shape, seed, kind, *, lam=None, masked=False, forced=False, z=None):
    """A problem and its two-means start."""
    rng = np.random.default_rng(seed + 100)
    valid = rng.random(shape) > 0.2 if masked else None
    z = made_map(shape, seed) if z is None else z
    z = z if valid is None else np.where(valid, z, np.float32(0))
    cells = z.ravel() if valid is None else z[valid]
    low, high = float(cells.min()), float(cells.max())
    parts = two_means(partial(compiled.split, cells, largest=max(high, -low)), low=low, high=high)
    extra = (rng.random(shape, np.float32) * (1 if valid is None else valid)).astype(np.float32) if forced else None
    lam = 1 / (parts[0] - parts[1]) ** 2 if lam is None else lam
    u = ((z > sum(parts) / 2) & (True if valid is None else valid)).astype(np.float32)
    g = compiled.edge_weights(z, beta=10.0, valid=valid)
    return Problem(z, g, lam, kind, valid, extra), Start(u, *parts)


def mixed(kind, shape=(41, 26)):
    """Maps that settle at different times, some with a mask and a force, some without."""
    cases = [
        case(shape, 0, kind),
        case(shape, 1, kind, lam=1.0, masked=True),
        case(shape, 2, kind, lam=20.0, forced=True),
        case(shape, 3, kind, masked=True, forced=True),
    ]
    return [problem for problem, _ in cases], [start for _, start in cases]


def sum_force(problem, found):
    force = referee.force(
        problem.z, c1=found.c1, c2=found.c2, lam=problem.lam, valid=problem.valid, extra=problem.extra
    )
    return np.abs(force).sum()


def assert_agree(problem, found, expected, limits=LIMITS):
    assert found.status == expected.status
    reach = float(np.ptp(problem.z))
    if found.iterations == expected.iterations:
        np.testing.assert_allclose(found.u, expected.u, atol=1e-4)
        np.testing.assert_allclose([found.c1, found.c2], [expected.c1, expected.c2], atol=1e-6 * reach)
    else:
        np.testing.assert_allclose([found.c1, found.c2], [expected.c1, expected.c2], atol=1e-4 * reach)
    if found.status != "capped":
        assert max(found.gap, expected.gap) <= limits.tol
    assert found.energy == pytest.approx(expected.energy, abs=limits.tol * sum_force(problem, found))


def assert_same(one, other):
    """All of two solutions, to the last bit."""
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", [compiled, reference])
def test_agrees_with_the_other_backends(kind, engine):
    problems, starts = mixed(kind)
    found = solve_batch(problems, starts, LIMITS, device="cpu")
    for problem, start, solution in zip(problems, starts, found, strict=True):
        assert_agree(problem, solution, engine.solve(problem, start, LIMITS))
    assert len({solution.iterations for solution in found}) > 1


@pytest.mark.parametrize("kind", KINDS)
@given(
    rows=st.integers(1, 24),
    cols=st.integers(2, 24),
    seed=st.integers(0, 999),
    lam=st.floats(0.5, 30),
    masked=st.booleans(),
    forced=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_agrees_on_random_maps(kind, rows, cols, seed, lam, masked, forced):
    """On noise, where the joint problem has many minima, the path may fork: the means are fixed."""
    z = np.random.default_rng(seed).random((rows, cols), np.float32)
    problem, start = case((rows, cols), seed, kind, lam=lam, masked=masked and rows * cols > 9, forced=forced, z=z)
    limits = Limits(1e-4, 3000, fixed_means=True)
    assert_agree(
        problem,
        *solve_batch([problem], [start], limits, device="cpu"),
        compiled.solve(problem, start, limits),
        limits,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_certificate_and_energy_hold_in_float64(kind):
    problems, starts = mixed(kind)
    for problem, found in zip(problems, solve_batch(problems, starts, LIMITS, device="cpu"), strict=True):
        shared = {"neighbourhood": kind, "valid": problem.valid}
        force = referee.force(
            problem.z, c1=found.c1, c2=found.c2, lam=problem.lam, valid=problem.valid, extra=problem.extra
        )
        primal = referee.primal_value(found.u, problem.g, force, **shared)
        dual = referee.dual_value(referee.feasible(found.dual, problem.g, **shared), force, neighbourhood=kind)
        assert found.gap == pytest.approx(referee.relative_gap(primal, dual, force), abs=1e-6)
        value = referee.energy(
            problem.z, found.u, problem.g, c1=found.c1, c2=found.c2, lam=problem.lam, extra=problem.extra, **shared
        )
        assert found.energy == pytest.approx(value, rel=1e-9)
        inside, outside = referee.region_means(problem.z, found.u, problem.valid)
        np.testing.assert_allclose([found.c1, found.c2], [inside, outside], atol=LIMITS.tol)


@pytest.mark.parametrize("kind", KINDS)
def test_result_does_not_depend_on_companions(kind):
    problems, starts = mixed(kind)
    alone = solve_batch(problems, starts, LIMITS, device="cpu", together=1)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 2, 3, 3]):
        batch = solve_batch([problems[i] for i in order], [starts[i] for i in order], LIMITS, device="cpu", together=4)
        for index, solution in zip(order, batch, strict=True):
            assert_same(solution, alone[index])


def test_ten_maps():
    cases = [case((19, 30), seed, "crofton") for seed in range(10)]
    found = solve_batch(*zip(*cases, strict=True), LIMITS, device="cpu")
    for (problem, start), solution in zip(cases, found, strict=True):
        assert_agree(problem, solution, compiled.solve(problem, start, LIMITS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (2, 2)])
def test_maps_one_cell_wide(kind, shape):
    problem, start = case(shape, 5, kind)
    assert_agree(
        problem, *solve_batch([problem], [start], LIMITS, device="cpu"), reference.solve(problem, start, LIMITS)
    )


@pytest.mark.parametrize("iterations", [1, 7, 8])
def test_capped(iterations):
    problem, start = case((30, 22), 1, "crofton", lam=1.0)
    limits = Limits(1e-6, iterations, keep_dual=True)
    (found,) = solve_batch([problem], [start], limits, device="cpu")
    assert (found.status, found.iterations) == ("capped", iterations)
    expected = compiled.solve(problem, start, limits)
    assert_agree(problem, found, expected, limits)
    assert found.gap == pytest.approx(expected.gap, abs=1e-6)
    np.testing.assert_allclose(found.dual, expected.dual, atol=1e-5)


@pytest.mark.parametrize(("sign", "status"), [(1, "empty"), (-1, "full")])
def test_one_phase_vanishes(sign, status):
    problem, start = case((16, 21), 0, "crofton", masked=True)
    force = np.where(problem.valid, np.float32(40 * sign), np.float32(0))
    (found,) = solve_batch([dataclasses.replace(problem, extra=force)], [start], LIMITS, device="cpu")
    assert found.status == status
    np.testing.assert_allclose(found.u, 0 if status == "empty" else problem.valid, atol=0.01)
    assert not found.u[~problem.valid].any()


def test_warm_start_goes_on_from_the_dual_variable():
    problems, starts = mixed("crofton")
    first = solve_batch(problems, starts, LIMITS, device="cpu")
    warm = [Start(s.u, s.c1, s.c2, dual=s.dual) for s in first]
    again = solve_batch(problems, warm, LIMITS, device="cpu")
    assert sum(s.iterations for s in again) < 0.2 * sum(s.iterations for s in first)
    for problem, start, solution in zip(problems, warm, again, strict=True):
        assert_agree(problem, solution, compiled.solve(problem, start, LIMITS))
    mixed_starts = [warm[0], dataclasses.replace(warm[1], dual=None)]  # one dual variable is known, one is not
    assert_same(solve_batch(problems[:2], mixed_starts, LIMITS, device="cpu", together=2)[0], again[0])


def test_fixed_means_stay():
    problem, start = case((20, 33), 4, "isotropic")
    limits = Limits(1e-4, 1000, fixed_means=True)
    (found,) = solve_batch([problem], [start], limits, device="cpu")
    assert (found.c1, found.c2) == (np.float32(start.c1), np.float32(start.c2))
    assert found.dual is None
    assert_agree(problem, found, compiled.solve(problem, start, limits), limits)


@pytest.mark.parametrize("masked", [False, True])
def test_edge_weights_and_split_of_a_batch(masked):
    cases = [case((9, 14), seed, "crofton", masked=masked)[0] for seed in range(3)]
    z = torch.from_numpy(np.stack([problem.z for problem in cases]))
    valid = torch.from_numpy(np.stack([problem.valid for problem in cases])) if masked else None
    g = torch_batch.edge_weights(z, beta=7.0, valid=valid)
    thresholds = torch.tensor([0.2, 0.5, 2.0])
    parts = torch_batch.split(z, thresholds, valid)
    for index, problem in enumerate(cases):
        np.testing.assert_allclose(g[index], edge_weights(problem.z, beta=7.0, valid=problem.valid), rtol=1e-6)
        expected = reference.split(problem.cells(), float(thresholds[index]), largest=1.0)
        for name in ("count_above", "sum_above", "count", "total"):
            assert getattr(parts, name)[index].item() == pytest.approx(getattr(expected, name), rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_solve_on_the_device(kind):
    cases = [case((23, 31), seed, kind, masked=True) for seed in range(3)]
    constant = np.full((23, 31), 0.25, np.float32)
    z = torch.from_numpy(np.stack([constant, *(problem.z for problem, _ in cases)]))
    valid = torch.from_numpy(np.stack([np.ones_like(constant, bool), *(problem.valid for problem, _ in cases)]))
    found = solve_maps(z, LIMITS, valid=valid, neighbourhood=kind)
    nothing, *solutions = found.solutions()
    assert (nothing.status, nothing.iterations) == ("constant", 0)
    assert (nothing.c1, nothing.c2, nothing.energy, nothing.gap) == (0.25, 0.25, 0, 0)
    assert not nothing.u.any()
    assert np.isnan(found.lam[0].item())
    for (problem, start), lam, solution in zip(cases, found.lam[1:].tolist(), solutions, strict=True):
        assert lam == pytest.approx(problem.lam, rel=1e-6)
        assert_agree(problem, solution, compiled.solve(problem, start, LIMITS))


def test_whole_solve_with_all_that_may_be_given():
    problem, start = case((23, 31), 2, "crofton", masked=True, forced=True)
    z, valid, extra, u = (
        torch.from_numpy(np.ascontiguousarray(plane)) for plane in (problem.z, problem.valid, problem.extra, start.u)
    )
    limits = Limits(1e-4, 1000, fixed_means=True, keep_dual=True)
    given_too = {"lam": torch.tensor([problem.lam]), "means": (torch.tensor([start.c1]), torch.tensor([start.c2]))}
    options = {"valid": valid, "extra": extra[None]} | given_too
    cold = solve_maps(z[None], limits, init=(u[None], None), **options)
    assert_agree(problem, *cold.solutions(), compiled.solve(problem, start, limits), limits)
    warm = solve_maps(z[None], limits, init=(cold.u, cold.dual), **options)
    assert warm.iterations.item() <= limits.sweep
    free = solve_maps(z[None], LIMITS, init=(cold.u, cold.dual), lam=given_too["lam"], valid=valid, extra=extra[None])
    assert free.solutions()[0].status == "converged"


def test_solver_can_be_used_again():
    """As a graph is, which needs that sweeps change nothing once no map is active."""
    z = torch.from_numpy(np.stack([made_map((18, 25), seed) for seed in range(2)]))
    solver = BatchSolver(Layout.of(z, "crofton", masked=False, forced=False), LIMITS)
    first = solve_maps(z, LIMITS, solver=solver)
    frozen = [solver.means, solver.drift, solver.gap, solver.done, solver.ask, solver.mass, solver.settled]
    before = [tensor.clone() for tensor in [*frozen, solver.planes.segmentation(solver.done)]]
    solver.sweep(LIMITS.sweep)
    after = [*frozen, solver.planes.segmentation(solver.done)]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))

    def two_sweeps():  # what the graph does
        for _ in range(2):
            solver.sweep(LIMITS.sweep)

    solver.replay = two_sweeps
    again = solve_maps(z, LIMITS, solver=solver)
    for one, other in zip(first.solutions(), again.solutions(), strict=True):
        assert_same(one, other)


def test_refuses_what_does_not_go_together():
    one, start = case((8, 9), 0, "crofton")
    other, _ = case((9, 8), 0, "crofton")
    with pytest.raises(NumericsError, match="one shape and neighbourhood"):
        solve_batch([one, other], [start, start], LIMITS, device="cpu")
    with pytest.raises(NumericsError, match="one start for each map, got 1 for 2"):
        solve_batch([one, one], [start], LIMITS, device="cpu")
    z = torch.from_numpy(one.z)[None]
    solver = BatchSolver(Layout.of(z, "crofton", masked=False, forced=False), LIMITS)
    with pytest.raises(NumericsError, match="this solver takes maps of"):
        solve_maps(z, LIMITS, valid=z > 0, solver=solver)
    assert solve_batch([], [], LIMITS, device="cpu") == []


# --- Triton ------------------------------------------------------------------------------------------------------

INTERPRETED = """
import torch
from wsipipe.numerics.solvers.problem import Limits
from wsipipe.numerics.solvers.torch_batch import BatchSolver, solve_maps
from wsipipe.numerics.solvers.torch_planes import OUTSIDE, EagerPlanes, Layout, Maps, Scales
from wsipipe.numerics.solvers.triton_kernels import TritonPlanes

def close(one, other, what, tol=1e-6):
    worst = (one - other).abs().max().item()
    assert worst <= tol, (what, worst)

def compare(kind, masked, forced):
    torch.manual_seed(0)
    z, u = torch.rand(2, 5, 11), torch.rand(2, 5, 11)
    layout = Layout.of(z, kind, masked=masked, forced=forced)
    g = torch.where(torch.rand_like(z) > 0.2, 0.1 + 0.9 * torch.rand_like(z), OUTSIDE if masked else 1.0)
    z = torch.where(g > 0, z, 0.0)
    extra = torch.where(g > 0, torch.rand_like(z), 0.0) if forced else None
    maps = Maps(z, g, extra, Scales(*(torch.full((2,), 2.0**40) for _ in range(3))))
    both = EagerPlanes(layout, maps), TritonPlanes(layout, maps, tile=(4, 8))
    active, slope, offset = torch.tensor([False, True]), torch.tensor([-2.0, -3.0]), torch.tensor([0.9, 1.1])
    dual = 0.1 * torch.rand(layout.pairs)
    sums = []
    for planes in both:
        planes.load(u, dual)
        planes.advance(slope, offset, active, 2)
        sums.append([total[1] / 2.0**40 for total in (*planes.region(), *planes.values(active))])
    for one, other in zip(*sums):
        close(one, other, "sum", 1e-4)
    done = torch.tensor([0, 2])
    (u1, u2), (p1, p2) = [p.segmentation(done) for p in both], [p.dual(done) for p in both]
    close(u1, u2, "u")
    close(p1, p2, "dual")
    assert (u1[1] != u[1]).any() and torch.equal(u2[0], u[0] * (g[0] > 0))

compare("crofton", True, True)
compare("isotropic", True, False)
z = torch.rand(1, 5, 12)
z[:, :, 6:] += 1
limits = Limits(1e-3, 5)
layout = Layout.of(z, "crofton", masked=False, forced=False)
solvers = [BatchSolver(layout, limits, kernel=kernel) for kernel in ("eager", "triton")]
one, other = (solve_maps(z, limits, solver=solver) for solver in solvers)
close(one.u, other.u, "u of a solve", 1e-5)
assert one.iterations.item() == other.iterations.item() and one.status.item() == other.status.item()
close(one.gap, other.gap, "gap")
print("agree")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from wsipipe.numerics.solvers import triton_kernels as kernels

POINTERS = {"active": "*i32", "needed": "*i32", "out": "*i64"}
TILE = {"TILE_ROWS": kernels.ROWS, "TILE_COLS": kernels.COLS}

def compile(kernel, **constants):
    constants |= TILE
    kinds = {name: "i32" if name in ("rows", "cols") else POINTERS.get(name, "*fp32") for name in kernel.arg_names}
    source = ASTSource(kernel, kinds | dict.fromkeys(constants, "constexpr"), constants)
    done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": kernels.WARPS})
    assert "ptx" in done.asm

for planes, forced in ((4, True), (2, False)):
    compile(kernels.iterate, planes=planes, tau=1.0, sigma=0.25, rho=1.6, FORCED=forced)
compile(kernels.sum_values, planes=4, FORCED=False, rows=1)
compile(kernels.sum_values, planes=2, FORCED=True)
compile(kernels.sum_region)
print("compiled")
"""


def run_python(script, **environment):
    """Run in a process of its own: Triton decides at its import whether it interprets."""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_triton_agrees_with_plain_torch_in_its_interpreter():
    pytest.importorskip("triton")
    assert run_python(INTERPRETED, TRITON_INTERPRET="1") == "agree"


def test_triton_compiles_without_a_device(tmp_path):
    pytest.importorskip("triton")
    assert run_python(COMPILED, TRITON_CACHE_DIR=str(tmp_path)) == "compiled"


def test_plain_torch_serves_where_triton_cannot(monkeypatch):
    """Triton needs a C compiler at run time, which slim images lack."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert not torch_batch._can_build()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    layout = Layout(1, 4, 5, "crofton", masked=False, forced=False, device=torch.device("cpu"))
    with pytest.raises(NumericsError, match="Triton is not installed"):
        BatchSolver(layout, LIMITS, kernel="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", ["eager", "triton"])
def test_on_cuda(kind, kernel):
    problems, starts = mixed(kind, shape=(150, 70))
    found = solve_batch(problems, starts, LIMITS, device="cuda", kernel=kernel)
    alone = solve_batch(problems[1:2], starts[1:2], LIMITS, device="cuda", kernel=kernel)
    assert_same(found[1], alone[0])
    for problem, start, solution in zip(problems, starts, found, strict=True):
        assert_agree(problem, solution, compiled.solve(problem, start, LIMITS))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kernel", ["eager", "triton"])
def test_sweeps_do_not_wait_for_the_host_on_cuda(kernel):
    z = torch.from_numpy(made_map((40, 70), 0))[None].cuda()
    solver = BatchSolver(Layout.of(z, "crofton", masked=False, forced=False), LIMITS, kernel=kernel)
    solve_maps(z, LIMITS, solver=solver)
    solver.active.fill_(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        solver.sweep(LIMITS.sweep)
    finally:
        torch.cuda.set_sync_debug_mode("default")
