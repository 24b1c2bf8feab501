"""Where objects were found last (SO-10): in memory, and in a memcached that may say anything, or nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

import pytest

from kcistorage_parts import locations
from kcistorage_parts.locations import Locations, Shared, host_and_port
from kcistorage_test import memcached
from kcistorage_test.parts_at_hand import needs_library
from kcistorage_test.test_stor import CONTENT, SHA, Served, StartStor, get, start_stor

__all__ = ["start_stor"]  # a fixture

NAMES = ["/mnt/data1", "/mnt/data3"]


# ---- In memory


def test_what_is_remembered() -> None:
    known = Locations()
    assert (known.get("a"), known.near("a")) == (None, None)
    known.put("a", 3)
    known.put("a", 1)
    known.put("b", 0)
    assert [known.get(sha) for sha in "abc"] == [1, 0, None]
    assert [known.near(sha) for sha in "abc"] == [1, 0, None]


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was learnt first is forgotten first; learning it once more is no news, a change is."""
    monkeypatch.setattr(locations, "MOST", 10)
    known = Locations()
    for number in range(10):
        known.put(str(number), 0)
    known.put("0", 0)
    known.put("1", 1)
    for number in range(10, 15):
        known.put(str(number), 0)
    assert [number for number in range(15) if known.get(str(number)) is not None] == [1, *range(6, 15)]


def test_many_threads() -> None:
    known = Locations()

    def learn(thread: int) -> None:
        for number in range(2_000):
            known.put(str(number), thread)
            assert known.get(str(number)) is not None

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(learn, range(4)))


# ---- The names of servers


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ("cache", ("cache", 11_211)),
        ("cache.example.org:1234", ("cache.example.org", 1_234)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]", ("::1", 11_211)),
        ("[::1]:65535", ("::1", 65_535)),
    ],
)
def test_a_server(server: str, found: tuple[str, int]) -> None:
    assert host_and_port(server) == found


@pytest.mark.parametrize(
    "server", ["", ":", ":1", "host:", "host:x", "host:0", "host:65536", "host:-1", "[]", "host:²"]
)
def test_what_is_no_server(server: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        host_and_port(server)


# ---- Shared through a real memcached


@pytest.fixture(scope="module")
def cache() -> Iterator[memcached.Memcached]:
    needs_library("pymemcache")
    with memcached.running() as server:
        yield server


@pytest.fixture
def empty(cache: memcached.Memcached) -> memcached.Memcached:
    assert cache.ask(b"flush_all\r\n") == b"OK\r\n"
    return cache


def shared(server: str, failed: Optional[list[str]] = None) -> Shared:
    return Shared([server], NAMES, (failed if failed is not None else list[str]()).append)


def learnt(cache: memcached.Memcached, sha: str, name: bytes) -> None:
    """Waits: nobody is told that memcached has it."""
    deadline = time.monotonic() + 5
    while cache.get(f"stor:{sha}") != name:
        assert time.monotonic() < deadline


def test_what_one_server_learns_another_knows(empty: memcached.Memcached) -> None:
    """SO-10: by the name of the pair, whose number may be another one there."""
    one, two = shared(empty.server), Shared([empty.server], NAMES[::-1])
    assert two.get("a" * 64) is None
    one.put("a" * 64, 1)
    learnt(empty, "a" * 64, b"/mnt/data3")
    assert (two.near("a" * 64), two.get("a" * 64)) == (None, 0)
    one.put("a" * 64, 0)
    learnt(empty, "a" * 64, b"/mnt/data1")
    assert two.get("a" * 64) == 1
    for each in (one, two):
        each.close()


@pytest.mark.parametrize(
    "value", [b"", b"/mnt/data9", b"0", b"\xff\xfe", b"x" * 100_000, b"\r\nEND\r\n", b"/mnt/data1 "]
)
def test_values_that_are_none(empty: memcached.Memcached, value: bytes) -> None:
    """SO-10: somebody else's, or of a configuration of the past."""
    failed: list[str] = []
    empty.set("stor:x", value)
    empty.set("stor:y", b"/mnt/data3")
    known = shared(empty.server, failed)
    assert known.get("x") is None
    assert known.get("y") == 1, "it goes on"
    assert failed == []
    known.close()


@pytest.mark.parametrize(
    "answer",
    [b"", b"SERVER_ERROR out of memory\r\n", b"ERROR\r\n", b"garbage", b"\0" * 1_000, b"VALUE stor:x 0 5\r\nab"],
)
def test_a_server_that_speaks_something_else(answer: bytes) -> None:
    """SO-10: that is told once, and it is left alone for a while."""
    failed: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1_000)
                connection.sendall(answer)

        spoken = pool.submit(speak)
        known = shared(f"127.0.0.1:{listener.getsockname()[1]}", failed)
        assert known.get("x") is None
        spoken.result(5)
        for _ in range(100):
            assert known.get("x") is None
            known.put("y", 1)
        assert known.get("y") == 1, "out of its own memory"
    known.close()
    assert len(failed) == 1


