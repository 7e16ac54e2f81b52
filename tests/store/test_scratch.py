"""Planes in files: whole or not there, read by rows, gone at the end."""

from __future__ import annotations

import pickle
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from wsipipe.errors import StoreError
from wsipipe.numerics.solvers.scratch import MemoryScratch
from wsipipe.store.scratch import scratch_folder


@pytest.fixture(params=["files", "memory"])
def scratch(request, tmp_path):
    if request.param == "memory":
        yield MemoryScratch()
        return
    with scratch_folder(tmp_path, key="s") as opened:
        yield opened


def planes_of(count, shape=(7, 5), *, seed=0):
    return list(np.random.default_rng(seed).random((count, *shape)).astype(np.float32))


def test_rows_of_the_first_planes_come_back(scratch):
    planes = planes_of(3)
    scratch.put("a-1", planes)
    scratch.put("a-11", planes_of(3, seed=1))
    wide = np.full((2, 6, 7), np.nan, np.float32)
    scratch.fill("a-1", [plane[1:4, 1:-1] for plane in wide], slice(2, 5))
    np.testing.assert_array_equal(wide[:, 1:4, 1:-1], np.stack(planes[:2])[:, 2:5])
    assert np.isnan(wide).sum() == 2 * (42 - 15)


def test_what_is_kept_does_not_follow_what_was_given(scratch):
    (plane,) = planes_of(1)
    before = plane.copy()
    scratch.put("a", [plane[1:-1]])
    plane[...] = 0
    found = np.empty((5, 5), np.float32)
    scratch.fill("a", [found], slice(0, 5))
    np.testing.assert_array_equal(found, before[1:-1])


def test_names_may_be_given_again_and_dropped_again(scratch):
    planes = planes_of(2)
    scratch.put("a", planes)
    scratch.put("a", planes)
    scratch.drop("a")
    scratch.drop("a")
    with pytest.raises((StoreError, KeyError)):
        scratch.fill("a", planes, slice(0, 7))


def test_other_processes_find_the_files(tmp_path):
    with scratch_folder(tmp_path, key="s") as scratch:
        scratch.put("a", planes_of(1))
        found = np.empty((7, 5), np.float32)
        pickle.loads(pickle.dumps(scratch)).fill("a", [found], slice(0, 7))
        np.testing.assert_array_equal(found, planes_of(1)[0])
        (file,) = scratch.path.iterdir()
        np.testing.assert_array_equal(np.load(file), planes_of(1))


def test_nothing_is_left_at_the_end_or_after_an_error(tmp_path):
    with scratch_folder(tmp_path / "new", key="s") as scratch:
        scratch.put("a", planes_of(1))
    with pytest.raises(RuntimeError, match="half-way"):
        _fail(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def _fail(folder):
    with scratch_folder(folder, key="s") as scratch:
        scratch.put("a", planes_of(1))
        raise RuntimeError("half-way")


def test_what_killed_runs_of_the_same_key_left_is_removed(tmp_path):
    for name in (".scratch-a-12345678", ".scratch-a-b-12345678", ".scratch-12345678", ".staged-a-12345678"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    with scratch_folder(tmp_path, key="a"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {
        ".scratch-a-b-12345678",
        ".scratch-12345678",
        ".staged-a-12345678",
    }


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"), scratch_folder(tmp_path / "file", key="s"):
        pass


def test_a_folder_that_vanished_is_told(tmp_path):
    with scratch_folder(tmp_path, key="s") as scratch:
        scratch.put("a", planes_of(1))
        shutil.rmtree(scratch.path)
        with pytest.raises(StoreError, match=r"cannot be read: No such file or directory \(workers have to share"):
            scratch.fill("a", planes_of(1), slice(0, 7))
        with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
            scratch.put("b", planes_of(1))


def test_a_file_that_is_cut_off_is_told(tmp_path):
    with scratch_folder(tmp_path, key="s") as scratch:
        scratch.put("a", planes_of(1))
        (file,) = scratch.path.iterdir()
        file.write_bytes(file.read_bytes()[:-4])
        with pytest.raises(StoreError, match="a file is cut off"):
            scratch.fill("a", planes_of(1), slice(0, 7))


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from wsipipe.errors import StoreError
from wsipipe.store.scratch import scratch_folder

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    with scratch_folder(Path(sys.argv[1]), key="s") as scratch:
        scratch.put("small", [np.zeros((4, 4), np.float32)])
        try:
            scratch.put("large", [np.zeros((64, 64), np.float32)])
        finally:
            print(*(path.name for path in scratch.path.iterdir()))
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits on file sizes here")
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    names, told = done.stdout.splitlines()
    assert names == "small.npy"
    assert told.startswith(str(tmp_path))
    assert "File too large (the file system or a limit takes no file that large" in told
    assert not list(tmp_path.iterdir())
