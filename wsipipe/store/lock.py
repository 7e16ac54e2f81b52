"""Locks by exclusive creation: two processes never write one file."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

from wsipipe.errors import StoreError
from wsipipe.store.atomic import writing

# A lock is whole from the start, or, where the file system has no hard links, a moment later: one that says nothing
# after this long was left by a writer that was killed in that moment.
_TORN_AFTER_S = 30.0


class FileLock:
    """A file "<path>.lock" that says which process works on `path`.

    The file holds host, process id, the namespace of process ids and the time that process started, so that a lock
    left by a killed process is recognised even where its id has been given to another one (as happens in containers).
    Of another host or namespace nobody can tell here whether a process lives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        self._owner = _myself()

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        StoreError
            Another process holds it, or the folder cannot be written.
        """
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(3):
                if self._create():
                    return
                self._clear_dead()
        raise self._taken("another process")

    def release(self) -> None:
        """Give the lock back; does nothing where it is no longer ours."""
        if self._read() == self._owner:
            self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Put the lock in place with its content: a full disk or a kill must not leave one that names nobody."""
        whole = self._aside()
        try:
            whole.write_text(json.dumps(self._owner), encoding="utf-8")
            return _place(whole, self.path)
        finally:
            with suppress(OSError):
                whole.unlink(missing_ok=True)

    def _aside(self) -> Path:
        return self.path.with_name(f".{uuid.uuid4().hex[:8]}.{self.path.name}")

    def _clear_dead(self) -> None:
        holder = self._read()
        if holder is None and not self.path.exists():
            return
        if not (_is_torn(self.path) if holder is None else self._is_dead(holder)):
            raise self._taken(_describe(holder))
        # Two processes may find the same dead lock: the rename is atomic, so each sees what it took away, and the
        # slower one puts back the other's fresh lock.
        taken = self._aside()
        with suppress(FileNotFoundError):
            self.path.rename(taken)
            if _content(taken) != holder:
                _place(taken, self.path)
            taken.unlink()

    def _is_dead(self, holder: dict[str, object]) -> bool:
        here, own = self._owner["host"], self._owner.get("pid_ns")
        # Locks of older versions tell no namespace, nor do systems without them.
        return holder.get("host") == here and holder.get("pid_ns", own) == own and not _is_alive(holder)

    def _read(self) -> dict[str, object] | None:
        return _content(self.path)

    def _taken(self, holder: str) -> StoreError:
        remedy = f"wait for it; if it no longer runs, delete {self.path}"
        return StoreError(f"is being written by {holder}", path=self.path.with_suffix(""), remedy=remedy)


def _place(source: Path, path: Path) -> bool:
    """Make `path` the same file as `source`, or a copy where there are no hard links; False where `path` exists."""
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except OSError:  # EPERM, ENOTSUP, ENOSYS ...: systems differ, and what ails the folder is told by the copy
        return _copy(source, path)
    return True


def _copy(source: Path, path: Path) -> bool:
    text = source.read_text(encoding="utf-8")
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    written = False
    try:
        with file:
            file.write(text)
        written = True
    finally:
        if not written:
            path.unlink(missing_ok=True)
    return True


def _is_torn(path: Path) -> bool:
    """Whether a lock says nothing and is too old to be in the making; one that may not be read may well be held."""
    try:
        path.read_bytes()
        return time.time() - path.stat().st_mtime > _TORN_AFTER_S
    except OSError:
        return False


def _content(path: Path) -> dict[str, object] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _describe(holder: dict[str, object] | None) -> str:
    return "another process" if holder is None else f"process {holder.get('pid')} on {holder.get('host')}"


def _myself() -> dict[str, object]:
    pid = os.getpid()
    owner: dict[str, object] = {"host": socket.gethostname(), "pid": pid, "started": _start_of(pid)}
    with suppress(OSError):  # no /proc
        owner["pid_ns"] = str(Path("/proc/self/ns/pid").readlink())
    return owner


def _is_alive(holder: dict[str, object]) -> bool:
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return holder.get("started") == _start_of(pid)


def _start_of(pid: int) -> str:
    """Boot and clock tick at which a process started (proc(5), field 22); empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot}:{fields[19]}"
