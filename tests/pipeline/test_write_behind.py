"""Writing behind: in order, in one other thread, bounded, and honest about errors."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from wsipipe.pipeline.write_behind import WriteBehind


def test_writes_come_in_order_from_one_other_thread() -> None:
    seen: list[tuple[int, str]] = []
    with WriteBehind() as behind:
        for i in range(20):
            behind.put(lambda i=i: seen.append((i, threading.current_thread().name)))
    assert [i for i, _ in seen] == list(range(20))
    assert len({name for _, name in seen}) == 1
    assert threading.current_thread().name not in {name for _, name in seen}


def test_the_caller_waits_where_too_much_waits() -> None:
    running, go_on, put = threading.Event(), threading.Event(), []

    def slow() -> None:
        running.set()
        assert go_on.wait(30)

    def fill() -> None:
        with WriteBehind(depth=2) as behind:
            for i in range(3):
                behind.put(slow if i == 0 else lambda: None)
                put.append(i)

    filler = threading.Thread(target=fill)
    filler.start()
    assert running.wait(30)
    filler.join(0.2)
    assert put == [0, 1]
    go_on.set()
    filler.join(30)
    assert put == [0, 1, 2]


def fail() -> None:
    raise ValueError("full")


def test_an_error_is_raised_to_who_writes_on() -> None:
    written: list[int] = []

    def write_on() -> None:
        with WriteBehind(depth=1) as behind:
            behind.put(fail)
            behind.put(partial(written.append, 1))

    with pytest.raises(ValueError, match="full"):
        write_on()
    assert not written


def test_an_error_of_the_last_write_is_raised_at_the_end() -> None:
    with pytest.raises(ValueError, match="full"), WriteBehind() as behind:
        behind.put(fail)


def test_what_was_handed_over_is_written_although_the_work_breaks_off() -> None:
    written: list[int] = []

    def break_off() -> None:
        with WriteBehind() as behind:
            behind.put(partial(written.append, 1))
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert written == [1]
