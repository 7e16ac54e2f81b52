"""Read the next pieces while the present one is computed: bounded, and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Data = TypeVar("Data")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Data], *, threads: int = 1, depth: int = 2
) -> Generator[tuple[Item, Data], None, None]:
    """Yield every item with its data, reading ahead in threads.

    Parameters
    ----------
    items : iterable
        What to read; drawn only as far as the reading goes ahead.
    read : callable
        Reads one item; called in `threads` threads at once.
    threads : int
        Number of reading threads.
    depth : int
        Most items that are read or being read and not yet handed out; bounds the memory.

    Yields
    ------
    (item, data)
        In the order of `items`. An error of `read` is raised when its item's turn comes, and nothing more is read.
    """
    waiting: deque[tuple[Item, Future[Data]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) >= depth:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(waiting: deque[tuple[Item, Future[Data]]]) -> tuple[Item, Data]:
    item, future = waiting.popleft()
    return item, future.result()
