"""folders.py: the rule of a tree over a back end that keeps keys in memory (UP-4)."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

import pytest

from kcistorage_parts.folders import Folders


class Container:
    """A back end that counts what it is asked, and answers when its gate is open."""

    def __init__(self, *keys: str) -> None:
        self.held, self.asked, self.gate = set(keys), list[str](), threading.Event()
        self.gate.set()

    def stat(self, key: str) -> Optional[object]:
        self.asked.append(key)
        self.gate.wait(5)
        return key if key in self.held else None

    def keys(self, prefix: str) -> Iterator[str]:
        self.asked.append(prefix)
        self.gate.wait(5)
        return iter(sorted(key for key in self.held if key.startswith(prefix)))


@pytest.fixture
def folders() -> Iterator[tuple[Container, Folders]]:
    container = Container()
    rule = Folders(container)
    yield container, rule
    container.gate.set()
    rule.close()


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns at every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("held", "key", "why"), [("a", "a/b/c", errno.ENOTDIR), ("a/b/c", "a", errno.EISDIR)])
def test_a_key_against_the_rule_is_refused(folders: tuple[Container, Folders], held: str, key: str, why: int) -> None:
    container, rule = folders
    container.held.add(held)
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(why)):
            rule.check(key)
    container.held.clear()
    rule.check(key)


def test_what_is_no_object_is_asked_once(folders: tuple[Container, Folders]) -> None:
    container, rule = folders
    rule.check("a/b/one")
    rule.check("a/b/two")
    assert sorted(container.asked) == ["a", "a/b", "a/b/one/", "a/b/two/"]


def test_what_was_begun_is_not_asked_again(folders: tuple[Container, Folders]) -> None:
    container, rule = folders
    rule.begin("a/b")
    rule.begin("a/b")
    rule.check("a/b")
    assert sorted(container.asked) == ["a", "a/b/"]


def test_a_check_does_not_hang_on_what_another_forgets(folders: tuple[Container, Folders]) -> None:
    container, rule = folders
    container.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        checks = pool.submit(rule.check, "a/b")
        rule.forget("a/b")
        container.gate.set()
        assert checks.result(5) is None


@pytest.mark.usefixtures("restless")
def test_many_check_one_key(folders: tuple[Container, Folders]) -> None:
    """Each has an answer of its own, whoever began to ask."""
    _, rule = folders

    def work() -> None:
        for _ in range(200):
            rule.check("a/b")

    with ThreadPoolExecutor(4) as pool:
        for worked in [pool.submit(work) for _ in range(4)]:
            worked.result(30)
