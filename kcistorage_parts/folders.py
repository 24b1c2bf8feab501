"""The rule of a tree for a store that has none (UP-4): no key may need an object as a folder, or a folder as an object.

A cloud would take both `a` and `a/b`, but then not every server of the protocol could hold the same keys. What is asked
of the cloud is asked all at once, and goes on while the object comes in. Two uploads at the same moment may still slip
through: the rule is there for people's mistakes, and no object is lost by it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Optional, Protocol

LOOKERS = 8  # requests at once
KNOWN_SECONDS = 60.0  # that something which is no object is taken for none
MOST_KNOWN = 10_000
MOST_SURVEYED = 10_000  # keys of one listing: some 2 MB, and two requests to Azure


class Backend(Protocol):
    """What is asked; azure.py and s3.py say more. Any thread may call anything."""

    def stat(self, key: str) -> Optional[object]: ...
    def keys(self, prefix: str) -> Iterator[str]: ...


def folders_above(key: str) -> list[str]:
    """The outermost first."""
    return list(itertools.accumulate(key.split("/")[:-1], "{}/{}".format))


class Folders:
    """Any thread may call."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._looking = ThreadPoolExecutor(LOOKERS, "folders")
        self._lock = threading.Lock()  # of the next two
        self._known: dict[str, float] = {}  # folders above objects, which are no objects, and since when
        self._begun: dict[str, list[Future[None]]] = {}

    def begin(self, key: str) -> None:
        """Asks ahead for `check`, and does not wait."""
        with self._lock:
            if key not in self._begun:
                self._begun[key] = self._ask(key)

    def _ask(self, key: str) -> list[Future[None]]:
        return [*self._ask_above(key), self._looking.submit(self._refuse_folder, key)]

    def _ask_above(self, key: str) -> list[Future[None]]:
        before = time.monotonic() - KNOWN_SECONDS
        unknown = [folder for folder in folders_above(key) if self._known.get(folder, before) <= before]
        return [self._looking.submit(self._refuse_object, folder) for folder in unknown]

    def check(self, key: str) -> None:
        """Raises ENOTDIR or EISDIR where a key stands against the rule, or what the back end raises."""
        with self._lock:
            looks = self._begun.pop(key, None)
            if looks is None:
                looks = self._ask(key)
        for look in looks:
            look.result()

    def survey(self, keys: Sequence[str]) -> set[str]:
        """Of many keys those that stand with the rule, by one listing. Of the others nobody knows, or `check` tells."""
        base = os.path.commonpath(["/" + os.path.dirname(key) for key in keys])[1:]
        prefix = f"{base}/" if base else ""
        there = list(itertools.islice(self._backend.keys(prefix), MOST_SURVEYED + 1))
        if len(there) > MOST_SURVEYED:
            return set()
        for look in self._ask_above(f"{prefix}x"):
            look.result()
        objects = set(there)
        folders = {folder for key in there for folder in folders_above(key)}
        return {key for key in keys if key not in folders and objects.isdisjoint(folders_above(key))}

    def forget(self, key: str) -> None:
        """What was begun is not needed, or not any more."""
        with self._lock:
            looks = self._begun.pop(key, [])
        for look in looks:
            look.cancel()

    def _refuse_object(self, folder: str) -> None:
        if self._backend.stat(folder) is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with self._lock:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[folder] = time.monotonic()

    def _refuse_folder(self, key: str) -> None:
        below = None
        with contextlib.suppress(PermissionError):  # an account that may not list does without this half of the rule
            below = next(iter(self._backend.keys(f"{key}/")), None)
        if below is not None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))

    def close(self) -> None:
        """Waits for what was asked."""
        self._looking.shutdown()
