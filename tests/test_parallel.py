"""Tasks in this process, in local workers and on a running cluster; progress comes home; a dead worker is told."""

from __future__ import annotations

import functools
import os
import signal

import pytest
from distributed import LocalCluster

from wsipipe.errors import WsipipeError
from wsipipe.numerics.solvers.tasks import available_threads
from wsipipe.parallel import WorkerLostError, map_items, spread
from wsipipe.progress import Progress


def square(item, report):
    report(Progress(str(item), "square", 1, 1))
    return item * item, os.getpid()


def die(item, report):
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_one_worker_stays_in_this_process():
    seen = []
    results = dict(map_items(square, [3, 4], report=seen.append))
    assert results == {0: (9, os.getpid()), 1: (16, os.getpid())}
    assert seen == [Progress("3", "square", 1, 1), Progress("4", "square", 1, 1)]


@pytest.mark.filterwarnings("ignore")
def test_workers_are_other_processes_and_report_here():
    seen = []
    results = dict(map_items(square, [3, 4, 5], workers=2, report=seen.append))
    assert {index: value for index, (value, _) in results.items()} == {0: 9, 1: 16, 2: 25}
    assert os.getpid() not in {pid for _, pid in results.values()}
    assert {progress.item for progress in seen} == {"3", "4", "5"}


@pytest.mark.filterwarnings("ignore")
def test_a_running_cluster_is_used():
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        results = dict(map_items(square, [2], scheduler=cluster.scheduler_address))
    assert results[0][0] == 4


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_dies_costs_only_its_item():
    results = dict(map_items(die, [0, 1, 2], workers=2))
    assert isinstance(results[1], WorkerLostError)
    assert (results[0], results[2]) == (0, 2)


@pytest.mark.filterwarnings("ignore")
def test_an_absent_scheduler_is_named(monkeypatch):
    monkeypatch.setattr("wsipipe.parallel._CONNECT_S", 1)
    with pytest.raises(WsipipeError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        dict(map_items(square, [1], scheduler="tcp://127.0.0.1:9"))


def place(item, report):
    import torch

    return os.environ.get("WSIPIPE_WORKER_INDEX"), torch.get_num_threads()


@pytest.mark.filterwarnings("ignore")
def test_workers_know_their_number_and_share_the_cores():
    """Several workers take a GPU each, and all cores between them."""
    results = dict(map_items(place, list(range(6)), workers=2))
    assert {index for index, _ in results.values()} <= {"0", "1"}
    assert {threads for _, threads in results.values()} == {max(1, available_threads() // 2)}


# --- rounds of tasks -------------------------------------------------------------------------------------------------


def add(term, item):
    return item + term, os.getpid()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_this_process_do_rounds(threads):
    with spread(threads=threads) as run:
        rounds = [list(run(functools.partial(add, term), range(5))) for term in (0, 10)]
    assert rounds == [[(item + term, os.getpid()) for item in range(5)] for term in (0, 10)]


@pytest.mark.filterwarnings("ignore")
def test_the_same_workers_do_all_rounds():
    with spread(workers=2) as run:
        rounds = [list(run(functools.partial(add, term), range(6))) for term in (0, 10, 20)]
    assert [[value for value, _ in results] for results in rounds] == [
        [item + term for item in range(6)] for term in (0, 10, 20)
    ]
    pids = {pid for results in rounds for _, pid in results}
    assert len(pids) <= 2
    assert os.getpid() not in pids


def die_once(mark, item):
    if item == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return -item


@pytest.mark.filterwarnings("ignore")
def test_a_round_outlives_its_workers(tmp_path):
    with spread(workers=2) as run:
        for number in range(2):
            found = list(run(functools.partial(die_once, tmp_path / str(number)), range(4)))
            assert found == [0, -1, -2, -3]
            assert (tmp_path / str(number)).exists()


def die_always(item):
    return die(item, None)


def refuse(item):
    if item == 2:
        raise WsipipeError("no twos", remedy="take a three")
    return item


@pytest.mark.filterwarnings("ignore")
def test_errors_of_a_round_are_told_in_one_line():
    with spread(workers=2) as run:
        with pytest.raises(WsipipeError, match=r"^no twos \(take a three\)$"):
            list(run(refuse, range(4)))
        with pytest.raises(WorkerLostError, match=r"worker after worker died of the same task \(often out of memory"):
            list(run(die_always, range(3)))
        assert list(run(refuse, [0, 1])) == [0, 1]


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_goes_away_is_told(monkeypatch):
    monkeypatch.setattr("wsipipe.parallel._CONNECT_S", 1)
    local = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(**local) as cluster, spread(scheduler=cluster.scheduler_address) as run:
        assert list(run(refuse, [0, 1])) == [0, 1]
        cluster.close()
        with pytest.raises(WorkerLostError, match="the dask scheduler is gone"):
            list(run(refuse, [0, 1]))
