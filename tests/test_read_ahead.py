"""Reading ahead: in order, bounded, lazy, and honest about errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from wsipipe.read_ahead import read_ahead


@pytest.mark.parametrize("threads", [1, 4])
def test_items_come_in_order_with_their_data(threads: int) -> None:
    def read(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(read_ahead(range(20), read, threads=threads, depth=5)) == [(i, i * i) for i in range(20)]


def test_no_more_than_depth_items_are_in_flight() -> None:
    drawn, taken = [], []

    def items() -> Iterator[int]:
        for i in range(10):
            drawn.append(i)
            assert len(drawn) - len(taken) <= 3
            yield i

    for item, _ in read_ahead(items(), lambda i: i, depth=3):
        taken.append(item)
    assert taken == list(range(10))


def test_the_next_item_is_read_while_the_caller_works() -> None:
    second = threading.Event()
    for item, _ in read_ahead(range(2), lambda i: second.set() if i == 1 else None):
        if item == 0:
            assert second.wait(timeout=5)


def test_an_error_is_raised_at_its_turn_and_nothing_more_is_read() -> None:
    read_items = []

    def read(item: int) -> int:
        read_items.append(item)
        if item == 2:
            raise OSError("torn")
        return item

    ahead = read_ahead(range(100), read, depth=2)
    assert [next(ahead), next(ahead)] == [(0, 0), (1, 1)]
    with pytest.raises(OSError, match="torn"):
        next(ahead)
    assert read_items[:3] == [0, 1, 2]
    assert len(read_items) <= 4


def test_leaving_early_stops_the_threads() -> None:
    before = threading.active_count()
    ahead = read_ahead(range(1000), lambda i: i, threads=2, depth=8)
    assert next(ahead) == (0, 0)
    assert threading.active_count() > before
    ahead.close()
    assert threading.active_count() == before
