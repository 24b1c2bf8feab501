"""Crew: the threads that connections are given to, and those among them that let connections in."""

from __future__ import annotations

import contextlib
import itertools
import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Optional
from unittest.mock import Mock

import pytest

import kcistorage
from kcistorage import Connection, Crew
from kcistorage_test.conftest import Running, Start
from kcistorage_test.talk import Peer
from kcistorage_test.test_handlers import until


class Work:
    """Jobs: each is a number, and is done when its gate opens."""

    def __init__(self) -> None:
        self.crew = Crew()
        self.served: dict[int, threading.Thread] = {}
        self._gates: dict[int, threading.Event] = {}

    def give(self, number: int) -> None:
        self._gates[number] = threading.Event()
        self.crew.employ(partial(self._serve, number))

    def end(self, number: int) -> threading.Thread:
        self._gates[number].set()
        until(lambda: number in self.served)
        return self.served[number]

    def _serve(self, number: int) -> None:
        assert self._gates[number].wait(10)
        self.served[number] = threading.current_thread()


def test_an_idle_thread_gets_the_next_job() -> None:
    work = Work()
    threads = set()
    for number in range(5):
        work.give(number)
        threads.add(work.end(number))
        until(lambda: work.crew._idle == 1)
    assert len(threads) == 1


def test_nobody_waits_for_a_thread_that_is_busy() -> None:
    work = Work()
    for number in range(20):
        work.give(number)
    assert len({work.end(number) for number in reversed(range(20))}) == 20


def test_a_few_threads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcistorage, "MOST_IDLE_THREADS", 3)
    work = Work()
    for number in range(10):
        work.give(number)
    threads = [work.end(number) for number in range(10)]
    until(lambda: sum(thread.is_alive() for thread in threads) == 3)
    assert work.crew._idle == 3


def test_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kcistorage, "IDLE_THREAD_SECONDS", 0.01)
    work = Work()
    work.give(1)
    thread = work.end(1)
    until(lambda: not thread.is_alive())
    work.give(2)
    assert work.end(2) is not thread


def test_a_job_given_to_a_thread_that_is_about_to_end_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment: threads end all the time here."""
    monkeypatch.setattr(kcistorage, "IDLE_THREAD_SECONDS", 0.000_1)
    done, crew = threading.Semaphore(0), Crew()
    for _ in range(3_000):
        crew.employ(done.release)
        assert done.acquire(timeout=10), "nobody came"


def test_a_fault_costs_its_connection_alone(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread lives on for others, and the log has it."""
    faults = itertools.count()
    serve = Connection.serve

    def fail_once(connection: Connection) -> None:
        try:
            if next(faults) == 0:
                raise ZeroDivisionError
        finally:
            serve(connection)

    monkeypatch.setattr(Connection, "serve", fail_once)
    for _ in range(3):
        with server.peer() as peer:
            assert peer.get("/nothing").status == 404
    until(lambda: sum("connection-failed" in line for line in server.log()) == 1)


# ---- The door


