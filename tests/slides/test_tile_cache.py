"""Decoded tiles: bounded, least recently used, shared between threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wsipipe.slides.tile_cache import TileCache, tile_buffers

SHAPE = (4, 5, 3)
BYTES = 60


def put(cache, key, *, px=5, value=0):
    slot = cache.room(SHAPE)
    slot.pixels[...] = value
    cache.keep(slot, key, px, of_px=20)


def kept(cache):
    """Keys in the order in which they would go."""
    return list(cache._kept)


def test_never_more_slots_than_fit():
    cache = TileCache(BYTES, 5 * BYTES + 7)
    for key in range(50):
        put(cache, key)
    assert len(cache) == 5
    assert kept(cache) == [45, 46, 47, 48, 49]


def test_found_tiles_stay_longer():
    cache = TileCache(BYTES, 3 * BYTES)
    for key in "abc":
        put(cache, key)
    cache.release(cache.find("a", 5))
    put(cache, "d")
    assert kept(cache) == ["c", "a", "d"]


def test_tiles_that_were_handed_out_whole_go_first():
    cache = TileCache(BYTES, 3 * BYTES)
    for key in "abc":
        put(cache, key, px=10)
    cache.release(cache.find("c", 10))
    assert kept(cache)[0] == "c"
    put(cache, "d")
    assert kept(cache) == ["a", "b", "d"]


def test_cleared_of_all_tiles_but_those_in_use():
    cache = TileCache(BYTES, 3 * BYTES)
    for key in "abc":
        put(cache, key, value=ord(key))
    held = cache.find("b", 5)
    cache.clear()
    assert kept(cache) == ["b"]
    assert (held.pixels == ord("b")).all()
    for key in "def":  # as many fit as before
        put(cache, key)
    assert kept(cache) == ["b", "e", "f"]
    cache.release(held)


def test_tiles_in_use_are_not_written_over():
    cache = TileCache(BYTES, 2 * BYTES)
    put(cache, "a", value=7)
    held = cache.find("a", 20)
    for key in "bcd":
        put(cache, key, value=9)
    assert (held.pixels == 7).all()
    other = cache.find("d", 1)
    assert cache.room(SHAPE) is None
    cache.release(other)
    assert cache.room(SHAPE) is other


def test_room_comes_back_where_a_tile_cannot_be_read():
    cache = TileCache(BYTES, BYTES)
    for _ in range(3):
        cache.give_up(cache.room(SHAPE))
    assert len(cache) == 0
    put(cache, "a")
    assert kept(cache) == ["a"]


def test_no_room_at_all():
    assert TileCache(BYTES, BYTES - 1).room(SHAPE) is None


def test_many_threads():
    """Every tile found holds its own number, however many come and go."""
    cache = TileCache(BYTES, 6 * BYTES)

    def use(seed):
        for key in np.random.default_rng(seed).integers(0, 12, 400).tolist():
            slot = cache.find(key, 3)
            if slot is None:
                put(cache, key, value=key)
                continue
            assert (slot.pixels == key).all()
            cache.release(slot)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(4)))
    assert len(cache) <= 6


def test_buffers_are_apart_and_start_where_they_should():
    buffers = tile_buffers(3, 100)
    for value, buffer in enumerate(buffers):
        buffer[:] = value
    assert [buffer.tolist() for buffer in buffers] == [[value] * 100 for value in range(3)]
    assert {buffer.ctypes.data % 32 for buffer in buffers} == {16}
