"""The lock table (UP-9, DL-6): a state machine against a plain model, then real threads."""

from __future__ import annotations

import random
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from typing import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kcistorage import LockTable, Refusal, Refused

BUSY: Refusal = (409, "busy", "Busy")
KEYS = st.sampled_from(["a", "a/b", "ü"])


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Waits for what another thread is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        threading.Event().wait(0.001)


def waiting(table: LockTable, key: str) -> int:
    state = table._keys.get(key)
    return len(state.waiting) if state else 0


class LockTableModel(RuleBasedStateMachine):
    """Invariant: nobody gets a key that the model would not give, and the table holds just the keys in use."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LockTable()
        self.held: list[tuple[str, bool, ExitStack]] = []

    def holders(self, key: str) -> list[bool]:
        return [shared for held, shared, _ in self.held if held == key]

    @rule(key=KEYS, shared=st.booleans())
    def acquire(self, key: str, shared: bool) -> None:
        take = self.table.reading if shared else self.table.holding
        free = all(self.holders(key)) if shared else not self.holders(key)
        stack = ExitStack()
        if free:
            stack.enter_context(take(key, 0, BUSY))
            self.held.append((key, shared, stack))
        else:
            with pytest.raises(Refused) as refused:
                stack.enter_context(take(key, 0, BUSY))
            assert refused.value.reason == "busy"

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        _, _, stack = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        stack.close()

    @invariant()
    def holds_only_keys_in_use(self) -> None:
        assert len(self.table) == len({key for key, _, _ in self.held})


TestLockTableModel = LockTableModel.TestCase


class Holder:
    """A thread that has or awaits a lock until it is told to let go."""

    def __init__(self, lock: AbstractContextManager[None]) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.refused: list[Refused] = []
        self._lock = lock
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self._lock:
                self.entered.set()
                self.leave.wait(10)
        except Refused as error:
            self.refused.append(error)

    def end(self) -> None:
        self.leave.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


def test_readers_share_and_a_writer_waits_for_them() -> None:
    table = LockTable()
    readers = [Holder(table.reading("k", 5, BUSY)) for _ in range(3)]
    assert all(reader.entered.wait(5) for reader in readers)
    writer = Holder(table.holding("k", 5, BUSY))
    until(lambda: waiting(table, "k") == 1)
    for reader in readers:
        assert not writer.entered.is_set()
        reader.end()
    assert writer.entered.wait(5)
    writer.end()
    assert len(table) == 0


def test_a_writer_is_not_starved_by_readers_that_keep_coming() -> None:
    """A reader that comes after a waiting writer stands behind it, although readers are in."""
    table = LockTable()
    first = Holder(table.reading("k", 5, BUSY))
    assert first.entered.wait(5)
    writer = Holder(table.holding("k", 5, BUSY))
    until(lambda: waiting(table, "k") == 1)
    late = [Holder(table.reading("k", 5, BUSY)) for _ in range(3)]
    until(lambda: waiting(table, "k") == 4)
    first.end()
    assert writer.entered.wait(5)
    assert not any(reader.entered.is_set() for reader in late)
    writer.end()
    assert all(reader.entered.wait(5) for reader in late), "the readers behind a writer go in together"
    for reader in late:
        reader.end()
    assert len(table) == 0


def test_a_waiter_that_gives_up_lets_those_behind_it_in() -> None:
    table = LockTable()
    first = Holder(table.reading("k", 5, BUSY))
    assert first.entered.wait(5)
    impatient = Holder(table.holding("k", 0.2, BUSY))
    until(lambda: waiting(table, "k") == 1)
    behind = Holder(table.reading("k", 5, BUSY))
    assert behind.entered.wait(5), "a reader stood behind a writer that gave up"
    impatient.thread.join(5)
    assert [error.status for error in impatient.refused] == [409]
    first.end()
    behind.end()
    assert len(table) == 0


def test_keys_do_not_wait_for_each_other() -> None:
    """UP-9: different keys never wait for each other."""
    table = LockTable()
    with table.holding("a", 0, BUSY), table.holding("b", 0, BUSY), table.reading("c", 0, BUSY):
        assert len(table) == 3


def test_an_exception_inside_the_block_frees_the_key() -> None:
    table = LockTable()
    with pytest.raises(ZeroDivisionError), table.holding("k", 0, BUSY):
        raise ZeroDivisionError
    with table.holding("k", 0, BUSY):
        pass
    assert len(table) == 0


def test_waits_are_reported_and_their_absence_is_not() -> None:
    waits: list[float] = []
    table = LockTable(waits.append)
    with table.holding("k", 0, BUSY):
        assert waits == []
        with pytest.raises(Refused), table.reading("k", 0.05, BUSY):
            pass
    assert len(waits) == 1
    assert waits[0] >= 0.05


def test_stress() -> None:
    """Invariant: under eight threads no writer ever shares its key, nobody is refused, and nothing is left behind."""
    table, keys = LockTable(), ["a", "b"]
    inside: dict[str, list[int]] = {key: [0, 0] for key in keys}  # readers, writers; guarded by `count`
    count = threading.Lock()
    wrong: list[str] = []

    def enter(key: str, role: int, step: int) -> None:
        with count:
            inside[key][role] += step
            readers, writers = inside[key]
            if writers > 1 or (writers and readers):
                wrong.append(f"{key}: {readers} readers, {writers} writers")

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(400):
                key, role = chance.choice(keys), int(chance.random() < 0.4)
                with (table.holding if role else table.reading)(key, 30, BUSY):
                    enter(key, role, 1)
                    enter(key, role, -1)
        except Refused:
            wrong.append("refused")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(table) == 0
