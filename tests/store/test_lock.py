from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="namespaces need /proc")
def test_a_holder_in_another_namespace_of_process_ids_may_live(tmp_path: Path) -> None:
    """Containers on the host's network share its name, but not its process ids."""
    holder = {"host": socket.gethostname(), "pid": dead_pid(), "started": "x", "pid_ns": "pid:[1]"}
    (tmp_path / "m.h5.lock").write_text(json.dumps(holder))
    with pytest.raises(StoreError, match="is being written by"):
        FileLock(tmp_path / "m.h5").acquire()
    (tmp_path / "m.h5.lock").write_text(json.dumps(holder | {"pid_ns": str(Path("/proc/self/ns/pid").readlink())}))
    FileLock(tmp_path / "m.h5").acquire()


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


@pytest.mark.parametrize("content", ["", '{"host": "elsewh', "[]"])
def test_a_lock_that_names_nobody_is_taken_over_once_it_is_old(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.h5.lock"
    path.write_text(content)
    os.utime(path, (time.time() - 300, time.time() - 300))
    lock = FileLock(tmp_path / "m.h5")
    lock.acquire()
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.release()
    assert not any(tmp_path.iterdir())


def test_an_old_lock_that_cannot_be_read_is_respected(tmp_path: Path) -> None:
    (tmp_path / "m.h5.lock").mkdir()
    os.utime(tmp_path / "m.h5.lock", (time.time() - 300, time.time() - 300))
    with pytest.raises(StoreError, match="is being written by another process"):
        FileLock(tmp_path / "m.h5").acquire()


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file take a single byte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_links(_source: object, _path: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_full_disk_leaves_no_lock(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(StoreError, match="cannot be written"):
        FileLock(tmp_path / "m.h5").acquire()
    assert not any(tmp_path.iterdir())


def test_a_lock_is_whole_when_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(source: Path, path: Path) -> None:
        assert json.loads(source.read_text())["pid"] == os.getpid()
        assert (path, path.exists()) == (tmp_path / "m.h5.lock", False)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", killed)
    with pytest.raises(KeyboardInterrupt):
        FileLock(tmp_path / "m.h5").acquire()
    assert not any(tmp_path.iterdir())


def test_only_one_holds_a_lock_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    test_only_one_holds_a_lock(tmp_path)


def test_a_disk_that_fills_up_leaves_no_lock_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_source: object, _path: object) -> None:
        full.enter_context(full_disk())
        no_links(_source, _path)

    monkeypatch.setattr(os, "link", fill)
    with ExitStack() as full, pytest.raises(StoreError, match="cannot be written"):
        FileLock(tmp_path / "m.h5").acquire()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("links", [True, False])
def test_a_fresh_lock_caught_in_place_of_a_dead_one_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path, rename = tmp_path / "m.h5.lock", Path.rename
    fresh = json.dumps({"host": "elsewhere", "pid": 1})

    def late(self: Path, target: Path) -> Path:
        self.write_text(fresh)
        return rename(self, target)

    path.write_text(json.dumps({"host": socket.gethostname(), "pid": dead_pid(), "started": "x"}))
    monkeypatch.setattr(Path, "rename", late)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreError, match="process 1 on elsewhere"):
        FileLock(tmp_path / "m.h5").acquire()
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("m.h5.lock", fresh)]
