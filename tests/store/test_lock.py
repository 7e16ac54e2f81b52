from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wsipipe.errors import StoreError
from wsipipe.store.lock import FileLock


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_only_one_holds_a_lock(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "m.h5"), FileLock(tmp_path / "m.h5")
    first.acquire()
    told = json.loads((tmp_path / "m.h5.lock").read_text())
    assert (told["pid"], told["host"]) == (os.getpid(), socket.gethostname())
    with pytest.raises(
        StoreError, match=rf"m\.h5: is being written by process {os.getpid()} on .*delete .*m\.h5\.lock"
    ):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    assert not any(tmp_path.iterdir())


def test_a_lock_of_a_gone_process_is_taken_over(tmp_path: Path) -> None:
    holder = {"host": socket.gethostname(), "pid": dead_pid(), "started": "x"}
    (tmp_path / "m.h5.lock").write_text(json.dumps(holder))
    lock = FileLock(tmp_path / "m.h5")
    lock.acquire()
    assert json.loads((tmp_path / "m.h5.lock").read_text())["pid"] == os.getpid()
    lock.release()
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times need /proc")
def test_a_process_id_given_to_another_process_does_not_keep_a_lock(tmp_path: Path) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": "an earlier boot:1"}
    (tmp_path / "m.h5.lock").write_text(json.dumps(holder))
    FileLock(tmp_path / "m.h5").acquire()
    assert json.loads((tmp_path / "m.h5.lock").read_text())["started"] != holder["started"]


@pytest.mark.parametrize(
    "content", ["", "[]", json.dumps({"host": "elsewhere", "pid": 1}), json.dumps({"host": socket.gethostname()})]
)
def test_locks_that_may_live_are_respected(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.h5.lock").write_text(content)
    with pytest.raises(StoreError, match="is being written by"):
        FileLock(tmp_path / "m.h5").acquire()
    assert (tmp_path / "m.h5.lock").read_text() == content


def test_a_lock_that_is_no_longer_ours_is_left_alone(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "m.h5")
    lock.acquire()
    (tmp_path / "m.h5.lock").write_text('{"host": "elsewhere", "pid": 1}')
    lock.release()
    assert (tmp_path / "m.h5.lock").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(StoreError, match="choose another output folder"):
        FileLock(tmp_path / "out" / "features" / "m.h5").acquire()
