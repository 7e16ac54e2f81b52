"""Maps in one piece, in bands, in workers that die: one result; nothing left on disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from distributed import LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from wsipipe.errors import NumericsError, StoreError
from wsipipe.numerics.solvers.tasks import SolverSettings
from wsipipe.numerics.variational import solve_cvm
from wsipipe.pipeline import large_maps
from wsipipe.pipeline.large_maps import CELL_BYTES, Room, solve_map
from wsipipe.progress import Progress

SHAPE = 300, 120
TOL = SolverSettings(tol=1e-3)
SMALL = 50 * SHAPE[1] * CELL_BYTES  # memory for 50 rows


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(0)
    level = gaussian_filter(rng.normal(size=SHAPE), 6)
    z = np.clip(0.4 + 2 * level + 0.2 * rng.normal(size=SHAPE), 0, 1).astype(np.float32)
    valid = np.ones(SHAPE, bool)
    valid[:, :15] = valid[130:160] = False
    z[~valid] = 0
    return z, valid


@pytest.fixture(scope="module")
def expected(noisy):
    z, valid = noisy
    return solve_cvm(z[None], valid=valid, tol=TOL.tol)


def assert_same(found, expected):
    solution, lam = found
    np.testing.assert_array_equal(solution.u.view(np.uint32), expected.u[0].view(np.uint32))
    for name in ("c1", "c2", "energy", "gap", "iterations", "status"):
        assert getattr(solution, name) == getattr(expected, name)[0]
    assert lam == expected.lam[0]


@given(
    rows=st.integers(1, 5000),
    cols=st.integers(1, 2000),
    rows_in_memory=st.integers(100, 10_000),
    threads=st.integers(1, 64),
    sweep=st.integers(1, 16),
)
def test_bands_at_work_fit_in_memory(rows, cols, rows_in_memory, threads, sweep):
    room = Room(None, "s", memory=rows_in_memory * cols * CELL_BYTES, threads=threads)
    bands, at_once = room.cut((rows, cols), sweep=sweep)
    assert (bands == 1) == (rows <= rows_in_memory)
    assert at_once <= threads
    if bands > 1:
        assert at_once * (-(-rows // bands) + 2 * sweep) * cols * CELL_BYTES <= room.memory


def test_memory_has_no_part_in_the_result(noisy, expected, tmp_path):
    z, valid = noisy
    for memory, threads in ((1 << 30, 1), (1 << 30, 2), (SMALL, 1), (2 * SMALL, 2)):
        told = []
        room = Room(tmp_path, "s", memory=memory, threads=threads, report=told.append)
        assert_same(solve_map(z, valid=valid, room=room, settings=TOL), expected)
        assert bool(told) == (memory < 1 << 30)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_memory_is_taken_than_is_given(tmp_path, threads, extra):
    rng = np.random.default_rng(0)
    z = rng.random((1600, 500)).astype(np.float32)
    valid = rng.random(z.shape) > 0.1
    room = Room(tmp_path, "s", memory=400 * z.shape[1] * CELL_BYTES, threads=threads)
    small, rows = Room(tmp_path, "small", memory=60 * z.shape[1] * CELL_BYTES), slice(0, 200)
    # Compiling takes memory of its own.
    solve_map(z[rows], valid=valid[rows], room=small, settings=TOL, extra=0.2 * z[rows] if extra else None)
    peaks = []
    # Twice, and the lesser counts: Python's own table of interned strings may grow by 15 MB in one of them.
    for _ in range(2):
        tracemalloc.start()
        try:
            solution, _ = solve_map(z, valid=valid, room=room, settings=TOL, extra=0.2 * z if extra else None)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    peak = min(peaks)
    assert solution.iterations > 4
    given = solution.u.nbytes + z.nbytes * extra
    assert peak - given < room.memory < z.size * CELL_BYTES / 3


def test_large_maps_move_their_means_less_often_in_bands_or_not(noisy, tmp_path, monkeypatch):
    monkeypatch.setattr(large_maps, "LARGE", 1000)
    z, valid = noisy
    expected = solve_cvm(z[None], valid=valid, tol=TOL.tol, sweep=8)
    for memory in (1 << 30, SMALL):
        room = Room(tmp_path, "s", memory=memory)
        assert_same(solve_map(z, valid=valid, room=room, settings=TOL), expected)


def test_what_is_known_is_handed_on(noisy, tmp_path):
    z, valid = noisy
    extra = np.where(valid, np.linspace(0, 0.3, SHAPE[1], dtype=np.float32), np.float32(0))
    known = {"lam": 3.0, "means": (0.7, 0.2), "extra": extra}
    how = {"tol": 1e-4, "neighbourhood": "isotropic", "beta": 4.0}
    expected = solve_cvm(z[None], valid=valid, **known, **how)
    for memory in (1 << 30, SMALL):
        room = Room(tmp_path, "s", memory=memory)
        assert_same(solve_map(z, valid=valid, room=room, settings=SolverSettings(**how), **known), expected)


def test_progress_tells_iterations_and_the_gap(noisy, tmp_path):
    z, valid = noisy
    told = []
    solution, _ = solve_map(
        z, valid=valid, room=Room(tmp_path, "slide", memory=SMALL, report=told.append), settings=TOL
    )
    assert told[0] == Progress("slide", "solve", 4, 1000)
    assert told[-1] == Progress("slide", f"solve, gap {solution.gap:.0e}", solution.iterations, 1000)


def test_operator_splitting_takes_the_map_whole(noisy, tmp_path):
    z, valid = noisy
    how = SolverSettings(scheme="aos", neighbourhood="isotropic", tol=1e-2)
    told = []
    room = Room(tmp_path, "s", memory=SMALL, report=told.append)
    solution, _ = solve_map(z, valid=valid, room=room, settings=how)
    assert solution.status == "converged"
    assert not told


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_local_processes_give_the_same(noisy, expected, tmp_path):
    z, valid = noisy
    room = Room(tmp_path, "s", memory=SMALL, workers=2)
    assert_same(solve_map(z, valid=valid, room=room, settings=TOL), expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_though_workers_are_killed(noisy, expected, tmp_path):
    z, valid = noisy
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        before = pids_of(cluster)
        killer = Killer(cluster, tmp_path, seen=("state-2-", "state-4-"))
        killer.start()
        room = Room(tmp_path, "s", memory=SMALL, scheduler=cluster.scheduler_address)
        found = solve_map(z, valid=valid, room=room, settings=TOL)
        killer.join(10)
        assert killer.killed == 2
        assert pids_of(cluster) != before
    assert_same(found, expected)
    assert not list(tmp_path.iterdir())


def pids_of(cluster):
    return {name: nanny.pid for name, nanny in cluster.workers.items()}


class Killer(threading.Thread):
    """Kills one worker after the other when the first band of a round is done, and others are at work."""

    def __init__(self, cluster, folder, seen):
        super().__init__(daemon=True)
        self.cluster, self.folder, self.seen, self.killed = cluster, folder, seen, 0

    def run(self):
        for start in self.seen:
            if not wait_for(lambda start=start: list(self.folder.glob(f".scratch-s-*/{start}*"))):
                return
            os.kill(self.cluster.workers[self.killed].pid, signal.SIGKILL)
            self.killed += 1


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.001)
    return False


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_a_killed_solve_left_is_swept(noisy, tmp_path):
    z, valid = noisy
    for name in (".scratch-s-12345678", ".scratch-other-12345678"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state-3-0.npy").write_text("half")
    solve_map(z, valid=valid, room=Room(tmp_path, "s", memory=SMALL), settings=TOL)
    assert [path.name for path in tmp_path.iterdir()] == [".scratch-other-12345678"]


def test_values_that_cannot_be_used_leave_nothing(noisy, tmp_path):
    z, valid = noisy
    bad = z.copy()
    bad[250, 50] = np.nan
    with pytest.raises(NumericsError, match="not finite"):
        solve_map(bad, valid=valid, room=Room(tmp_path, "s", memory=SMALL), settings=TOL)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_files_is_told(noisy, tmp_path):
    z, valid = noisy
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: cannot be written"):
        solve_map(z, valid=valid, room=Room(tmp_path / "file", "s", memory=SMALL), settings=TOL)


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from wsipipe.errors import StoreError
from wsipipe.numerics.solvers.tasks import SolverSettings
from wsipipe.pipeline.large_maps import Room, solve_map

z = np.random.default_rng(0).random((300, 120)).astype(np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    room = Room(Path(sys.argv[1]), "s", memory=400_000, threads=2)
    solve_map(z, valid=np.ones(z.shape, bool), room=room, settings=SolverSettings())
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits on file sizes here")
@pytest.mark.parametrize("largest", [10_000, 30_000], ids=["map", "state"])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path, largest):
    command = [sys.executable, "-c", FULL, tmp_path, str(largest)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (told,) = done.stdout.splitlines()
    assert told.startswith(f"{tmp_path}/.scratch-s-")
    assert "cannot be written: File too large (the file system or a limit takes no file that large" in told
    assert not list(tmp_path.iterdir())
