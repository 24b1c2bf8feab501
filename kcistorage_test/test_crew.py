"""Crew: the threads that connections are given to."""

from __future__ import annotations

import itertools
import threading
from typing import Any, cast

import pytest

import kcistorage
from kcistorage import Connection, Crew
from kcistorage_test.conftest import Running
from kcistorage_test.test_handlers import until


class Work:
    """Stands for connections: each is a number, and is served when its gate opens."""

    def __init__(self) -> None:
        self.crew = Crew(self._serve)
        self.served: dict[int, threading.Thread] = {}
        self._gates: dict[int, threading.Event] = {}

    def give(self, number: int) -> None:
        self._gates[number] = threading.Event()
        self.crew.employ(cast(Connection, number))

    def end(self, number: int) -> threading.Thread:
        self._gates[number].set()
        until(lambda: number in self.served)
        return self.served[number]

    def _serve(self, connection: Any) -> None:
        assert self._gates[connection].wait(10)
        self.served[connection] = threading.current_thread()


def test_an_idle_thread_gets_the_next_connection() -> None:
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


def test_a_connection_given_to_a_thread_that_is_about_to_end_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment: threads end all the time here."""
    monkeypatch.setattr(kcistorage, "IDLE_THREAD_SECONDS", 0.000_1)
    served, count = threading.Semaphore(0), itertools.count()
    crew = Crew(lambda connection: served.release())
    for _ in range(3_000):
        crew.employ(cast(Connection, next(count)))
        assert served.acquire(timeout=10), "nobody came"


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