def test_a_server_that_is_down_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """SO-10."""
    needs_library("pymemcache")
    failed: list[str] = []
    with memcached.running() as cache:
        known = shared(cache.server, failed)
        known.put("x", 1)
        learnt(cache, "x", b"/mnt/data3")
        cache.kill()
        for number in range(20):
            known.put(f"y{number}", 1)
            assert known.get(f"z{number}") is None
        assert len(failed) == 1
        cache.start()
        cache.set("stor:z", b"/mnt/data3")
        assert known.get("z") is None, "not yet"
        now, slept = time.monotonic(), time.time()
        monkeypatch.setattr(time, "monotonic", lambda: now + locations.RESTING_SECONDS + 1)
        monkeypatch.setattr(time, "time", lambda: slept + locations.RESTING_SECONDS + 1)
        assert known.get("z") == 1
        known.close()


def test_a_server_that_hangs_costs_one_wait(empty: memcached.Memcached) -> None:
    """SO-10: of TIMEOUT_SECONDS, and perhaps one more to connect."""
    failed: list[str] = []
    with memcached.running() as cache:
        cache.freeze()
        known = shared(cache.server, failed)
        began = time.monotonic()
        for number in range(50):
            assert known.get(f"{number}") is None
        assert time.monotonic() - began < 2 * locations.TIMEOUT_SECONDS + 1
        assert len(failed) == 1
        known.close()


# ---- Through the server


def near(server: Served) -> Optional[int]:
    handler = server.server.site._otherwise["GET"]
    return handler._objects._locations.near(SHA)  # type: ignore[attr-defined, no-any-return]


def test_a_second_server_finds_the_place(start_stor: StartStor, empty: memcached.Memcached) -> None:
    """SO-10."""
    one = start_stor(memcached_servers=(empty.server,))
    one.by_hand(pair=1)
    assert get(one).body == CONTENT
    learnt(empty, SHA, str(one.pairs[1][0]).encode())
    two = start_stor(one, memcached_servers=(empty.server,))
    looked: list[int] = []
    open_at = two.storages.open

    def watched(sha: str, first: int = 0) -> object:
        looked.append(first)
        return open_at(sha, first)

    two.storages.open = watched  # type: ignore[method-assign, assignment]
    assert get(two).body == CONTENT
    assert looked == [1]
    assert near(two) == 1


@pytest.mark.parametrize("value", [b"/nowhere", b"\xff", b"pair 0"])
def test_a_wrong_place_is_no_hindrance(start_stor: StartStor, empty: memcached.Memcached, value: bytes) -> None:
    """SO-10: it was a hint; and afterwards it is right."""
    one = start_stor(memcached_servers=(empty.server,))
    one.by_hand(pair=1)
    empty.set(f"stor:{SHA}", str(one.pairs[0][0]).encode() if value == b"pair 0" else value)
    assert get(one).body == CONTENT
    learnt(empty, SHA, str(one.pairs[1][0]).encode())


@pytest.mark.parametrize("state", ["down", "hangs"])
def test_without_memcached_everything_is_served(start_stor: StartStor, state: str) -> None:
    """SO-10: quickly, and that is told."""
    needs_library("pymemcache")
    with memcached.running() as cache:
        (cache.kill if state == "down" else cache.freeze)()
        server = start_stor(memcached_servers=(cache.server,))
        server.by_hand(pair=1)
        began = time.monotonic()
        for _ in range(20):
            assert get(server).body == CONTENT
            assert get(server, "0" * 64).status == 404
        assert time.monotonic() - began < 3
        server.wait_for_log("event=memcached-failed")
    assert sum("event=memcached-failed" in line for line in server.log()) == 1
