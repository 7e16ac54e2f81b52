"""Write what is finished while the next is computed: in one other thread, in order, and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class WriteBehind:
    """A thread of its own for writing; a context manager, which waits for all that was handed over.

    Parameters
    ----------
    depth : int
        Most writes that wait or run; `put` waits for room. Bounds the memory.
    """

    def __init__(self, depth: int = 2) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._waiting: deque[Future[None]] = deque()
        self._depth = depth

    def put(self, write: Callable[[], None]) -> None:
        """Hand over a write. The error of an earlier one is raised here, or at the end."""
        while len(self._waiting) >= self._depth or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(write))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()  # what is finished is written even where the work breaks off
        if error is None:
            for future in self._waiting:
                future.result()
