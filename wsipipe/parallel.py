"""One task per item, on this machine or on a dask cluster; the only module that imports dask.

Without workers and without a cluster the items run one after another in this process, so that small jobs start at
once. Otherwise `dask.distributed` runs them: a local cluster of processes (one item each, so that no native handle is
shared) or the cluster at the given address.

`map_items` runs one task for each item, such as a slide, and tells item by item how it went. `spread` is for a single
job that goes through many short rounds of tasks, all of which have to succeed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from wsipipe.errors import WsipipeError
from wsipipe.progress import Progress, Report, silent

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]

WORKER_INDEX = "WSIPIPE_WORKER_INDEX"
"""Environment variable in which a local worker finds its number, from 0."""

_TOPIC = "wsipipe-progress"
_CONNECT_S = 10
_SECOND_CHANCES = 1  # an item that killed two workers would kill more


class WorkerLostError(WsipipeError):
    """A worker process died (killed, out of memory) while it held an item."""


def map_items(
    task: Callable[[Item, Report], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    report: Report = silent,
) -> Iterator[tuple[int, Result | WsipipeError]]:
    """Run `task(item, report)` for every item.

    Parameters
    ----------
    task : callable
        Picklable when more than one worker or a cluster is used.
    items : sequence
        Picklable likewise.
    workers : int
        Processes on this machine; ignored with `scheduler`.
    scheduler : str, optional
        Address of a running dask scheduler ("tcp://host:port").
    report : Report
        Called in this process with the progress of every item, wherever it runs.

    Yields
    ------
    (int, result)
        Index of the item and what the task returned, in the order in which the items end; a `WorkerLostError` stands
        in for the result of an item whose worker died again and again.

    Raises
    ------
    WsipipeError
        The cluster cannot be reached.
    """
    if scheduler is None and min(workers, len(items)) <= 1:
        yield from ((index, task(item, report)) for index, item in enumerate(items))
        return
    with _client(min(workers, len(items)), scheduler) as client:
        client.subscribe_topic(_TOPIC, functools.partial(_receive, report))
        yield from _gather(client, task, items)


@contextmanager
def spread(*, threads: int = 1, workers: int = 1, scheduler: str | None = None) -> Iterator[Run]:
    """Give a `map` that runs rounds of tasks side by side; workers stay up, and connected, from round to round.

    Parameters
    ----------
    threads : int
        Threads of this process; ignored with `workers` or `scheduler`.
    workers : int
        Processes on this machine; ignored with `scheduler`.
    scheduler : str, optional
        Address of a running dask scheduler.

    Yields
    ------
    run : callable
        run(task, items) gives the results in the order of the items. With processes or a cluster, task and items are
        picklable, and a task whose worker dies is run again on another one: it has to bear being run twice. It raises
        what a task raises; `WorkerLostError` where worker after worker died of the same task, or the cluster is gone.

    Raises
    ------
    WsipipeError
        The cluster cannot be reached.
    """
    if scheduler is None and workers <= 1:
        if threads <= 1:
            yield map
            return
        with ThreadPoolExecutor(threads) as pool:
            yield pool.map
        return
    with _client(workers, scheduler) as client:
        yield functools.partial(_round, client)


def _round(client: Client, task: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    from distributed.scheduler import KilledWorker

    try:
        results: list[Result] = client.gather(client.map(task, items, pure=False))
    except KilledWorker as error:
        raise WorkerLostError(
            "worker after worker died of the same task", remedy="often out of memory: let each take less of it"
        ) from error
    except CancelledError as error:
        raise WorkerLostError("the dask scheduler is gone", remedy="start it again, then this command") from error
    return results


def _run(task: Callable[[Item, Report], Result], item: Item) -> Result:
    """Run on a worker, which learns its place among the others: with several GPUs, each takes its own."""
    from distributed import get_worker

    name = str(get_worker().name)
    os.environ[WORKER_INDEX] = name if name.isdigit() else "0"
    return task(item, _send)


def _gather(
    client: Client, task: Callable[[Item, Report], Result], items: Sequence[Item]
) -> Iterator[tuple[int, Result | WsipipeError]]:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    futures = {client.submit(_run, task, item, pure=False): index for index, item in enumerate(items)}
    for future in as_completed(list(futures)):
        error = future.exception()
        if isinstance(error, KilledWorker):
            yield (
                futures[future],
                WorkerLostError("the worker process died", remedy="often out of memory: use fewer --workers"),
            )
        else:
            yield futures[future], future.result()


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            raise WsipipeError(
                f"no dask scheduler answers at {scheduler}: {error}", remedy="start one with `dask scheduler`"
            ) from error
        with client:
            yield client
        return
    with (
        dask.config.set(_local_settings(workers)),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _local_settings(workers: int) -> dict[str, object]:
    """Workers share the cores that this process may use; without this dask gives each process a single thread."""
    from wsipipe.numerics.solvers.tasks import available_threads

    threads = str(max(1, available_threads() // workers))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {
        "distributed.scheduler.allowed-failures": _SECOND_CHANCES,
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads),
    }


def _send(progress: Progress, /) -> None:
    """Report from a worker: travels to the client as an event."""
    from distributed import get_worker

    event = (progress.item, progress.stage, progress.done, progress.total)
    get_worker().log_event(_TOPIC, event)


def _receive(report: Report, event: Any) -> None:  # noqa: ANN401 - what distributed hands over
    _, content = event
    report(Progress(*content))
