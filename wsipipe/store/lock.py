"""Locks by exclusive creation: two processes never write one file."""

from __future__ import annotations

import json
import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from wsipipe.errors import StoreError
from wsipipe.store.atomic import writing


class FileLock:
    """A file "<path>.lock" that says which process works on `path`.

    The file holds host, process id and the time that process started, so that a lock left by a killed process is
    recognised even where its id has been given to another one (as happens in containers).
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
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(self._owner))
        except FileExistsError:
            return False
        return True

    def _clear_dead(self) -> None:
        holder = self._read()
        if holder is None and not self.path.exists():
            return
        if holder is None or holder.get("host") != self._owner["host"] or _is_alive(holder):
            raise self._taken(_describe(holder))
        # Two processes may find the same dead lock: the rename is atomic, so each sees what it took away, and the
        # slower one puts back the other's fresh lock.
        taken = self.path.with_name(f".{uuid.uuid4().hex[:8]}.{self.path.name}")
        with suppress(FileNotFoundError):
            self.path.rename(taken)
            if _content(taken) != holder:
                with suppress(FileExistsError):
                    self.path.hardlink_to(taken)
            taken.unlink()

    def _read(self) -> dict[str, object] | None:
        return _content(self.path)

    def _taken(self, holder: str) -> StoreError:
        remedy = f"wait for it; if it no longer runs, delete {self.path}"
        return StoreError(f"is being written by {holder}", path=self.path.with_suffix(""), remedy=remedy)


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
    return {"host": socket.gethostname(), "pid": pid, "started": _start_of(pid)}


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