@pytest.fixture
def slow(start: Start, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A server that has no lobby: each connection takes a thread, as with a cloud."""
    monkeypatch.delattr(select, "epoll")
    return start()


def visit(server: Running) -> None:
    with server.peer() as peer:
        assert peer.get("/nothing").status == 404


def visited_by(server: Running, crowd: int) -> None:
    with contextlib.ExitStack() as staying:
        for peer in [staying.enter_context(server.peer()) for _ in range(crowd)]:
            assert peer.get("/nothing").status == 404
    until(lambda: not server.server.connections)


def test_who_lets_a_connection_in_serves_it(slow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """And comes back to the door: two are enough for clients that come one after the other."""
    let_in, served = list[threading.Thread](), list[threading.Thread]()
    place, serve = slow.server._place, Connection.serve

    def noted_place(*arguments: Any) -> Optional[Connection]:
        let_in.append(threading.current_thread())
        return place(*arguments)

    def noted_serve(connection: Connection) -> None:
        served.append(threading.current_thread())
        serve(connection)

    monkeypatch.setattr(slow.server, "_place", noted_place)
    monkeypatch.setattr(Connection, "serve", noted_serve)
    for _ in range(6):
        visit(slow)
        until(lambda: slow.server._at_door == 2)
    assert served == let_in
    assert len(served) == 6
    assert len(set(served)) == 2


def test_after_a_crowd_a_few_are_at_the_door(slow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next few connections wake one thread each. Who is not needed there is idle."""
    for _ in range(3):
        visited_by(slow, 20)
        until(lambda: slow.server._at_door == kcistorage.MOST_AT_DOOR)
        until(lambda: slow.server._crew._idle == kcistorage.MOST_IDLE_THREADS)
    monkeypatch.setattr(slow.server, "_delegate", Mock(side_effect=AssertionError("nobody else is needed")))
    visited_by(slow, kcistorage.MOST_AT_DOOR - 1)


def test_many_come_and_go_at_once(slow: Running) -> None:
    """Whatever the order in which threads leave the door and come back: somebody is there."""
    with ThreadPoolExecutor(12) as pool:
        for visited in [pool.submit(visit, slow) for _ in range(600)]:
            visited.result()
    until(lambda: slow.server._at_door == kcistorage.MOST_AT_DOOR)


def test_the_door_is_open_while_others_are_served(slow: Running) -> None:
    with contextlib.ExitStack() as crowd:
        peers = [crowd.enter_context(slow.peer()) for _ in range(20)]
        for peer in reversed(peers):
            assert peer.get("/nothing").status == 404


def test_who_finds_no_other_for_the_door_stays_there(slow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection pays for it, and the log has it."""
    monkeypatch.setattr(kcistorage, "MOST_IDLE_THREADS", 0)
    with monkeypatch.context() as patched, slow.peer() as before:
        assert before.get("/nothing").status == 404  # by the first one at the door; a second one is there now
        until(lambda: slow.server._at_door == 1)
        patched.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        for _ in range(2):
            with slow.peer() as peer, contextlib.suppress(ConnectionResetError):
                assert peer.rest() == b""
    until(lambda: sum("new thread" in line for line in slow.log()) == 2)
    with slow.peer() as peer:
        assert peer.get("/nothing").status == 404


def test_a_fault_at_the_door_costs_one_connection(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(server.server, "_place", Mock(side_effect=ZeroDivisionError))
        with server.peer() as peer, contextlib.suppress(ConnectionResetError):
            assert peer.rest() == b""
    assert "ZeroDivisionError" in server.wait_for_log("connection-failed")
    with server.peer() as peer:
        assert peer.get("/nothing").status == 404


def other_server(server: Running, seconds: float) -> tuple[kcistorage.StorageServer, threading.Thread]:
    """One more, on the same storage, whose door is looked at every so often."""
    site, log, metrics = server.server.site, server.server.log, server.server.metrics
    other = kcistorage.StorageServer(("127.0.0.1", 0), site, log, metrics)
    thread = threading.Thread(target=other.serve_forever, args=(seconds,))
    thread.start()
    return other, thread


def test_nobody_waits_for_a_server_that_is_deaf(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What should never happen ends it, and is told: whoever started it can start it again."""
    told = list[threading.ExceptHookArgs]()
    monkeypatch.setattr(threading, "excepthook", told.append)
    other, thread = other_server(server, 0.01)
    monkeypatch.setattr(other, "get_request", Mock(side_effect=ZeroDivisionError))
    thread.join(10)
    assert not thread.is_alive()
    until(lambda: {arguments.exc_type for arguments in told} == {ZeroDivisionError})
    with pytest.raises(ConnectionRefusedError):
        Peer(("127.0.0.1", other.server_port))
    assert other.stop(10)


def test_the_end_is_not_a_matter_of_looking_often(server: Running) -> None:
    """CF-3: who waits at the door is told that it closes."""
    other, thread = other_server(server, 60)
    with Peer(("127.0.0.1", other.server_port)) as peer:
        assert peer.get("/nothing").status == 404
    began = time.monotonic()
    assert other.stop(10)
    thread.join(10)
    assert time.monotonic() - began < 10
    with pytest.raises(ConnectionRefusedError):
        Peer(("127.0.0.1", other.server_port))
