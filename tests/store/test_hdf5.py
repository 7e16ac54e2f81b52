from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsipipe.errors import StoreError
from wsipipe.store.atomic import atomic_path
from wsipipe.store.hdf5 import new_hdf5


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse files beyond a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(path: Path, cells: int) -> None:
    with new_hdf5(path) as file:
        file.attrs["type"] = "x"
        data = file.create_dataset("data", (cells,), "f4", chunks=(1000,))
        for start in range(0, cells, 1000):
            data[start : start + 1000] = np.arange(start, start + 1000)


def test_files_come_back(tmp_path: Path) -> None:
    fill(tmp_path / "x.h5", 50_000)
    with h5py.File(tmp_path / "x.h5") as file:
        assert file.attrs["type"] == "x"
        np.testing.assert_array_equal(file["data"][:], np.arange(50_000))


def test_a_refused_write_is_an_os_error_and_hdf5_stays_usable(tmp_path: Path) -> None:
    with largest_file(100_000), pytest.raises(OSError, match="File too large") as caught:
        fill(tmp_path / "x.h5", 1_000_000)
    assert caught.value.errno == errno.EFBIG
    fill(tmp_path / "y.h5", 5000)
    with h5py.File(tmp_path / "y.h5") as file:
        assert file["data"][4999] == 4999


def refused(target: Path) -> None:
    with largest_file(100_000), atomic_path(target) as temporary:
        fill(temporary, 1_000_000)


def test_inside_an_atomic_write_it_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"x\.h5: cannot be written: File too large .*choose another output folder"):
        refused(tmp_path / "x.h5")
    assert not any(tmp_path.iterdir())


def test_the_program_ends_in_order_after_a_refused_write(tmp_path: Path) -> None:
    script = (
        "import resource, sys, pathlib, numpy as np\n"
        "from wsipipe.store.hdf5 import new_hdf5\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, -1))\n"
        "try:\n"
        "    with new_hdf5(pathlib.Path(sys.argv[1])) as file:\n"
        "        for name in 'abc':\n"
        "            file[name] = np.ones(100_000)\n"
        "except OSError as error:\n"
        "    sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.h5")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (3, "")


def test_an_error_inside_passes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_hdf5(tmp_path / "x.h5") as file:
        file["missing"]
